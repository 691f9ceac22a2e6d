"""The public types, checked by mypy and pyright and never run: every line is a promise to users.

An ignore proves that both refuse the line: each complains about one that it does not need.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, assert_type
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from k1s0_event_store import (
    STREAM_EXISTS,
    AllEvents,
    ConcurrencyError,
    EventEnvelope,
    EventStore,
    EventStoreConfig,
    EventVersion,
    ExpectedVersion,
    InMemoryEventStore,
    InMemorySnapshotStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    Replay,
    Snapshot,
    SnapshotStore,
    StreamId,
    SyncAllEvents,
    SyncEventStore,
    SyncInMemoryEventStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
    SyncSnapshotStore,
)
from k1s0_event_store.testing import Call, MockEventStore, SyncMockEventStore

ORDER = StreamId("order", "o-1")


class Total:
    """State of somebody's aggregate."""

    value = 0


def apply(total: Total, event: EventEnvelope) -> Total:
    changed = copy.copy(total)
    changed.value += event.payload["amount"]
    return changed


def values(event: EventEnvelope, snapshot: Snapshot, replay: Replay[Total]) -> None:
    assert_type(event.stream_id, StreamId)
    assert_type(event.event_id, UUID)
    assert_type(event.metadata, Mapping[str, Any])
    assert_type(event.occurred_at, datetime)
    assert_type(event.recorded_at, datetime | None)
    assert_type(event.position, int | None)
    assert_type(snapshot.taken_at, datetime)
    assert_type(replay.state, Total)
    assert_type(EventVersion(3), EventVersion)
    numbers: list[int] = [EventVersion(3)]
    assert_type(numbers[0], int)
    event.version = 4  # type: ignore[misc]
    StreamId("order", 5)  # type: ignore[arg-type]
    EventEnvelope("order-o-1", "Shipped", {})  # type: ignore[arg-type]


def configuration(section: dict[str, Any]) -> None:
    config = EventStoreConfig(dsn="postgresql://localhost/db", snapshot_interval=50)
    assert_type(EventStoreConfig.from_mapping(section), EventStoreConfig)
    assert_type(EventStoreConfig.from_url("postgresql://localhost/db"), EventStoreConfig)
    assert_type(config.masked_dsn, str | None)
    EventStoreConfig("postgresql://localhost/db")  # type: ignore[call-arg]


def errors(error: ConcurrencyError) -> None:
    assert_type(error.stream_id, StreamId)
    assert_type(error.expected_version, ExpectedVersion)
    assert_type(error.actual_version, int | None)
    assert_type(error.retryable, bool)


async def event_store(store: EventStore, event: EventEnvelope) -> None:
    assert_type(await store.append(ORDER, [event]), EventVersion)
    assert_type(await store.append(ORDER, (event,), 0), EventVersion)
    assert_type(await store.append(ORDER, [event], expected_version=None), EventVersion)
    assert_type(await store.append(ORDER, [event], STREAM_EXISTS), EventVersion)
    assert_type(await store.append(ORDER, [event], await store.current_version(ORDER)), EventVersion)
    assert_type(await store.load(ORDER, 1, 5, limit=2, backwards=True), list[EventEnvelope])
    assert_type(store.stream(ORDER, 1, 5), AsyncIterator[EventEnvelope])
    assert_type(store.read_all(), AllEvents)
    assert_type(await store.exists(ORDER), bool)
    assert_type(await store.current_version(ORDER), EventVersion)
    assert_type(await store.lock(ORDER, wait=1.5), EventVersion)


async def refused_by_event_store(store: EventStore, event: EventEnvelope) -> None:
    await store.append(ORDER, [event], "any")  # type: ignore[arg-type]
    await store.append(ORDER, [event], "STREAM_EXISTS")  # type: ignore[arg-type]
    await store.append(ORDER, [event], 1.5)  # type: ignore[arg-type]
    await store.append(ORDER, event)  # type: ignore[arg-type]
    await store.append("order-o-1", [event])  # type: ignore[arg-type]
    await store.load(ORDER, 0, None, 5)  # type: ignore[call-arg]


