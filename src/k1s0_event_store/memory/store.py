"""The event stores in memory, async and blocking, on one log of events."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID
from zlib import crc32

from k1s0_event_store.batch import Batch, check_stream_id, encode_batch
from k1s0_event_store.envelope import (
    EventEnvelope,
    EventVersion,
    ExpectedVersion,
    StreamId,
    check_expected_version,
    stored_envelope,
)
from k1s0_event_store.exceptions import InvalidInputError, StoreClosedError
from k1s0_event_store.feed import (
    EVERYTHING,
    LARGEST_PAGE,
    Cursor,
    EventFilter,
    FeedPage,
    check_cursor,
    check_page,
)
from k1s0_event_store.jsontext import decode
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits
from k1s0_event_store.outcome import first_answer, require
from k1s0_event_store.store import EventStore, Span, SyncEventStore, check_span, check_wait

_CURSOR: Final = "memory "


def cursor_at(position: int) -> Cursor:
    """The place after the event at `position`: here positions are drawn in the order of the feed."""
    return Cursor(f"{_CURSOR}{position}")


def position_of(cursor: Cursor) -> int:
    """The position of the last event before the place; raises InvalidInputError."""
    check_cursor(cursor)
    number = cursor.text.removeprefix(_CURSOR)
    if cursor.text == number or not number.isdecimal():
        raise InvalidInputError(f"not a cursor of an in-memory store: {cursor.text!r:.200}")
    return int(number)


def partition_of(stream_id: StreamId, partitions: int) -> int:
    """The partition that the events of a stream belong to."""
    return crc32(f"{stream_id.aggregate_type}\0{stream_id.aggregate_id}".encode()) % partitions


@dataclass(frozen=True, slots=True)
class _Stored:
    """An event as kept: JSON as text, so that nothing is shared with a caller."""

    stream_id: StreamId
    event_type: str
    payload: str
    metadata: str
    event_id: UUID
    occurred_at: datetime
    version: int
    recorded_at: datetime
    position: int

    def is_wanted(self, only: EventFilter) -> bool:
        return only.wants_type(self.stream_id.aggregate_type, self.event_type) and (
            only.partitions == 1 or partition_of(self.stream_id, only.partitions) == only.partition
        )

    def envelope(self) -> EventEnvelope:
        return stored_envelope(
            {
                "stream_id": self.stream_id,
                "event_type": self.event_type,
                "payload": decode(self.payload),
                "metadata": decode(self.metadata),
                "event_id": self.event_id,
                "occurred_at": self.occurred_at,
                "version": self.version,
                "recorded_at": self.recorded_at,
                "position": self.position,
            }
        )


class _Log:
    """The events of one store; every method is one atomic step. `listeners` are called after each append."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.listeners: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._all: list[_Stored] = []
        self._streams: dict[StreamId, list[_Stored]] = {}
        self._taken: dict[tuple[str, UUID], _Stored] = {}
        self.closed = False

    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion
    ) -> EventVersion:
        self._check_open()
        expected = check_expected_version(expected_version)
        batch = encode_batch(stream_id, events, self.limits)
        with self._lock:
            actual = len(self._streams.get(stream_id, ()))
            known = self._known(stream_id, batch)
            if known:
                return first_answer(stream_id, expected, batch.event_ids, known)
            require(stream_id, expected, actual)
            self._add(stream_id, batch, actual)
        for heard in tuple(self.listeners):
            heard()
        return EventVersion(actual + len(batch))

    def _known(self, stream_id: StreamId, batch: Batch) -> dict[UUID, int | None]:
        taken = (self._taken.get((stream_id.aggregate_id, event_id)) for event_id in batch.event_ids)
        return {e.event_id: e.version if e.stream_id == stream_id else None for e in taken if e}

    def _add(self, stream_id: StreamId, batch: Batch, version: int) -> None:
        now = datetime.now(UTC)
        columns = zip(
            batch.event_types, batch.payloads, batch.metadata, batch.event_ids, batch.occurred_at, strict=True
        )
        for number, (event_type, payload, metadata, event_id, at) in enumerate(columns, version + 1):
            stored = _Stored(
                stream_id, event_type, payload, metadata, event_id, at, number, now, len(self._all) + 1
            )
            self._all.append(stored)
            self._streams.setdefault(stream_id, []).append(stored)
            self._taken[stream_id.aggregate_id, event_id] = stored

    def read(self, stream_id: StreamId, span: Span) -> list[_Stored]:
        self._check_open()
        with self._lock:
            found = self._streams.get(stream_id, [])[max(span.first - 1, 0) : span.last]
        return (found[::-1] if span.backwards else found)[: span.limit]

    def read_page(
        self, after: Cursor | None, limit: int, only: EventFilter, until: Cursor | None
    ) -> FeedPage:
        self._check_open()
        check_page(after, limit, until)
        start = 0 if after is None else position_of(after)
        with self._lock:
            end = len(self._all) if until is None else position_of(until)
            rows = self._all[start : min(end, start + limit)]
        wanted = [row for row in rows if row.is_wanted(only)]
        reached = start + len(rows)
        return FeedPage(
            cursor_at(reached), reached < end, lambda: [row.envelope() for row in wanted], cursor_at
        )

    def latest_cursor(self) -> Cursor:
        self._check_open()
        with self._lock:
            return cursor_at(len(self._all))

    def current_version(self, stream_id: StreamId) -> EventVersion:
        self._check_open()
        with self._lock:
            return EventVersion(len(self._streams.get(check_stream_id(stream_id), ())))

    def find(self, stream_id: StreamId, version: int) -> int | None:
        """The position of an event; None while it is not there."""
        with self._lock:
            stored = self._streams.get(stream_id, [])[version - 1 : version]
        return stored[0].position if stored else None

    def count_after(self, position: int, most: int) -> tuple[int, datetime | None]:
        """How many events follow, at most `most`, and when the first of them was stored."""
        with self._lock:
            following = len(self._all) - position
            return min(following, most), self._all[position].recorded_at if following > 0 else None

    def _check_open(self) -> None:
        check_open(self.closed)


