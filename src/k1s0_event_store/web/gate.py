"""In front of all pages: whether a request gets in."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from k1s0_event_store.web.access import TokenAccess
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.rendering import here, render, url

_OPEN: Final = ("/static/", "/login")


class Gate:
    """Refuses with a page, or sends on to the login. Static files are for all: they tell nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = await _refusal(Request(scope, receive)) if scope["type"] == "http" else None
        await (self._app if refused is None else refused)(scope, receive, send)


async def _refusal(request: Request) -> Response | None:
    path: str = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    reason = None if path.startswith(_OPEN) else await browser_of(request).access.refusal(request)
    return None if reason is None else _refused(request, reason)


def _refused(request: Request, reason: str) -> Response:
    if not isinstance(browser_of(request).access, TokenAccess):
        return render(request, "error.html", 403, title="No entry", text=reason)
    is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if not is_page or "hx-request" in request.headers:
        return render(request, "error.html", 401, title="Log in first", text=reason)
    return RedirectResponse(url(request, "login", next=here(request)), 303)
