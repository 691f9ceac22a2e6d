"""What is going on: events over time, frequent types, subscriptions, the newest events."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store.web.browser import SPANS, browser_of
from k1s0_event_store.web.live import NEWEST
from k1s0_event_store.web.parameters import query_of
from k1s0_event_store.web.pictures import bars, line
from k1s0_event_store.web.rendering import render

_TOP_TYPES: Final = 8


async def show(request: Request) -> Response:
    """The page that one begins with."""
    browser = browser_of(request)
    name = query_of(request).choice("span", *SPANS)
    span, intervals = SPANS[name], await browser.activity[name].get()
    statuses = await browser.statuses.get()
    shares = await browser.types.get()
    is_whole = "hx-request" not in request.headers  # else only the numbers are taken anew
    return render(
        request,
        "overview.html",
        spans=SPANS,
        span_name=name,
        span=span,
        bars=bars(intervals, span.step),
        total=sum(interval.events for interval in intervals),
        shares=shares,
        top=shares.types[:_TOP_TYPES],
        all_events=sum(share.events for share in shares.types),
        subscriptions=[(status, line(browser.lag.of(status))) for status in statuses],
        newest=await browser.inspector.latest(NEWEST) if is_whole else (),
    )