def check_open(closed: bool) -> None:
    """Raise StoreClosedError after close()."""
    if closed:
        raise StoreClosedError("this in-memory store was closed; make a new one")


class SyncInMemoryEventStore(SyncEventStore):
    """Blocking event store in memory."""

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._log = _Log(limits)

    def within(self, session: Any) -> Self:
        return self

    def close(self) -> None:
        self._log.closed = True

    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        return self._log.append(stream_id, events, expected_version)

    def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        span = check_span(stream_id, from_version, to_version, limit, backwards)
        return [stored.envelope() for stored in self._log.read(stream_id, span)]

    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> Iterator[EventEnvelope]:
        return iter(self.load(stream_id, from_version, to_version))

    def current_version(self, stream_id: StreamId) -> EventVersion:
        return self._log.current_version(stream_id)

    def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        check_wait(wait)
        return self._log.current_version(stream_id)

    def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        return self._log.read_page(after, limit, only, until)

    def latest_cursor(self) -> Cursor:
        return self._log.latest_cursor()


class InMemoryEventStore(EventStore):
    """Event store in memory."""

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._log = _Log(limits)

    def within(self, session: Any) -> Self:
        return self

    async def close(self) -> None:
        self._log.closed = True

    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        return self._log.append(stream_id, events, expected_version)

    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        span = check_span(stream_id, from_version, to_version, limit, backwards)
        return [stored.envelope() for stored in self._log.read(stream_id, span)]

    async def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        for event in await self.load(stream_id, from_version, to_version):
            yield event

    async def current_version(self, stream_id: StreamId) -> EventVersion:
        return self._log.current_version(stream_id)

    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        check_wait(wait)
        return self._log.current_version(stream_id)

    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        return self._log.read_page(after, limit, only, until)

    async def latest_cursor(self) -> Cursor:
        return self._log.latest_cursor()
