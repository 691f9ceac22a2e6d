"""Signed cookies and the tokens of forms. Nothing is kept on the server."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from time import time
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "k1s0_event_browser"
_LIFETIME: Final = 12 * 3600


@dataclass(frozen=True)
class Sessions:
    """Sessions of one secret. Processes that serve the same pages need the same one."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @classmethod
    def of_text(cls, text: str) -> Sessions:
        """Sessions whose secret comes from a text that all processes know."""
        return cls(hashlib.sha256(b"k1s0-event-browser\0" + text.encode()).digest())

    def current(self, request: Request) -> str | None:
        """The session of a request, None where its cookie is missing, forged or too old."""
        session, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        if not _same(signature, self._sign("session", session)):
            return None
        expires = session.rpartition(".")[2]
        return session if expires.isdecimal() and int(expires) > time() else None

    def new(self) -> str:
        """A session that begins now."""
        return f"{secrets.token_hex(32)}.{int(time()) + _LIFETIME}"

    def keep(self, session: str, request: Request, response: Response) -> None:
        """Have the browser send the cookie of a session from now on."""
        response.set_cookie(
            COOKIE,
            f"{session}.{self._sign('session', session)}",
            max_age=_LIFETIME,
            path=request.scope.get("root_path") or "/",
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
            httponly=True,
            samesite="strict",
        )

    def end(self, request: Request, response: Response) -> None:
        """Have the browser forget its cookie."""
        response.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/", samesite="strict")

    def form_token(self, session: str) -> str:
        """What a form of this session must send along."""
        return self._sign("form", session)

    def check_form(self, request: Request, token: str) -> None:
        """Raises HTTPException (403) unless the form is one of ours, shown to this session."""
        session = self.current(request)
        if session is None or not _same(token, self.form_token(session)):
            raise HTTPException(403, "this form was not shown to you, or it is too old: load the page again")
        check_same_origin(request)

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self.secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def check_same_origin(request: Request) -> None:
    """Raises HTTPException (403) if a page of another site has sent this request."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site in {"same-origin", "none"}
    else:
        is_ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not is_ours:
        raise HTTPException(403, "this form was sent by a page of another site")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