async def replay(store: EventStore, snapshots: SnapshotStore, blocking: SyncSnapshotStore) -> None:
    replayed = await store.replay(ORDER, apply, Total(), snapshots, restore=lambda state: Total())
    assert_type(replayed, Replay[Total])
    assert_type(replayed.state.value, int)
    assert_type(replayed.version, int)
    counted = await store.replay(ORDER, lambda count, event: count + 1, 0)
    assert_type(counted, Replay[int])
    await store.replay(ORDER, apply, Total(), blocking)  # type: ignore[arg-type]


async def snapshot_store(store: SnapshotStore) -> None:
    assert_type(await store.load_latest(ORDER, schema_version=2, max_version=7), Snapshot | None)
    await store.save(ORDER, 3, {"any": ["json"]}, schema_version=2)
    assert_type(store.is_due(60, 10), bool)
    assert_type(store.snapshot_interval, int)
    await store.save("order-o-1", 3, {})  # type: ignore[arg-type]


def blocking_event_store(store: SyncEventStore, snapshots: SyncSnapshotStore, event: EventEnvelope) -> None:
    assert_type(store.append(ORDER, [event], STREAM_EXISTS), EventVersion)
    assert_type(store.load(ORDER), list[EventEnvelope])
    assert_type(store.stream(ORDER), Iterator[EventEnvelope])
    assert_type(store.read_all(), SyncAllEvents)
    assert_type(store.exists(ORDER), bool)
    assert_type(store.current_version(ORDER), EventVersion)
    assert_type(store.lock(ORDER), EventVersion)
    assert_type(store.replay(ORDER, apply, Total(), snapshots), Replay[Total])
    assert_type(snapshots.load_latest(ORDER), Snapshot | None)
    store.append(ORDER, [event], "any")  # type: ignore[arg-type]


async def within_gives_the_same_type(
    config: EventStoreConfig, session: AsyncSession, connection: AsyncConnection, blocking: Session
) -> None:
    store, snapshots = PostgresEventStore(config), PostgresSnapshotStore(config)
    assert_type(store.within(session), PostgresEventStore)
    assert_type(store.within(connection), PostgresEventStore)
    assert_type(snapshots.within(session), PostgresSnapshotStore)
    assert_type(InMemoryEventStore().within(session), InMemoryEventStore)
    assert_type(InMemorySnapshotStore().within(session), InMemorySnapshotStore)
    assert_type(MockEventStore().within(session), MockEventStore)
    async with store as entered:
        assert_type(entered, PostgresEventStore)
    store.within(blocking)  # type: ignore[arg-type]


def blocking_within_gives_the_same_type(
    config: EventStoreConfig, session: Session, connection: Connection, asynchronous: AsyncSession
) -> None:
    store, snapshots = SyncPostgresEventStore(config), SyncPostgresSnapshotStore(config)
    assert_type(store.within(session), SyncPostgresEventStore)
    assert_type(store.within(connection), SyncPostgresEventStore)
    assert_type(snapshots.within(session), SyncPostgresSnapshotStore)
    assert_type(SyncInMemoryEventStore().within(session), SyncInMemoryEventStore)
    assert_type(SyncMockEventStore().within(session), SyncMockEventStore)
    with store as entered:
        assert_type(entered, SyncPostgresEventStore)
    store.within(asynchronous)  # type: ignore[arg-type]


def engines_and_sessionmakers_are_taken(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    blocking: Engine,
    makers: sessionmaker[Session],
) -> None:
    PostgresEventStore(bind=engine)
    PostgresSnapshotStore(bind=sessions)
    SyncPostgresEventStore(bind=blocking)
    SyncPostgresSnapshotStore(bind=makers)
    PostgresEventStore(bind=blocking)  # type: ignore[arg-type]
    SyncPostgresEventStore(bind=engine)  # type: ignore[arg-type]


def mocks(event: EventEnvelope) -> None:
    mock, blocking = MockEventStore(), SyncMockEventStore()
    stores: tuple[list[EventStore], list[SyncEventStore]] = ([mock], [blocking])
    assert_type(stores, tuple[list[EventStore], list[SyncEventStore]])
    assert_type(mock.calls, list[Call])
    mock.conflict_once(ORDER, [event])
    blocking.fail_next("append", ValueError("any exception"), after_effect=True, skip=2)
    mock.fail_next("append", "down")  # type: ignore[arg-type]
    MockEventStore(SyncInMemoryEventStore())  # type: ignore[arg-type]
