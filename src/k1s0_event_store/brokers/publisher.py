"""What the publishers of all brokers have in common: connections that are thrown away, errors sorted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from k1s0_event_store.brokers.connection import Connection
from k1s0_event_store.config import is_url, mask_dsn, split_url
from k1s0_event_store.exceptions import (
    BrokerUnavailableError,
    ConfigurationError,
    MessageRefusedError,
    PublishError,
    StoreClosedError,
    shown,
)
from k1s0_event_store.message import Message
from k1s0_event_store.publisher import Publisher

logger = logging.getLogger("k1s0_event_store.brokers")


class _Suspects:
    """Messages of which one made the broker refuse all that were under way with it."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._patience = 0

    def __bool__(self) -> bool:
        # They may never come back: another process may publish them now.
        return bool(self._ids) and self._patience > 0

    def add(self, ids: set[str]) -> None:
        self._ids = self._ids | ids
        self._patience = 10 * len(self._ids)

    def clear(self, message_id: str) -> None:
        """What became of this message is known."""
        self._ids.discard(message_id)
        self._patience -= 1


class BrokerPublisher(Publisher):
    """Publishes to the broker at `url`; connects with the first message, and anew after a failure.

    `timeout`: seconds to wait for a connection, and for an acknowledgement. Other keywords go to
    FastStream's broker. A broker that is down when the publisher is made, or later, is met as
    BrokerUnavailableError by who publishes. Raises ConfigurationError.
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    connection: ClassVar[type[Connection]]

    def __init__(self, url: str, *, timeout: float = 10.0, **options: Any) -> None:
        if not isinstance(url, str) or url.partition("://")[0] not in self.schemes or not _has_host(url):
            raise ConfigurationError(
                f"{type(self).__name__} needs a URL like {self.schemes[0]}://user:password@host:1234, "
                "with special characters in user and password quoted (@ as %40, / as %2F)"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 3600:
            raise ConfigurationError(f"timeout must be seconds above 0 and below 3600, not {shown(timeout)}")
        self.place = mask_dsn(url)
        self._url = url
        self._timeout = timeout
        self._options = options
        self._is_closed = False
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection | Exception] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()
        self._suspects = _Suspects()
        self._alone = asyncio.Lock()
        self._culprits: dict[str, None] = {}
        """Ids of messages, the latest, for which the broker refused all that were under way."""
        self._nobody_is_alone = asyncio.Event()
        self._nobody_is_alone.set()
        self._all_is_known = asyncio.Event()
        self._all_is_known.set()

    async def connect(self) -> None:
        """Connect now; otherwise the first `publish` does.

        Raises BrokerUnavailableError, and ConfigurationError for what no waiting can mend.
        """
        try:
            await self._connected()
        except BrokerUnavailableError as error:
            if isinstance(error.__cause__, self.connection.outages):
                raise
            raise ConfigurationError(str(error)) from error

    async def publish(self, message: Message) -> None:
        """See Publisher.publish."""
        if message.message_id in self._culprits:
            await self._publish_alone(message)
            return
        await self._nobody_is_alone.wait()
        if not self._suspects:
            await self._publish(message)
            return
        async with self._alone:
            await self._publish(message)

    async def close(self) -> None:
        """Publish nothing any more; what is under way and not acknowledged yet fails."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort(_closed())
            self._close_soon(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _publish_alone(self, message: Message) -> None:
        """Others wait for so long: else each attempt would take them along."""
        async with self._alone:
            self._nobody_is_alone.clear()
            try:
                await self._all_is_known.wait()
                await self._publish(message)
                self._culprits.pop(message.message_id, None)
            finally:
                self._nobody_is_alone.set()

    async def _publish(self, message: Message) -> None:
        connection = self._connection or await self._connected()
        self._under_way.add(message.message_id)
        self._all_is_known.clear()
        try:
            await connection.publish(message)
        except Exception as error:
            judged = self._judged(connection, error)
            if self._suspects and isinstance(judged, MessageRefusedError):
                self._suspects.clear(message.message_id)
            raise judged from (None if judged is error else error)
        finally:
            self._under_way.discard(message.message_id)
            if not self._under_way:
                self._all_is_known.set()
        if self._suspects:
            self._suspects.clear(message.message_id)

    def _judged(self, connection: Connection, error: Exception) -> Exception:
        """The error as ours; a connection that cannot be trusted any more is thrown away."""
        if isinstance(error, PublishError):
            return error
        what = _described(error)
        if connection is not self._connection:
            return BrokerUnavailableError(f"{self.place}: the connection was lost: {what}")
        if isinstance(error, connection.busy):
            return BrokerUnavailableError(f"{self.place} does not take it now: {what}")
        if isinstance(error, connection.collective):
            return self._judged_together(connection, error, what)
        if isinstance(error, connection.refusals):
            return MessageRefusedError(f"{self.place}: {what}")
        self._throw_away(connection, error)
        is_known = isinstance(error, connection.outages)
        return BrokerUnavailableError(f"{self.place}: {what}") if is_known else error

    def _judged_together(self, connection: Connection, error: Exception, what: str) -> PublishError:
        """The broker refused all that were under way: one at a time, to find out which it meant."""
        is_alone = len(self._under_way) == 1
        if is_alone:
            self._culprits.update(dict.fromkeys(self._under_way))
            if len(self._culprits) > 1_000:
                del self._culprits[next(iter(self._culprits))]
        else:
            self._suspects.add(self._under_way)
        self._throw_away(connection, error)
        if is_alone:
            return MessageRefusedError(f"{self.place}: {what}")
        return BrokerUnavailableError(f"{self.place} refused one of several messages: {what}")

    async def _connected(self) -> Connection:
        """The connection; all who need it wait for the same attempt."""
        if self._is_closed:
            raise _closed()
        if self._connection is not None:
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        opening = self._opening
        await asyncio.wait([opening])
        if opening.cancelled():
            raise _closed()
        opened = opening.result()
        if isinstance(opened, Connection):
            return opened
        raise BrokerUnavailableError(f"{self.place}: {_described(opened)}") from opened

    async def _open(self) -> Connection | Exception:
        """Connect, or return what went wrong: perhaps nobody waits for it any more."""
        connection = None
        try:
            connection = self.connection(self._url, self._timeout, self._options)
            async with asyncio.timeout(self._timeout):
                await connection.open()
            connection.watch()
            self._connection = connection
        except Exception as error:
            return error
        else:
            return connection
        finally:
            self._opening = None
            if connection is not None and connection is not self._connection:
                self._close_soon(connection)

    def _throw_away(self, connection: Connection, reason: BaseException) -> None:
        self._connection = None
        connection.abort(reason)
        self._close_soon(connection)

    def _close_soon(self, connection: Connection) -> None:
        task = asyncio.create_task(self._close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await connection.settled()
                await connection.close()
        except Exception as error:
            logger.debug("%s: closing a connection failed", self.place, exc_info=error)


def _has_host(url: str) -> bool:
    return is_url(url) and bool(split_url(url).netloc.rpartition("@")[2].strip(","))


def _closed() -> StoreClosedError:
    return StoreClosedError("this publisher was closed; make a new one")


def _described(error: BaseException) -> str:
    """One line: the type, and what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500].rstrip(": ")
