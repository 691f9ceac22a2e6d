"""Who may look: this machine, who knows the token, whom a proxy vouches for, or whom the app lets in."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol

from starlette.requests import Request

from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.web.sessions import Sessions

Allow = Callable[[Request], Awaitable[bool]]

SHORTEST_TOKEN: Final = 16
_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_WRONG_TOKENS: Final = 10
_PER_SECONDS: Final = 60.0
_MOST_CLIENTS: Final = 1_000


class Access(Protocol):
    """Decides on every request, but for the static files."""

    async def refusal(self, request: Request) -> str | None:
        """Why this request is refused; None: it is not."""
        ...


@dataclass(frozen=True)
class LoopbackAccess:
    """Requests of this machine alone.

    The name in `Host` must be this machine's: a page of another site whose name was made to point
    here (DNS rebinding) sends its own. What came through a proxy is not of this machine.
    """

    async def refusal(self, request: Request) -> str | None:
        host = _host_name(request.headers.get("host", ""))
        is_forwarded = any(name in request.headers for name in _FORWARDED)
        if is_loopback(host) and is_loopback(_client(request)) and not is_forwarded:
            return None
        return (
            "Only this machine may look, by the name localhost or its address. To look from elsewhere, start "
            "the browser with a token or behind a proxy that says who asks."
        )


@dataclass(frozen=True)
class TokenAccess:
    """Who has logged in with the token, or sends it along (`Authorization: Bearer`), as programs do."""

    token: str = field(repr=False)
    sessions: Sessions
    wrong: WrongTokens = field(default_factory=lambda: WrongTokens())

    def __post_init__(self) -> None:
        if len(self.token) < SHORTEST_TOKEN:
            raise ConfigurationError(
                f"a token needs at least {SHORTEST_TOKEN} characters, so that nobody guesses it: make one "
                "with `python -c 'import secrets; print(secrets.token_urlsafe())'`"
            )

    async def refusal(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and not self.must_wait(request):
            return None if self.accepts(request, token.strip()) else "That is not the token."
        return None if self.sessions.current(request) else "Log in first."

    def must_wait(self, request: Request) -> bool:
        """Whether whoever asks has guessed too often."""
        return self.wrong.must_wait(_client(request))

    def accepts(self, request: Request, token: str) -> bool:
        """Whether this is the token, found out in the same time for any answer; wrong ones are counted."""
        given, expected = (hashlib.sha256(text.encode()).digest() for text in (token, self.token))
        is_right = hmac.compare_digest(given, expected)
        if not is_right:
            self.wrong.add(_client(request))
        return is_right


class WrongTokens:
    """Counts wrong tokens: ten in a minute, then a client has to wait."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def must_wait(self, client: str) -> bool:
        """Whether this client has guessed too often."""
        times = self._times.get(client, ())
        return sum(time > self._clock() - _PER_SECONDS for time in times) >= _WRONG_TOKENS

    def add(self, client: str) -> None:
        """One more wrong token."""
        self._times.setdefault(client, deque(maxlen=_WRONG_TOKENS)).append(self._clock())
        self._times.move_to_end(client)
        if len(self._times) > _MOST_CLIENTS:
            self._times.popitem(last=False)


@dataclass(frozen=True)
class ProxyAccess:
    """Whoever comes with the header that a proxy sets after it has found out who asks."""

    header: str

    async def refusal(self, request: Request) -> str | None:
        if request.headers.get(self.header, "").strip():
            return None
        return f"The proxy in front of this page has not said who asks (header {self.header})."


@dataclass(frozen=True)
class AppAccess:
    """Whoever the app lets in."""

    allow: Allow

    async def refusal(self, request: Request) -> str | None:
        return None if await self.allow(request) else "You may not look at this."


def access_by(token: str | None, user_header: str | None, allow: Allow | None, sessions: Sessions) -> Access:
    """The one way that was chosen; without one, only this machine gets in. Raises ConfigurationError."""
    chosen = [name for name, way in (("token", token), ("user_header", user_header), ("allow", allow)) if way]
    if len(chosen) > 1:
        raise ConfigurationError(f"give one of {' and '.join(chosen)}, not both")
    if token is not None:
        return TokenAccess(token, sessions)
    if user_header is not None:
        return ProxyAccess(_header_name(user_header))
    return LoopbackAccess() if allow is None else AppAccess(allow)


def _client(request: Request) -> str:
    return "" if request.client is None else request.client.host


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine to this machine alone."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """The header `Host` without its port."""
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def _header_name(name: str) -> str:
    if not name or not all(char.isalnum() or char in "-_" for char in name) or not name.isascii():
        raise ConfigurationError(f"a proxy's header is a name like X-Forwarded-User, not {name!r}")
    return name
