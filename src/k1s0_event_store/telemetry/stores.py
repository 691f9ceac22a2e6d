"""Event stores that tell what they do, around any other one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Self

from opentelemetry.trace import get_current_span

from k1s0_event_store.envelope import EventEnvelope, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.feed import EVERYTHING, LARGEST_PAGE, Cursor, EventFilter, FeedPage
from k1s0_event_store.message import Message
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, SyncEventStore
from k1s0_event_store.telemetry.context import carrying
from k1s0_event_store.telemetry.signals import StoreSignals
from k1s0_event_store.telemetry.snapshots import SyncTracedSnapshotStore, TracedSnapshotStore
from k1s0_event_store.telemetry.wrapping import AsyncWrapper, SyncWrapper


class TracedEventStore(AsyncWrapper[EventStore], EventStore):
    """An EventStore around `wrapped`: see Telemetry.store."""

    def __init__(self, wrapped: EventStore, signals: StoreSignals) -> None:
        self.wrapped = wrapped
        self._signals = signals

    def within(self, session: Any) -> Self:
        bound = copy(self)
        bound.wrapped = self.wrapped.within(session)
        return bound

    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        with self._signals.append(stream_id, events) as carried:
            return await self.wrapped.append(stream_id, carried, expected_version)

    async def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        with self._signals.timed("import_batch"):
            return await self.wrapped.import_batch(events)

    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        with self._signals.operation("load", stream_id):
            return await self.wrapped.load(
                stream_id, from_version, to_version, limit=limit, backwards=backwards
            )

    async def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        with self._signals.operation("stream", stream_id, detached=True):
            async for event in self.wrapped.stream(stream_id, from_version, to_version):
                yield event

    async def load_since_snapshot(
        self,
        stream_id: StreamId,
        snapshots: SnapshotStore,
        *,
        schema_version: int | None = None,
        max_version: int | None = None,
        limit: int = LARGEST_PAGE,
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        known = snapshots.wrapped if isinstance(snapshots, TracedSnapshotStore) else snapshots
        with self._signals.operation("load_since_snapshot", stream_id):
            return await self.wrapped.load_since_snapshot(
                stream_id, known, schema_version=schema_version, max_version=max_version, limit=limit
            )

    async def current_version(self, stream_id: StreamId) -> EventVersion:
        with self._signals.operation("current_version", stream_id):
            return await self.wrapped.current_version(stream_id)

    async def exists(self, stream_id: StreamId) -> bool:
        with self._signals.operation("exists", stream_id):
            return await self.wrapped.exists(stream_id)

    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        with self._signals.operation("lock", stream_id):
            return await self.wrapped.lock(stream_id, wait)

    async def enqueue(self, *messages: Message) -> None:
        span = get_current_span()
        await super().enqueue(*(carrying(message, span) for message in messages))

    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        with self._signals.timed("read_page"):
            return await self.wrapped.read_page(after, limit, only=only, until=until)

    async def latest_cursor(self) -> Cursor:
        with self._signals.timed("latest_cursor"):
            return await self.wrapped.latest_cursor()

    @property
    def reads_ahead(self) -> bool:
        return self.wrapped.reads_ahead


class SyncTracedEventStore(SyncWrapper[SyncEventStore], SyncEventStore):
    """TracedEventStore for blocking code."""

    def __init__(self, wrapped: SyncEventStore, signals: StoreSignals) -> None:
        self.wrapped = wrapped
        self._signals = signals

    def within(self, session: Any) -> Self:
        bound = copy(self)
        bound.wrapped = self.wrapped.within(session)
        return bound

    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        with self._signals.append(stream_id, events) as carried:
            return self.wrapped.append(stream_id, carried, expected_version)

    def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        with self._signals.timed("import_batch"):
            return self.wrapped.import_batch(events)

    def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        with self._signals.operation("load", stream_id):
            return self.wrapped.load(stream_id, from_version, to_version, limit=limit, backwards=backwards)

    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> Iterator[EventEnvelope]:
        with self._signals.operation("stream", stream_id, detached=True):
            yield from self.wrapped.stream(stream_id, from_version, to_version)

    def load_since_snapshot(
        self,
        stream_id: StreamId,
        snapshots: SyncSnapshotStore,
        *,
        schema_version: int | None = None,
        max_version: int | None = None,
        limit: int = LARGEST_PAGE,
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        known = snapshots.wrapped if isinstance(snapshots, SyncTracedSnapshotStore) else snapshots
        with self._signals.operation("load_since_snapshot", stream_id):
            return self.wrapped.load_since_snapshot(
                stream_id, known, schema_version=schema_version, max_version=max_version, limit=limit
            )

    def current_version(self, stream_id: StreamId) -> EventVersion:
        with self._signals.operation("current_version", stream_id):
            return self.wrapped.current_version(stream_id)

    def exists(self, stream_id: StreamId) -> bool:
        with self._signals.operation("exists", stream_id):
            return self.wrapped.exists(stream_id)

    def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        with self._signals.operation("lock", stream_id):
            return self.wrapped.lock(stream_id, wait)

    def enqueue(self, *messages: Message) -> None:
        span = get_current_span()
        super().enqueue(*(carrying(message, span) for message in messages))

    def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        with self._signals.timed("read_page"):
            return self.wrapped.read_page(after, limit, only=only, until=until)

    def latest_cursor(self) -> Cursor:
        with self._signals.timed("latest_cursor"):
            return self.wrapped.latest_cursor()
