"""Events: the newest of all streams, and one with what caused it and what it caused."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from k1s0_event_store.inspection import EventView
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.causality import COLUMN, ROW, graph
from k1s0_event_store.web.errors import not_found
from k1s0_event_store.web.parameters import query_of, uuid_of
from k1s0_event_store.web.rendering import render, url

_PAGE: Final = 50
_LOOK_AT: Final = 250
_LOOKS: Final = 8
"""So often one page looks at so many events for those of a type."""
_CUT: Final = 262_144
_WHOLE: Final = 1 << 30
_LARGEST_POSITION: Final = 2**63 - 1


async def newest(request: Request) -> Response:
    """The newest events, of all types or of one."""
    query = query_of(request)
    event_type, before = query.exactly("type"), query.number("before", 1)
    if event_type:
        events, next_before = await _of_type(request, event_type, before)
    else:
        events = list(await browser_of(request).inspector.latest(_PAGE, before))
        next_before = events[-1].position if len(events) == _PAGE else None
    return render(
        request,
        "events.html",
        events=events,
        event_type=event_type,
        before=before,
        next_before=next_before,
        look_at=_LOOK_AT * _LOOKS,
    )


async def _of_type(
    request: Request, event_type: str, before: int | None
) -> tuple[list[EventView], int | None]:
    """Events of a type among the next ones, and where to go on."""
    found: list[EventView] = []
    for _ in range(_LOOKS):
        looked_at = await browser_of(request).inspector.latest(_LOOK_AT, before)
        found += [event for event in looked_at if event.event_type == event_type]
        if len(found) > _PAGE:
            return found[:_PAGE], found[_PAGE - 1].position
        if len(looked_at) < _LOOK_AT:
            return found, None
        before = looked_at[-1].position
    return found, before


async def show(request: Request) -> Response:
    """One event, whole, among those that belong to it."""
    browser = browser_of(request)
    event = await _event(request, _CUT)
    if event is None:
        return not_found(request, f"There is no event at position {request.path_params['position']}.")
    relatives = await browser.inspector.relatives(event)
    return render(
        request,
        "event.html",
        event=event,
        cut=_CUT,
        graph=graph(relatives.events, event),
        is_complete=relatives.complete,
        row=ROW,
        column=COLUMN,
    )


async def by_id(request: Request) -> Response:
    """To the event with an id, or to a choice of them."""
    event_id = uuid_of(query_of(request).text("id"))
    events = [] if event_id is None else await browser_of(request).inspector.find(event_id, cut=200)
    if not events:
        return not_found(request, "There is no event with this id.")
    if len(events) == 1:
        return RedirectResponse(url(request, "event", position=events[0].position), 303)
    return render(
        request,
        "events.html",
        events=events,
        event_type="",
        before=None,
        next_before=None,
        look_at=_LOOK_AT * _LOOKS,
    )


async def raw(request: Request) -> Response:
    """The whole payload as text, to be kept as a file."""
    event = await _event(request, 1)
    if event is None:
        return not_found(request, f"There is no event at position {request.path_params['position']}.")
    what = query_of(request).choice("part", "payload", "metadata")
    (whole,) = await browser_of(request).inspector.events(
        event.stream_id, event.version, event.version, limit=1, cut=_WHOLE
    )
    text: str = getattr(whole, what)
    name = f"{what}-{event.position}.json"
    return Response(
        text.encode(),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _event(request: Request, cut: int) -> EventView | None:
    position: int = request.path_params["position"]
    if position > _LARGEST_POSITION:
        return None
    return await browser_of(request).inspector.at(position, cut=cut)
