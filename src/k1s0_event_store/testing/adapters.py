"""Blocking stores behind the async contract, so that one suite tests both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from k1s0_event_store.envelope import EventEnvelope, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.feed import EVERYTHING, LARGEST_PAGE, Cursor, EventFilter, FeedPage
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, SyncEventStore

T = TypeVar("T")


class ThreadedEventStore(EventStore):
    """A SyncEventStore whose calls run in threads: concurrent calls really race."""

    def __init__(self, store: SyncEventStore) -> None:
        self._store = store

    def within(self, session: Any) -> Self:
        return type(self)(self._store.within(session))

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)

    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        return await asyncio.to_thread(self._store.append, stream_id, events, expected_version)

    async def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        return await asyncio.to_thread(self._store.import_batch, events)

    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        return await asyncio.to_thread(
            self._store.load, stream_id, from_version, to_version, limit=limit, backwards=backwards
        )

    async def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        async for event in _in_thread(self._store.stream(stream_id, from_version, to_version)):
            yield event

    async def load_since_snapshot(
        self, stream_id: StreamId, snapshots: SnapshotStore, **options: Any
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        if not isinstance(snapshots, ThreadedSnapshotStore):
            return await super().load_since_snapshot(stream_id, snapshots, **options)
        return await asyncio.to_thread(
            self._store.load_since_snapshot, stream_id, snapshots.blocking, **options
        )

    async def current_version(self, stream_id: StreamId) -> EventVersion:
        return await asyncio.to_thread(self._store.current_version, stream_id)

    async def exists(self, stream_id: StreamId) -> bool:
        return await asyncio.to_thread(self._store.exists, stream_id)

    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        return await asyncio.to_thread(self._store.lock, stream_id, wait)

    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        return await asyncio.to_thread(self._store.read_page, after, limit, only=only, until=until)

    async def latest_cursor(self) -> Cursor:
        return await asyncio.to_thread(self._store.latest_cursor)


class ThreadedSnapshotStore(SnapshotStore):
    """A SyncSnapshotStore whose calls run in threads."""

    def __init__(self, store: SyncSnapshotStore) -> None:
        self.blocking = store

    @property
    def snapshot_interval(self) -> int:
        return self.blocking.snapshot_interval

    def within(self, session: Any) -> Self:
        return type(self)(self.blocking.within(session))

    async def close(self) -> None:
        await asyncio.to_thread(self.blocking.close)

    async def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        await asyncio.to_thread(self.blocking.save, stream_id, version, state, schema_version=schema_version)

    async def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        return await asyncio.to_thread(
            self.blocking.load_latest, stream_id, schema_version=schema_version, max_version=max_version
        )


async def _in_thread(items: Iterator[T]) -> AsyncIterator[T]:
    nothing: Any = object()
    while (item := await asyncio.to_thread(next, items, nothing)) is not nothing:
        yield item
