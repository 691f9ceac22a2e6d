"""A proxy between client and server that counts round trips and can lose an answer."""

import asyncio
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

PORT = 5432


class Proxy:
    """Listens on a Unix socket in `folder`; `dsn` is the way through it to the server of `target`."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target = urlsplit(target)
        self._folder = folder
        self.dsn = urlunsplit(
            self._target._replace(
                netloc=f"{self._target.netloc.rpartition('@')[0] or 'postgres'}@", query=f"host={folder}"
            )
        )
        self.round_trips = 0
        self.lose_next_answer = False
        self.refuse = False

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        path = str(self._folder / f".s.PGSQL.{PORT}")
        async with await asyncio.start_unix_server(self._handle, path):
            started.set()
            await stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.close()
            return
        server_reader, server_writer = await self._connect()
        to_server = asyncio.create_task(self._forward(reader, server_writer))
        try:
            await self._answers(server_reader, writer)
        finally:
            to_server.cancel()
            for end in (server_writer, writer):
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = dict(parse_qsl(self._target.query)).get("host") or unquote(
            self._target.hostname or "localhost"
        )
        port = self._target.port or PORT
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Message by message: a ReadyForQuery ends a round trip."""
        losing = False
        try:
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if self.lose_next_answer and head[:1] == b"C":
                    losing = True
                if losing:
                    # CommandComplete is swallowed; the server has committed by ReadyForQuery.
                    if head[:1] == b"Z":
                        self.lose_next_answer = False
                        return
                    continue
                if head[:1] == b"Z":
                    self.round_trips += 1
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return


@contextmanager
def running_proxy(target: str, folder: Path):
    """A proxy in a thread of its own."""
    proxy = Proxy(target, folder)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(proxy.serve(started, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
