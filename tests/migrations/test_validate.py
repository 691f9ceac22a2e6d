"""What is said of a database that is not what the code expects: by `validate`, and by every call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from k1s0_event_store import (
    STREAM_EXISTS,
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    SchemaError,
    StreamId,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.postgres.connection import create_async_store_engine

ORDER = StreamId("order", "o-1")
EVENT = EventEnvelope(ORDER, "OrderPlaced", {})

# What is done to the tables (in the schema itself), and what `validate` says then.
DAMAGE = {
    "a missing table": ("DROP TABLE snapshots", "table snapshots is missing"),
    "a missing column": ("ALTER TABLE events DROP metadata", "column events.metadata is missing"),
    "a wrong type": (
        "ALTER TABLE events ALTER event_type TYPE varchar(20)",
        "column events.event_type is character varying(20), not text",
    ),
    "a time without zone": (
        "ALTER TABLE streams ALTER updated_at TYPE timestamp",
        "column streams.updated_at is timestamp without time zone, not timestamp with time zone",
    ),
    "a missing index": ("DROP INDEX idx_events_position", "index idx_events_position is missing"),
    "a missing unique key": (
        "ALTER TABLE events DROP CONSTRAINT uq_events_event_id",
        "index uq_events_event_id is missing",
    ),
    "a missing primary key": (
        "ALTER TABLE streams DROP CONSTRAINT pk_streams",
        "index pk_streams is missing",
    ),
    "a disabled trigger": (
        "ALTER TABLE events DISABLE TRIGGER trigger_events_append_only",
        "trigger trigger_events_append_only on events is missing or disabled",
    ),
    "a trigger for replicas only": (
        "ALTER TABLE events ENABLE REPLICA TRIGGER trigger_events_append_only",
        "trigger trigger_events_append_only on events is missing or disabled",
    ),
    "a missing trigger": (
        "DROP TRIGGER trigger_streams_update_updated_at ON streams",
        "trigger trigger_streams_update_updated_at on streams is missing or disabled",
    ),
}


def _damage(dsn: str, statements: Iterable[str]) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET search_path = eventstore")
        for statement in statements:
            connection.execute(statement.encode())


async def _problems(dsn: str) -> tuple[str, ...]:
    """What `validate` says; async and blocking stores say the same."""
    config = EventStoreConfig(dsn=dsn)
    async with PostgresEventStore(config) as store:
        with pytest.raises(SchemaError) as refused:
            await store.validate()
    with SyncPostgresSnapshotStore(config) as blocking, pytest.raises(SchemaError) as blocking_refused:
        blocking.validate()
    assert str(refused.value) == str(blocking_refused.value)
    assert refused.value.schema == "eventstore"
    assert "k1s0-event-store db upgrade" in str(refused.value)
    return refused.value.problems


@pytest.mark.parametrize("kind", DAMAGE)
async def test_validate_reports(event_store_dsn: str, kind: str) -> None:
    statement, problem = DAMAGE[kind]
    _damage(event_store_dsn, [statement])
    assert await _problems(event_store_dsn) == (problem,)


async def test_validate_reports_every_problem_at_once(event_store_dsn: str) -> None:
    _damage(event_store_dsn, [statement for statement, _ in DAMAGE.values()])
    assert set(await _problems(event_store_dsn)) == {problem for _, problem in DAMAGE.values()}


async def test_validate_on_an_empty_database_names_the_tables(empty_dsn: str) -> None:
    problems = await _problems(empty_dsn)
    tables = (
        "streams", "events", "snapshots", "cluster", "subscriptions", "subscription_workers", "dead_letters",
        "personal_keys", "inbox",
    )  # fmt: skip
    assert set(problems) == {f"table {name} is missing" for name in tables}


async def test_validate_accepts_what_the_app_adds(event_store_dsn: str) -> None:
    _damage(
        event_store_dsn,
        [
            "ALTER TABLE events ADD tenant text",
            "CREATE INDEX of_the_app ON events (event_type)",
            "CREATE TABLE of_the_app_too (id int)",
        ],
    )
    async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
        await store.validate()


async def _all(events: AsyncIterator[EventEnvelope]) -> list[EventEnvelope]:
    return [event async for event in events]


def _add(state: int, _event: EventEnvelope) -> int:
    return state + 1


ASYNC_CALLS: dict[str, Callable[[PostgresEventStore], Awaitable[Any]]] = {
    "append at the end": lambda store: store.append(ORDER, [EVENT]),
    "append to a new stream": lambda store: store.append(ORDER, [EVENT], 0),
    "append at a version": lambda store: store.append(ORDER, [EVENT], 1),
    "append to an existing stream": lambda store: store.append(ORDER, [EVENT], STREAM_EXISTS),
    "append nothing": lambda store: store.append(ORDER, [], 0),
    "load": lambda store: store.load(ORDER),
    "load backwards": lambda store: store.load(ORDER, limit=1, backwards=True),
    "stream": lambda store: _all(store.stream(ORDER)),
    "exists": lambda store: store.exists(ORDER),
    "current_version": lambda store: store.current_version(ORDER),
    "replay": lambda store: store.replay(ORDER, _add, 0),
    "read_all": lambda store: _all(store.read_all()),
    "validate": lambda store: store.validate(),
}
SYNC_CALLS: dict[str, Callable[[SyncPostgresEventStore], Any]] = {
    "append at the end": lambda store: store.append(ORDER, [EVENT]),
    "append to a new stream": lambda store: store.append(ORDER, [EVENT], 0),
    "append at a version": lambda store: store.append(ORDER, [EVENT], 1),
    "append to an existing stream": lambda store: store.append(ORDER, [EVENT], STREAM_EXISTS),
    "append nothing": lambda store: store.append(ORDER, [], 0),
    "load": lambda store: store.load(ORDER),
    "load backwards": lambda store: store.load(ORDER, limit=1, backwards=True),
    "stream": lambda store: list(store.stream(ORDER)),
    "exists": lambda store: store.exists(ORDER),
    "current_version": lambda store: store.current_version(ORDER),
    "replay": lambda store: store.replay(ORDER, _add, 0),
    "read_all": lambda store: list(store.read_all()),
    "validate": lambda store: store.validate(),
}


async def test_every_async_call_without_tables_raises_schema_error(empty_dsn: str) -> None:
    config = EventStoreConfig(dsn=empty_dsn)
    engine = create_async_store_engine(config)
    store = PostgresEventStore(config, bind=engine)
    for call in ASYNC_CALLS.values():
        with pytest.raises(SchemaError, match="k1s0-event-store db upgrade"):
            await call(store)
        async with engine.connect() as connection:
            with pytest.raises(SchemaError, match="k1s0-event-store db upgrade"):
                await call(store.within(connection))
    async with engine.connect() as connection:
        with pytest.raises(SchemaError):
            await store.within(connection).lock(ORDER)
    async with engine.connect() as connection:
        with pytest.raises(SchemaError):
            await store.within(connection).lock(ORDER, wait=1)
    await engine.dispose()


def test_every_blocking_call_without_tables_raises_schema_error(empty_engine: Engine) -> None:
    store = SyncPostgresEventStore(bind=empty_engine)
    for call in SYNC_CALLS.values():
        with pytest.raises(SchemaError, match="k1s0-event-store db upgrade"):
            call(store)
        with (
            empty_engine.connect() as connection,
            pytest.raises(SchemaError, match="k1s0-event-store db upgrade"),
        ):
            call(store.within(connection))
    for wait in (None, 1):
        with empty_engine.connect() as connection, pytest.raises(SchemaError):
            store.within(connection).lock(ORDER, wait=wait)


async def test_snapshot_calls_without_tables_raise_schema_error(empty_dsn: str, empty_engine: Engine) -> None:
    blocking = SyncPostgresSnapshotStore(bind=empty_engine)
    async with PostgresSnapshotStore(EventStoreConfig(dsn=empty_dsn)) as store:
        with pytest.raises(SchemaError):
            await store.save(ORDER, 1, {})
        with pytest.raises(SchemaError):
            await store.load_latest(ORDER)
    with pytest.raises(SchemaError):
        blocking.save(ORDER, 1, {})
    with pytest.raises(SchemaError):
        blocking.load_latest(ORDER)


def test_both_lists_of_calls_are_the_same() -> None:
    assert ASYNC_CALLS.keys() == SYNC_CALLS.keys()
