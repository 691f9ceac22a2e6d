"""The event stores on PostgreSQL, async and blocking: they only execute the operations' steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial

from k1s0_event_store.config import EventStoreConfig, check_switch
from k1s0_event_store.envelope import EventEnvelope, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.feed import EVERYTHING, LARGEST_PAGE, Cursor, EventFilter, FeedPage
from k1s0_event_store.postgres import feed, operations
from k1s0_event_store.postgres.client import AsyncClient, SyncClient
from k1s0_event_store.postgres.coalescing import Coalescer
from k1s0_event_store.postgres.connection import AsyncBind
from k1s0_event_store.postgres.import_operations import import_batch
from k1s0_event_store.postgres.import_statements import import_statements_for
from k1s0_event_store.postgres.snapshot import PostgresSnapshotStore, SyncPostgresSnapshotStore
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, SyncEventStore, check_span


class PostgresEventStore(AsyncClient, EventStore):
    """Event store on PostgreSQL for asyncio.

    Stand-alone it makes an engine of its own from `config.dsn`, and each call is its own
    transaction. With `bind`, an AsyncEngine or async_sessionmaker of the app's is used and never
    closed; a sessionmaker gives each call a session of its own. `within(session)` joins the
    caller's transaction. Connects on first use.

    With `coalesce`, stand-alone appends that are called while others are under way share a statement
    and its commit; each has the answer that it would have alone. An append that is cancelled while it
    waits is not stored; cancelled under way it is stored or not: repeat it with the same events. Such a
    store belongs to one event loop. `close` waits for the appends that were called before it.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        config: EventStoreConfig | None = None,
        *,
        bind: AsyncBind | None = None,
        coalesce: bool = False,
    ) -> None:
        check_switch("coalesce", coalesce)
        super().__init__(config, bind=bind)
        self._coalescer = Coalescer(self._append_alone, self._append_together) if coalesce else None

    async def close(self) -> None:
        """Close the store's own engine; one that was given stays open. Batches are sent before."""
        if self._coalescer is not None and not self._joined:
            await self._coalescer.close()
        await super().close()

    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        wanted = operations.check_append(stream_id, events, expected_version, self.config.limits)
        if self._coalescer is None or self._joined or not wanted.batch:
            return await self._append_alone(wanted)
        return await self._coalescer.append(wanted)

    async def _append_alone(self, wanted: operations.Append) -> EventVersion:
        return await self._run(operations.append(self._sql, wanted, self._joined))

    async def _append_together(self, wanted: Sequence[operations.Append]) -> Sequence[operations.Answer]:
        return await self._run(operations.append_together(self._sql, wanted))

    async def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        sql = import_statements_for(self.config.schema, self.config.notify, self._sql.copies)
        return await self._run(import_batch(sql, events, self._joined, self.config.limits))

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
        return await self._run(operations.load(self._sql, stream_id, span))

    async def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        first = operations.first_page(check_span(stream_id, from_version, to_version))
        async for rows in self._pages(partial(operations.load_page, self._sql, stream_id), first):
            for event in operations.each_envelope(stream_id, rows):
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
        if not isinstance(snapshots, PostgresSnapshotStore) or not self._shares_tables_with(snapshots):
            return await super().load_since_snapshot(
                stream_id, snapshots, schema_version=schema_version, max_version=max_version, limit=limit
            )
        check_span(stream_id, limit=limit)
        where = (stream_id, schema_version, max_version, limit)
        return await self._run(operations.load_since_snapshot(self._sql, *where))

    async def current_version(self, stream_id: StreamId) -> EventVersion:
        return await self._run(operations.current_version(self._sql, stream_id))

    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        return await self._run(operations.lock(self._sql, stream_id, wait, self._joined))

    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        return await self._run(feed.read_page(self._sql, after, limit, only, until, self._clusters))

    async def latest_cursor(self) -> Cursor:
        return await self._run(feed.latest_cursor(self._sql))

    @property
    def reads_ahead(self) -> bool:
        # A caller's session does one thing at a time.
        return not self._joined


class SyncPostgresEventStore(SyncClient, SyncEventStore):
    """Event store on PostgreSQL for blocking code, through psycopg 3.

    As PostgresEventStore, with an Engine or sessionmaker as `bind` and a Session or Connection
    for `within`. Safe to share between threads; a store from `within` is as safe as its session.
    """

    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        wanted = operations.check_append(stream_id, events, expected_version, self.config.limits)
        return self._run(operations.append(self._sql, wanted, self._joined))

    def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        sql = import_statements_for(self.config.schema, self.config.notify, self._sql.copies)
        return self._run(import_batch(sql, events, self._joined, self.config.limits))

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
        return self._run(operations.load(self._sql, stream_id, span))

    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> Iterator[EventEnvelope]:
        first = operations.first_page(check_span(stream_id, from_version, to_version))
        for rows in self._pages(partial(operations.load_page, self._sql, stream_id), first):
            yield from operations.each_envelope(stream_id, rows)

    def load_since_snapshot(
        self,
        stream_id: StreamId,
        snapshots: SyncSnapshotStore,
        *,
        schema_version: int | None = None,
        max_version: int | None = None,
        limit: int = LARGEST_PAGE,
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        if not isinstance(snapshots, SyncPostgresSnapshotStore) or not self._shares_tables_with(snapshots):
            return super().load_since_snapshot(
                stream_id, snapshots, schema_version=schema_version, max_version=max_version, limit=limit
            )
        check_span(stream_id, limit=limit)
        where = (stream_id, schema_version, max_version, limit)
        return self._run(operations.load_since_snapshot(self._sql, *where))

    def current_version(self, stream_id: StreamId) -> EventVersion:
        return self._run(operations.current_version(self._sql, stream_id))

    def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        return self._run(operations.lock(self._sql, stream_id, wait, self._joined))

    def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        return self._run(feed.read_page(self._sql, after, limit, only, until, self._clusters))

    def latest_cursor(self) -> Cursor:
        return self._run(feed.latest_cursor(self._sql))
