"""To what a person typed or pasted: an event's id or position, or a stream."""

from __future__ import annotations

from itertools import islice
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from k1s0_event_store.envelope import MAX_NAME_LENGTH, StreamId
from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.parameters import query_of, uuid_of
from k1s0_event_store.web.rendering import render, url

_MOST_GUESSES: Final = 8


async def go(request: Request) -> Response:
    """Leads to the page that is meant."""
    text = query_of(request).text("to")
    if not text:
        raise InvalidInputError(
            "where to? Type a stream (its type and id), the id of an event, or a position"
        )
    if uuid_of(text) is not None:
        return RedirectResponse(url(request, "event_by_id", id=text), 303)
    if text.isascii() and text.isdecimal() and len(text) < 20:
        return RedirectResponse(url(request, "event", position=int(text)), 303)
    for stream_id in _guesses(text):
        if await browser_of(request).inspector.stream(stream_id) is not None:
            return RedirectResponse(url(request, "stream", stream=stream_id), 303)
    return render(request, "nowhere.html", 404, text=text)


def _guesses(text: str) -> list[StreamId]:
    """Streams that are typed as `order o-1`, or printed as `order-o-1`: the hyphen may be any of them."""
    places = [index for mark in (" ", "-") for index, char in enumerate(text) if char == mark]
    parts = ((text[:place], text[place + 1 :].strip()) for place in places)
    fit = (pair for pair in parts if all(0 < len(part) <= MAX_NAME_LENGTH for part in pair))
    return [StreamId(*pair) for pair in islice(fit, _MOST_GUESSES)]
