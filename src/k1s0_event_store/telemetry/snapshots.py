"""Snapshot stores that tell what they do, around any other one."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

from k1s0_event_store.envelope import StreamId
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore
from k1s0_event_store.telemetry.signals import StoreSignals
from k1s0_event_store.telemetry.wrapping import AsyncWrapper, SyncWrapper


class TracedSnapshotStore(AsyncWrapper[SnapshotStore], SnapshotStore):
    """A SnapshotStore around `wrapped`: see Telemetry.snapshots."""

    def __init__(self, wrapped: SnapshotStore, signals: StoreSignals) -> None:
        self.wrapped = wrapped
        self._signals = signals

    @property
    def snapshot_interval(self) -> int:
        return self.wrapped.snapshot_interval

    def is_due(self, version: int, last_snapshot_version: int = 0) -> bool:
        return self.wrapped.is_due(version, last_snapshot_version)

    def within(self, session: Any) -> Self:
        bound = copy(self)
        bound.wrapped = self.wrapped.within(session)
        return bound

    async def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        with self._signals.operation("save_snapshot", stream_id):
            await self.wrapped.save(stream_id, version, state, schema_version=schema_version)

    async def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        with self._signals.operation("load_snapshot", stream_id):
            return await self.wrapped.load_latest(
                stream_id, schema_version=schema_version, max_version=max_version
            )


class SyncTracedSnapshotStore(SyncWrapper[SyncSnapshotStore], SyncSnapshotStore):
    """TracedSnapshotStore for blocking code."""

    def __init__(self, wrapped: SyncSnapshotStore, signals: StoreSignals) -> None:
        self.wrapped = wrapped
        self._signals = signals

    @property
    def snapshot_interval(self) -> int:
        return self.wrapped.snapshot_interval

    def is_due(self, version: int, last_snapshot_version: int = 0) -> bool:
        return self.wrapped.is_due(version, last_snapshot_version)

    def within(self, session: Any) -> Self:
        bound = copy(self)
        bound.wrapped = self.wrapped.within(session)
        return bound

    def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        with self._signals.operation("save_snapshot", stream_id):
            self.wrapped.save(stream_id, version, state, schema_version=schema_version)

    def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        with self._signals.operation("load_snapshot", stream_id):
            return self.wrapped.load_latest(stream_id, schema_version=schema_version, max_version=max_version)
