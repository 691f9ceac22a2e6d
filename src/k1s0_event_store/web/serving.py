"""Serving an app for as long as a block lasts, in the caller's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette

from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.web.access import LoopbackAccess, is_loopback
from k1s0_event_store.web.browser import browser_in

_LOOPBACK: Final = "127.0.0.1"


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


@asynccontextmanager
async def serve_browser(app: Starlette, address: str) -> AsyncIterator[str]:
    """Serve a stream browser, as `serve` does, and close it at the end.

    Raises ConfigurationError too where it would be open to other machines without asking who comes.
    """
    browser = browser_in(app)
    if isinstance(browser.access, LoopbackAccess) and not is_loopback(_host_and_port(address)[0]):
        raise ConfigurationError(
            f"at {address} other machines could look: give a token, or a proxy's header that says who asks"
        )
    async with app.router.lifespan_context(app), serve(app, address) as url:
        try:
            yield url
        finally:
            await browser.live.close()  # else the server would wait for pages that stay open


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
