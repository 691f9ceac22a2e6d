"""In with the token, and out again."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from k1s0_event_store.web.access import TokenAccess
from k1s0_event_store.web.browser import Browser, browser_of
from k1s0_event_store.web.parameters import form_of, query_of
from k1s0_event_store.web.rendering import render, url
from k1s0_event_store.web.sessions import check_same_origin


async def show(request: Request) -> Response:
    """Asks for the token."""
    _access(browser_of(request))
    return render(request, "login.html", next=_inside(query_of(request).exactly("next")), is_wrong=False)


async def log_in(request: Request) -> Response:
    """Begins a session, and leads back to where one wanted to go."""
    browser = browser_of(request)
    access = _access(browser)
    check_same_origin(request)
    form = await form_of(request)
    if access.must_wait(request):
        raise HTTPException(429, "too many wrong tokens: wait a minute", {"Retry-After": "60"})
    onward = _inside(form.exactly("next"))
    if not access.accepts(request, form.exactly("token")):
        return render(request, "login.html", 401, next=onward, is_wrong=True)
    answer = RedirectResponse(request.scope.get("root_path", "") + onward, 303)
    browser.sessions.keep(browser.sessions.new(), request, answer)
    return answer


async def log_out(request: Request) -> Response:
    """Ends the session of this browser."""
    check_same_origin(request)
    answer = RedirectResponse(url(request, "login"), 303)
    browser_of(request).sessions.end(request, answer)
    return answer


def _access(browser: Browser) -> TokenAccess:
    if not isinstance(browser.access, TokenAccess):
        raise HTTPException(404)
    return browser.access


def _inside(path: str) -> str:
    """A path of ours; a login must not lead to another site."""
    is_ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_ours else "/"
