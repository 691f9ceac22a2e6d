"""Streams: looking for some, and looking into one."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store.inspection import StreamFilter, StreamHead
from k1s0_event_store.web.browser import Browser, browser_of
from k1s0_event_store.web.errors import not_found
from k1s0_event_store.web.parameters import Parameters, query_of, required_stream_id
from k1s0_event_store.web.rendering import render

_STREAMS: Final = 50
_EVENTS: Final = 25
CUT: Final = 20_000
"""So many characters of a payload an event is shown with where there are many."""


async def search(request: Request) -> Response:
    """Streams by key, as far as they are wanted."""
    browser, query = browser_of(request), query_of(request)
    wanted = StreamFilter(
        aggregate_type=query.exactly("of") or None,
        contains=query.text("contains"),
        min_events=query.number("min"),
        max_events=query.number("max"),
        changed_since=query.time("since"),
        changed_before=query.time("before"),
    )
    after = query.stream_id("after_")
    page = await browser.inspector.streams(wanted, after, limit=_STREAMS)
    fields = ("of", "contains", "min", "max", "since", "before")
    return render(
        request,
        "streams.html",
        page=page,
        after=after,
        is_full=len(page.streams) == _STREAMS,
        types=await browser.aggregate_types.get(),
        asked={name: query.exactly(name) for name in fields},
    )


async def show(request: Request) -> Response:
    """One stream: its events, and its state at a version."""
    browser, query = browser_of(request), query_of(request)
    stream_id = required_stream_id(query)
    head = await browser.inspector.stream(stream_id)
    if head is None:
        return not_found(request, f"There is no stream {stream_id}: no event was ever appended to it.")
    version = min(query.number("version", 1) or head.version, head.version)
    state = await browser.states.at(stream_id, version) if browser.states.knows(stream_id) else None
    return render(
        request,
        "stream.html",
        head=head,
        version=version,
        state=state,
        snapshots=await browser.inspector.snapshots(stream_id),
        cut=CUT,
        **await _events(browser, query, head, version),
    )


async def _events(browser: Browser, query: Parameters, head: StreamHead, version: int) -> dict[str, Any]:
    """A page of events up to `version`, and where the next and the first page begin."""
    order = query.choice("order", "newest", "oldest")
    at = query.number("at", 1)
    where = (1, min(at or version, version)) if order == "newest" else (at or 1, version)
    events = await browser.inspector.events(
        head.stream_id, *where, limit=_EVENTS, backwards=order == "newest", cut=CUT
    )
    return {
        "order": order,
        "events": events,
        "at": at,
        "next_at": _next([event.version for event in events], order, version),
    }


def _next(versions: list[int], order: str, version: int) -> int | None:
    """The version that the next page begins with; None: this is the last one."""
    if not versions:
        return None
    following = versions[-1] + (1 if order == "oldest" else -1)
    return following if 1 <= following <= version else None
