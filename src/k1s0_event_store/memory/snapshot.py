"""The snapshot stores in memory, async and blocking."""

from __future__ import annotations

import threading
from bisect import insort
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Self

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.jsontext import decode
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits
from k1s0_event_store.memory.store import check_open
from k1s0_event_store.snapshot import (
    Snapshot,
    SnapshotStore,
    SyncSnapshotStore,
    check_snapshot_query,
    encode_state,
)


class _Snapshots:
    """The snapshots of one store, by stream and ascending version, states as JSON text."""

    def __init__(self, interval: int, kept: int, limits: Limits) -> None:
        checked = EventStoreConfig(snapshot_interval=interval, snapshots_kept=kept, limits=limits)
        self.interval = checked.snapshot_interval
        self.closed = False
        self._kept = checked.snapshots_kept
        self._limits = checked.limits
        self._lock = threading.Lock()
        self._streams: dict[StreamId, list[tuple[int, str, datetime, int]]] = {}

    def save(self, stream_id: StreamId, version: int, state: Any, schema_version: int) -> None:
        check_open(self.closed)
        text = encode_state(stream_id, version, state, schema_version, self._limits)
        with self._lock:
            rows = [row for row in self._streams.get(stream_id, []) if row[0] != version]
            insort(rows, (version, text, datetime.now(UTC), schema_version), key=itemgetter(0))
            oldest = rows[-self._kept :][0][0]
            self._streams[stream_id] = [row for row in rows if row[0] >= oldest or row[0] == version]

    def load_latest(
        self, stream_id: StreamId, schema_version: int | None, max_version: int | None
    ) -> Snapshot | None:
        check_open(self.closed)
        last = check_snapshot_query(stream_id, schema_version, max_version)
        with self._lock:
            rows = list(self._streams.get(stream_id, ()))
        for version, text, taken_at, schema in reversed(rows):
            if version <= last and schema_version in {None, schema}:
                return Snapshot(stream_id, version, decode(text), taken_at, schema)
        return None


class SyncInMemorySnapshotStore(SyncSnapshotStore):
    """Blocking snapshot store in memory."""

    def __init__(
        self, *, snapshot_interval: int = 50, snapshots_kept: int = 2, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._snapshots = _Snapshots(snapshot_interval, snapshots_kept, limits)

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

    def __init__(
        self, *, snapshot_interval: int = 50, snapshots_kept: int = 2, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._snapshots = _Snapshots(snapshot_interval, snapshots_kept, limits)

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
