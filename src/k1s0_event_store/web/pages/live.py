"""What happens while a page is open, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store.envelope import StreamId
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.event_stream import HEARTBEAT, EventStream, message
from k1s0_event_store.web.live import Arrived, Away, Change, Sampled
from k1s0_event_store.web.parameters import query_of
from k1s0_event_store.web.rendering import fragment

_HEARTBEAT_SECONDS: Final = 15.0


async def show(request: Request) -> Response:
    """All events as they come; or that a stream has grown beyond the version that was `seen`."""
    query = query_of(request)
    if browser_of(request).live.is_full:
        raise HTTPException(503, "Too many pages are open: close some of them.")
    return EventStream(_messages(request, query.stream_id(), query.number("seen") or 0))


async def _messages(request: Request, stream_id: StreamId | None, seen: int) -> AsyncGenerator[str, None]:
    live = browser_of(request).live
    async with live.listen() as listener:
        while not listener.is_over:
            if listener.has_lost:
                live.again(listener)
            change = await listener.next(_HEARTBEAT_SECONDS)
            yield HEARTBEAT if change is None else _said(request, change, stream_id, seen) or HEARTBEAT


def _said(request: Request, change: Change, stream_id: StreamId | None, seen: int) -> str:
    match change:
        case Arrived() if stream_id is not None:
            return _of_stream(request, change, stream_id, seen)
        case Arrived(events, more, anew):
            rows = fragment(request, "_tail.html", events=events, more=more)
            return message("newest" if anew else "arrived", rows)
        case Sampled():
            return message("sampled", "")
        case Away():
            return message("away", "The database does not answer.")


def _of_stream(request: Request, change: Arrived, stream_id: StreamId, seen: int) -> str:
    """That a stream has grown; nothing where it has not."""
    version = max((event.version for event in change.events if event.stream_id == stream_id), default=0)
    if version <= seen:
        return ""
    return message("grown", fragment(request, "_grown.html", stream_id=stream_id, version=version))
