"""The stores in memory: for tests and prototypes, and the specimen for authors of backends.

They pass the same contract suite as the PostgreSQL stores. They have no transactions: what is
appended stays, whatever becomes of the session given to `within`. Safe to share between threads.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Self
from uuid import UUID

from k1s0_event_store.batch import Batch, check_stream_id, encode_batch
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import (
    EventEnvelope,
    EventVersion,
    ExpectedVersion,
    StreamId,
    check_expected_version,
    stored_envelope,
)
from k1s0_event_store.exceptions import StoreClosedError
from k1s0_event_store.jsontext import decode
from k1s0_event_store.outcome import first_answer, require
from k1s0_event_store.snapshot import (
    Snapshot,
    SnapshotStore,
    SyncSnapshotStore,
    check_snapshot_query,
    encode_state,
)
from k1s0_event_store.store import EventStore, Span, SyncEventStore, check_span, check_wait


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
    """The events of one store; every method is one atomic step."""

    def __init__(self) -> None:
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
        batch = encode_batch(stream_id, events)
        with self._lock:
            actual = len(self._streams.get(stream_id, ()))
            known = self._known(stream_id, batch)
            if known:
                return first_answer(stream_id, expected, batch.event_ids, known)
            require(stream_id, expected, actual)
            self._add(stream_id, batch, actual)
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

    def read_all(self) -> list[_Stored]:
        self._check_open()
        with self._lock:
            return list(self._all)

    def current_version(self, stream_id: StreamId) -> EventVersion:
        self._check_open()
        with self._lock:
            return EventVersion(len(self._streams.get(check_stream_id(stream_id), ())))

    def _check_open(self) -> None:
        _check_open(self.closed)


def _check_open(closed: bool) -> None:
    if closed:
        raise StoreClosedError("this in-memory store was closed; make a new one")


class SyncInMemoryEventStore(SyncEventStore):
    """Blocking event store in memory."""

    def __init__(self) -> None:
        self._log = _Log()

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

    def read_all(self) -> Iterator[EventEnvelope]:
        return (stored.envelope() for stored in self._log.read_all())


class InMemoryEventStore(EventStore):
    """Event store in memory."""

    def __init__(self) -> None:
        self._log = _Log()

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

    async def read_all(self) -> AsyncIterator[EventEnvelope]:
        for stored in self._log.read_all():
            yield stored.envelope()


class _Snapshots:
    """The snapshots of one store, by stream and ascending version, states as JSON text."""

    def __init__(self, interval: int, kept: int) -> None:
        checked = EventStoreConfig(snapshot_interval=interval, snapshots_kept=kept)
        self.interval = checked.snapshot_interval
        self.closed = False
        self._kept = checked.snapshots_kept
        self._lock = threading.Lock()
        self._streams: dict[StreamId, list[tuple[int, str, datetime, int]]] = {}

    def save(self, stream_id: StreamId, version: int, state: Any, schema_version: int) -> None:
        _check_open(self.closed)
        text = encode_state(stream_id, version, state, schema_version)
        with self._lock:
            rows = [row for row in self._streams.get(stream_id, []) if row[0] != version]
            insort(rows, (version, text, datetime.now(UTC), schema_version), key=itemgetter(0))
            oldest = rows[-self._kept :][0][0]
            self._streams[stream_id] = [row for row in rows if row[0] >= oldest or row[0] == version]

    def load_latest(
        self, stream_id: StreamId, schema_version: int | None, max_version: int | None
    ) -> Snapshot | None:
        _check_open(self.closed)
        last = check_snapshot_query(stream_id, schema_version, max_version)
        with self._lock:
            rows = list(self._streams.get(stream_id, ()))
        for version, text, taken_at, schema in reversed(rows):
            if version <= last and schema_version in {None, schema}:
                return Snapshot(stream_id, version, decode(text), taken_at, schema)
        return None


class SyncInMemorySnapshotStore(SyncSnapshotStore):
    """Blocking snapshot store in memory."""

    def __init__(self, *, snapshot_interval: int = 50, snapshots_kept: int = 2) -> None:
        self._snapshots = _Snapshots(snapshot_interval, snapshots_kept)

    @property
    def snapshot_interval(self) -> int:
        return self._snapshots.interval

    def within(self, session: Any) -> Self:
        return self

    def close(self) -> None:
        self._snapshots.closed = True

    def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        self._snapshots.save(stream_id, version, state, schema_version)

    def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        return self._snapshots.load_latest(stream_id, schema_version, max_version)


class InMemorySnapshotStore(SnapshotStore):
    """Snapshot store in memory."""

    def __init__(self, *, snapshot_interval: int = 50, snapshots_kept: int = 2) -> None:
        self._snapshots = _Snapshots(snapshot_interval, snapshots_kept)

    @property
    def snapshot_interval(self) -> int:
        return self._snapshots.interval

    def within(self, session: Any) -> Self:
        return self

    async def close(self) -> None:
        self._snapshots.closed = True

    async def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        self._snapshots.save(stream_id, version, state, schema_version)

    async def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        return self._snapshots.load_latest(stream_id, schema_version, max_version)
