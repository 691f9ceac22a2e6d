"""Pages from templates: everything escaped, what is missing an error, links right wherever it is mounted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from k1s0_event_store.envelope import StreamId
from k1s0_event_store.inspection import EventView
from k1s0_event_store.jsontext import indented
from k1s0_event_store.subscription import MOST_COUNTED
from k1s0_event_store.web.access import TokenAccess
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.headers import HEADERS
from k1s0_event_store.web.json_view import marked
from k1s0_event_store.web.pictures import CHART_HEIGHT, CHART_WIDTH, LINE_HEIGHT, LINE_WIDTH, percent

_PREVIEW: Final = 100
_AGES: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def render(request: Request, template: str, code: int = 200, /, **values: Any) -> HTMLResponse:
    """A page."""
    return HTMLResponse(fragment(request, template, **values), code, HEADERS)


def fragment(request: Request, template: str, /, **values: Any) -> str:
    """The text of a template."""
    browser = browser_of(request)
    return _environment.get_template(template).render(
        url=partial(url, request),
        here=request.scope.get("root_path", "") + here(request),
        section=request.scope["path"].removeprefix(request.scope.get("root_path", "")).split("/")[1:2],
        is_logged_in=isinstance(browser.access, TokenAccess) and browser.sessions.current(request),
        schema=browser.inspector.config.schema,
        allow_actions=browser.allow_actions,
        **values,
    )


def url(request: Request, name: str, /, **parameters: Any) -> str:
    """The path of a page of ours, wherever the app is mounted; `position` and `path` are parts of it."""
    places = {key: parameters.pop(key) for key in ("position", "path") if key in parameters}
    path = request.scope.get("root_path", "") + str(request.app.url_path_for(name, **places))
    stream_id = parameters.pop("stream", None)
    if stream_id is not None:
        parameters = {**stream_parameters(stream_id), **parameters}
    query = urlencode({key: value for key, value in parameters.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def here(request: Request) -> str:
    """The page of a request, as a path inside the app, with its query."""
    path: str = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    query = urlencode(request.query_params.multi_items())
    return f"{path}?{query}" if query else path


def stream_parameters(stream_id: StreamId) -> Mapping[str, str]:
    """A stream as the parts of a query: in a path, proxies would change some ids."""
    return {"type": stream_id.aggregate_type, "id": stream_id.aggregate_id}


def _number(value: int) -> str:
    return f"{value:,}"


def _behind(count: int) -> str:
    return f"{count:,}{'+' if count >= MOST_COUNTED else ''}"


def _time(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def _duration(seconds: float) -> str:
    """About how long."""
    for size, unit in _AGES:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def _size(characters: int) -> str:
    return f"{characters / 1e6:.1f} million characters" if characters >= 1e6 else f"{characters:,} characters"


def _preview(event: EventView) -> str:
    """The beginning of the payload on one line."""
    text = " ".join(event.payload[: 8 * _PREVIEW].split())
    return text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…"


def _is_cut(event: EventView, cut: int) -> bool:
    return len(event.payload) >= cut or len(event.metadata) >= cut


def _json(text: str) -> Markup:
    """JSON with a line for each member, its parts marked."""
    return marked(indented(text))


def _is_empty_json(text: str) -> bool:
    return text == "{}"


def _make_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("k1s0_event_store.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["empty_json"] = _is_empty_json
    environment.filters |= {
        "behind": _behind,
        "duration": _duration,
        "iso": _iso,
        "json": _json,
        "number": _number,
        "preview": _preview,
        "size": _size,
        "time": _time,
    }
    environment.globals |= {
        "chart_width": CHART_WIDTH,
        "chart_height": CHART_HEIGHT,
        "line_width": LINE_WIDTH,
        "line_height": LINE_HEIGHT,
        "is_cut": _is_cut,
        "percent": percent,
    }
    return environment


_environment: Final = _make_environment()
