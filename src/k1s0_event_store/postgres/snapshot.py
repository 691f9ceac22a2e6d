"""The snapshot stores on PostgreSQL, async and blocking."""

from __future__ import annotations

from typing import Any

from k1s0_event_store.envelope import StreamId
from k1s0_event_store.postgres import operations
from k1s0_event_store.postgres.client import AsyncClient, SyncClient
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore


class PostgresSnapshotStore(AsyncClient, SnapshotStore):
    """Snapshot store on PostgreSQL for asyncio; made, joined and closed as PostgresEventStore is.

    To share one pool with an event store give it `bind=event_store.bind`.
    """

    @property
    def snapshot_interval(self) -> int:
        return self.config.snapshot_interval

    async def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        what = (stream_id, version, state, schema_version)
        await self._run(operations.save_snapshot(self._sql, *what, self.config))

    async def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        return await self._run(operations.load_snapshot(self._sql, stream_id, schema_version, max_version))


class SyncPostgresSnapshotStore(SyncClient, SyncSnapshotStore):
    """Snapshot store on PostgreSQL for blocking code; see PostgresSnapshotStore."""

    @property
    def snapshot_interval(self) -> int:
        return self.config.snapshot_interval

    def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        what = (stream_id, version, state, schema_version)
        self._run(operations.save_snapshot(self._sql, *what, self.config))

    def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        return self._run(operations.load_snapshot(self._sql, stream_id, schema_version, max_version))
