"""Errors as pages that say what to do next. None shows what only the log may tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store.exceptions import (
    ClusterChangedError,
    DatabaseError,
    EventStoreError,
    InvalidInputError,
    PermissionDeniedError,
    SchemaError,
    StoreUnavailableError,
    SubscriptionNotFoundError,
)
from k1s0_event_store.web.rendering import render

_QUERY_CANCELED: Final = "57014"
_RELOAD_SECONDS: Final = 5
_TITLES: Final = {403: "Refused", 404: "Not found", 405: "Not like this", 429: "Wait a minute"}
_TEXTS: Final = {404: "There is no such page.", 405: "This page is asked for in another way."}

logger = logging.getLogger("k1s0_event_store.web")


def not_found(request: Request, text: str) -> Response:
    """404, with a way on."""
    return render(request, "error.html", 404, title="Not found", text=text)


def _http(request: Request, error: Any) -> Response:
    code = error.status_code
    title, text = _TITLES.get(code, "Not possible"), _TEXTS.get(code, error.detail)
    answer = render(request, "error.html", code, title=title, text=text)
    answer.headers.update(error.headers or {})
    return answer


def _bad_input(request: Request, error: Exception) -> Response:
    return render(request, "error.html", 400, title="That is not possible", text=str(error))


def _unknown_subscription(request: Request, error: Exception) -> Response:
    return not_found(request, str(error))


def _away(request: Request, _error: Exception) -> Response:
    return _later(request, "The database is away", "It does not answer. This page tries again by itself.")


def _slow(request: Request, _error: Exception) -> Response:
    return _later(
        request, "The database took too long", "The question was given up, so that it does no harm."
    )


def _later(request: Request, title: str, text: str) -> Response:
    answer = render(request, "error.html", 503, title=title, text=text, reload=_RELOAD_SECONDS)
    answer.headers["Retry-After"] = str(_RELOAD_SECONDS)
    return answer


def _store(request: Request, error: Exception) -> Response:
    if isinstance(error, DatabaseError) and error.sqlstate == _QUERY_CANCELED:
        return _slow(request, error)
    if isinstance(error, (SchemaError, PermissionDeniedError, ClusterChangedError)):
        return render(request, "error.html", 503, title="The tables cannot be read", text=str(error))
    logger.error("the stream browser cannot show a page", exc_info=error)
    text = f"{type(error).__name__}: the log of this process says more."
    return render(request, "error.html", 500, title="Something went wrong", text=text)


def _unexpected(request: Request, _error: Exception) -> Response:
    text = "The log of this process says more."
    return render(request, "error.html", 500, title="Something went wrong", text=text)


EXCEPTION_HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Response]]] = {
    HTTPException: _http,
    InvalidInputError: _bad_input,
    SubscriptionNotFoundError: _unknown_subscription,
    StoreUnavailableError: _away,
    OSError: _away,
    TimeoutError: _slow,
    PoolTimeoutError: _slow,
    EventStoreError: _store,
    Exception: _unexpected,
}
