"""A proxy between client and server: counts round trips, knows the moments around COMMIT, makes bad weather.

Whatever a test wants to happen on the way happens here: an answer gets lost, the connection is cut at a
random byte, packets come late and in pieces, or something is done (somebody is killed) when a COMMIT is sent.
"""

import asyncio
import random
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

PORT = 5432
WRITES = re.compile(rb"\bINSERT INTO\b")
PROTOCOL = 3
"""The major version in a startup message; other packets without a kind have other numbers there."""


class Cut(Exception):
    """The connection ends here, in both directions: what has not arrived never will."""


class Moment(StrEnum):
    """Where a COMMIT is: one of its own, or that of a statement in autocommit."""

    UNSENT = "before COMMIT is sent"
    SENT = "COMMIT sent"
    EXECUTED = "COMMIT executed, not answered"
    ANSWERED = "COMMIT answered"


class Weather:
    """What becomes of a connection's bytes: in this one they arrive at once and whole."""

    async def carry(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()


class Storm(Weather):
    """Bytes come in pieces and late, and after `cut_after` of them (None: never) the connection is cut."""

    def __init__(self, chooser: random.Random, *, cut_after: int | None = None, longest_delay: float) -> None:
        self._chooser = chooser
        self._left = cut_after
        self._longest_delay = longest_delay

    async def carry(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        border = self._chooser.randint(0, len(data))
        for piece in (data[:border], data[border:]):
            await super().carry(self._what_is_left_of(piece), writer)
            if self._left == 0:
                raise Cut
            await asyncio.sleep(self._chooser.random() * self._longest_delay)

    def _what_is_left_of(self, piece: bytes) -> bytes:
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        return piece


class Proxy:
    """Listens on a Unix socket in `folder`; `dsn` is the way through it to the server of `target`.

    `at` is called at each moment of each COMMIT, in the proxy's thread, while nothing else moves; `weather`
    gives each connection its own. Both may raise Cut.
    """

    def __init__(self, target: str, folder: Path) -> None:
        self._target = urlsplit(target)
        self._folder = folder
        self.dsn = urlunsplit(
            self._target._replace(
                netloc=f"{self._target.netloc.rpartition('@')[0] or 'postgres'}@", query=f"host={folder}"
            )
        )
        self.round_trips = 0
        self.cuts = 0
        self.lose_next_answer = False
        self.refuse = False
        self.linger = False
        """Whatever the server says last arrives, that it has hung up does not."""
        self.at: Callable[[Moment], object] = lambda moment: None
        self.weather: Callable[[], Weather] = Weather
        self.error: Exception | None = None

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        path = str(self._folder / f".s.PGSQL.{PORT}")
        async with await asyncio.start_unix_server(self._handle, path):
            started.set()
            await stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.refuse:
                server_reader, server_writer = await self._connect()
                await _Link(self, (reader, writer), (server_reader, server_writer)).run()
        except OSError:  # The server is away.
            return
        except Exception as error:
            self.error = error
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = dict(parse_qsl(self._target.query)).get("host") or unquote(
            self._target.hostname or "localhost"
        )
        port = self._target.port or PORT
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


class _Link:
    """One connection through the proxy. Its client does one thing at a time, as all drivers do here."""

    def __init__(self, proxy: Proxy, client, server) -> None:
        self._proxy = proxy
        self._client, self._to_client = client
        self._server, self._to_server = server
        self._weather = proxy.weather()
        self._statements: dict[bytes, bytes] = {}
        self._bound: list[bytes] = []
        self._in_transaction = False
        self._commits = False

    async def run(self) -> None:
        """Until one end hangs up, or the connection is cut."""
        ways = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                with suppress(asyncio.IncompleteReadError, ConnectionError):
                    way.result()
        except Cut:
            self._proxy.cuts += 1
            for end in (self._to_client, self._to_server):
                end.transport.abort()
        finally:
            for way in ways:
                way.cancel()
            self._to_client.close()
            self._to_server.close()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self) -> None:
        await self._start_up()
        held = b""
        while True:
            head, body = await _message(self._client)
            kind = head[:1]
            self._note(kind, body)
            held += head + body
            if kind in b"SQ":
                await self._request(held)
                held = b""
            elif kind not in b"PBDEC":  # Those wait for the Sync or Flush that follows.
                await self._weather.carry(held, self._to_server)
                held = b""

    async def _start_up(self) -> None:
        """Packets that have no kind yet."""
        major = None
        while major != PROTOCOL:
            head = await self._client.readexactly(8)
            rest = await self._client.readexactly(int.from_bytes(head[:4], "big") - 8)
            await self._weather.carry(head + rest, self._to_server)
            major = int.from_bytes(head[4:6], "big")

    def _note(self, kind: bytes, body: bytes) -> None:
        """Keep the texts of what is prepared, and of what is about to be executed."""
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text
        elif kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            self._bound.append(self._statements.get(name, b""))
        elif kind == b"Q":
            self._bound.append(body)

    async def _request(self, data: bytes) -> None:
        texts, self._bound = self._bound, []
        writes = not self._in_transaction and any(map(WRITES.search, texts))
        commits = writes or any(text.upper().startswith(b"COMMIT") for text in texts)
        if commits:
            self._proxy.at(Moment.UNSENT)
        self._commits = commits
        await self._weather.carry(data, self._to_server)
        if commits:
            self._proxy.at(Moment.SENT)

    async def _answers(self) -> None:
        """Message by message: a ReadyForQuery ends a round trip. The answer to a COMMIT goes as a whole."""
        held = b""
        done = False
        while True:
            try:
                head, body = await _message(self._server)
            except asyncio.IncompleteReadError:
                if self._proxy.linger:
                    await asyncio.Event().wait()  # until the client hangs up
                raise
            kind = head[:1]
            held += head + body
            done |= kind == b"C"
            if done and self._proxy.lose_next_answer:
                await self._lose_answer(kind)
            if kind == b"Z":
                self._in_transaction = body != b"I"
                self._proxy.round_trips += 1
                await self._answer(held, self._commits and done)
                held, done, self._commits = b"", False, False
            elif not self._commits:
                await self._weather.carry(held, self._to_client)
                held = b""

    async def _lose_answer(self, kind: bytes) -> None:
        # CommandComplete is swallowed; the server has committed by ReadyForQuery.
        self._proxy.lose_next_answer = False
        while kind != b"Z":
            kind = (await _message(self._server))[0][:1]
        raise Cut

    async def _answer(self, data: bytes, is_commit: bool) -> None:
        if is_commit:
            self._proxy.at(Moment.EXECUTED)
        await self._weather.carry(data, self._to_client)
        if is_commit:
            self._proxy.at(Moment.ANSWERED)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Kind and length, and the rest."""
    head = await reader.readexactly(5)
    return head, await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


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
    if proxy.error is not None:
        raise proxy.error


@contextmanager
def proxy_before(target: str):
    """A proxy with a folder of its own; short, as the path of a socket is limited."""
    with TemporaryDirectory(prefix="k1s0-") as folder, running_proxy(target, Path(folder)) as proxy:
        yield proxy
