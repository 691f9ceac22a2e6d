"""Health over HTTP (extra `web`): the only module that imports the web framework and server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from k1s0_event_store.exceptions import ConfigurationError

Check = Callable[[], Awaitable[Mapping[str, Any]]]

_LOOPBACK: Final = "127.0.0.1"
_NOT_KEPT: Final = {"Cache-Control": "no-store"}


def health_routes(check: Check) -> list[Route]:
    """/health: what `check` says, with 503 unless its `status` is "ok"; /live: this process answers."""

    async def health(_request: Request) -> JSONResponse:
        answer = await check()
        return JSONResponse(answer, 200 if answer["status"] == "ok" else 503, _NOT_KEPT)

    async def live(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"}, headers=_NOT_KEPT)

    return [Route("/health", health), Route("/live", live)]


def health_app(check: Check) -> Starlette:
    """An app that answers probes, and nothing else."""
    return Starlette(routes=health_routes(check))


class _Server(uvicorn.Server):
    """The process has its own way of ending."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve(app: Starlette, address: str) -> AsyncIterator[str]:
    """Serve `app` at HOST:PORT (or :PORT, PORT: this machine only) for as long as the block lasts.

    Yields its URL. Raises ConfigurationError where nobody can listen there.
    """
    with _listener(address) as listener:
        config = uvicorn.Config(
            app, ws="none", lifespan="off", log_config=None, log_level="warning", access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = _Server(config)
        # Whoever asks before it has begun waits in the listener's queue.
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield _url(listener)
        finally:
            server.should_exit = True
            await task


def _listener(address: str) -> socket.socket:
    host, port = _host_and_port(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(place[:2], family=family)
    except OSError as error:
        raise ConfigurationError(f"cannot listen at {address}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigurationError(f"an address to listen at is HOST:PORT, :PORT or PORT, not {address!r}")
    return host.strip("[]") or _LOOPBACK, int(port)


def _url(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
