"""Subscriptions: how far they are, what they could not handle, and an operator's hand on them."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.subscription import check_subscription_name
from k1s0_event_store.web.actions import ACTIONS, Action, Target, possible
from k1s0_event_store.web.browser import Browser, browser_of
from k1s0_event_store.web.parameters import Parameters, form_of, query_of
from k1s0_event_store.web.pictures import line
from k1s0_event_store.web.rendering import render, url

_MOST_PARKED: Final = 100
_MOST_VERSIONS: Final = 2**31 - 1


async def show_all(request: Request) -> Response:
    """All subscriptions."""
    browser = browser_of(request)
    statuses = await browser.statuses.get()
    return render(
        request,
        "subscriptions.html",
        subscriptions=[(status, line(browser.lag.of(status))) for status in statuses],
    )


async def show(request: Request) -> Response:
    """One version of a subscription: its partitions, its lag, its parked events."""
    browser, query = browser_of(request), query_of(request)
    status = await browser.status(*_which(query))
    parked = await browser.subscriptions.parked(status.name)
    return render(
        request,
        "subscription.html",
        status=status,
        line=line(browser.lag.of(status)),
        parked=[event for event in parked if event.version == status.version][:_MOST_PARKED],
        actions=possible(status) if browser.allow_actions else [],
        done=ACTIONS.get(query.text("done")),
        count=query.number("count"),
    )


async def confirm(request: Request) -> Response:
    """Says what will happen, and asks."""
    browser, query = browser_of(request), query_of(request)
    _check_allowed(browser)
    action, target = _wanted(query)
    status = await browser.status(target.name, target.version)
    session = browser.sessions.current(request) or browser.sessions.new()
    token = browser.sessions.form_token(session)
    answer = render(request, "confirm.html", action=action, target=target, status=status, form_token=token)
    browser.sessions.keep(session, request, answer)
    return answer


async def act(request: Request) -> Response:
    """Does it."""
    browser = browser_of(request)
    _check_allowed(browser)
    form = await form_of(request)
    browser.sessions.check_form(request, form.exactly("form_token"))
    action, target = _wanted(form)
    count = await action.run(browser.subscriptions, target)
    browser.statuses.forget()
    where = url(
        request, "subscription", name=target.name, version=target.version, done=action.name, count=count
    )
    return RedirectResponse(where, 303)


def _check_allowed(browser: Browser) -> None:
    if not browser.allow_actions:
        raise HTTPException(403, "This browser only looks, unless it is started with allow_actions.")


def _which(values: Parameters) -> tuple[str, int]:
    version = values.number("version", 1, _MOST_VERSIONS)
    if version is None:
        raise InvalidInputError("which version of the subscription? Give version")
    return check_subscription_name(values.exactly("name")), version


def _wanted(values: Parameters) -> tuple[Action, Target]:
    action = ACTIONS.get(values.text("do"))
    if action is None:
        raise InvalidInputError(f"do must be one of {', '.join(ACTIONS)}")
    return action, Target(*_which(values), values.stream_id() if action.of_parked else None)
