"""Health and metrics over HTTP: probes get JSON, Prometheus its text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[Mapping[str, Any]]]
Metrics = Callable[[], Awaitable[tuple[bytes, str]]]
"""The text of all metrics, and its content type: PrometheusTelemetry.render."""

_NOT_KEPT: Final = {"Cache-Control": "no-store"}


def health_routes(check: Check, metrics: Metrics | None = None) -> list[Route]:
    """/health: what `check` says, with 503 unless its `status` is "ok"; /live: this process answers.

    /metrics: what `metrics` gives, if there are any.
    """

    async def health(_request: Request) -> JSONResponse:
        answer = await check()
        return JSONResponse(answer, 200 if answer["status"] == "ok" else 503, _NOT_KEPT)

    async def live(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"}, headers=_NOT_KEPT)

    routes = [Route("/health", health), Route("/live", live)]
    return routes if metrics is None else [*routes, metrics_route(metrics)]


def metrics_route(metrics: Metrics) -> Route:
    """/metrics, for the scrapes of Prometheus."""

    async def scrape(_request: Request) -> Response:
        text, content_type = await metrics()
        return Response(text, headers={**_NOT_KEPT, "Content-Type": content_type})

    return Route("/metrics", scrape)


def health_app(check: Check, metrics: Metrics | None = None) -> Starlette:
    """An app that answers probes, and scrapes if there are `metrics`; nothing else."""
    return Starlette(routes=health_routes(check, metrics))
