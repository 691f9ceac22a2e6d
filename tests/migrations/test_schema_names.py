"""Any name that PostgreSQL takes for a schema works, and none is ever read as SQL."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Engine

from k1s0_event_store import (
    ConfigurationError,
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.schema import (
    BASE,
    current_revision,
    downgrade_database,
    head_revision,
    upgrade_database,
)

ORDER = StreamId("order", "o-1")
NAMES = [
    "with space",
    'dou"ble',
    "sin'gle",
    "co:lon ::text",
    "per%cent",
    "py %(p1)s %s",
    "UPPER",
    "select",
    "📦",
    "{events}",
    "{schema}",
    "$1",
    "$$",
    "dot.ted",
    "back\\slash \\:x",
    "/* comment",
    "x" * 63,
    '"; DROP TABLE x; --',
    "'; DROP TABLE x; --",
    "x; DROP TABLE x; --",
]
REFUSED = ["", "x" * 64, "é" * 32, "pg_events", "information_schema", "nul\x00", "\ud800"]


@pytest.fixture(params=NAMES)
def schema(request: pytest.FixtureRequest) -> str:
    """A name that must be quoted."""
    return request.param


@pytest.fixture
def bystander(empty_dsn: str) -> Callable[[], list[tuple[int]]]:
    """The rows of a table of somebody else's, called x."""
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE TABLE x (id int); INSERT INTO x VALUES (1), (2)")

    def rows() -> list[tuple[int]]:
        with psycopg.connect(empty_dsn) as connection:
            return connection.execute("SELECT id FROM x ORDER BY id").fetchall()

    return rows


def _event(number: int) -> EventEnvelope:
    return EventEnvelope(ORDER, "OrderPlaced", {"number": number})


def test_a_blocking_store_works_in_a_schema_of_this_name(
    empty_dsn: str, empty_engine: Engine, schema: str, bystander: Callable[[], list[tuple[int]]]
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection, schema)
        assert current_revision(connection, schema) == head_revision()
    config = EventStoreConfig(schema=schema)
    store = SyncPostgresEventStore(config, bind=empty_engine)
    snapshots = SyncPostgresSnapshotStore(config, bind=empty_engine)
    store.validate()
    assert store.append(ORDER, [_event(1), _event(2)], 0) == 2
    assert [event.payload for event in store.load(ORDER)] == [{"number": 1}, {"number": 2}]
    assert [event.version for event in store.read_all()] == [1, 2]
    snapshots.save(ORDER, 2, {"sum": 3})
    found = snapshots.load_latest(ORDER)
    assert found is not None
    assert found.state == {"sum": 3}
    with empty_engine.begin() as connection:
        downgrade_database(connection, schema)
        assert current_revision(connection, schema) == BASE
    assert bystander() == [(1,), (2,)]


async def test_an_async_store_works_in_a_schema_of_this_name(
    empty_dsn: str, schema: str, bystander: Callable[[], list[tuple[int]]]
) -> None:
    config = EventStoreConfig(dsn=empty_dsn, schema=schema)
    engine = create_async_store_engine(config)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_database, schema)
    store, snapshots = PostgresEventStore(config, bind=engine), PostgresSnapshotStore(config, bind=engine)
    await store.validate()
    assert await store.append(ORDER, [_event(1), _event(2)], 0) == 2
    async with engine.begin() as connection:
        assert await store.within(connection).lock(ORDER) == 2
        assert await store.within(connection).append(ORDER, [_event(3)], 2) == 3
    assert [event.payload["number"] for event in await store.load(ORDER)] == [1, 2, 3]
    assert [event.version async for event in store.read_all()] == [1, 2, 3]
    await snapshots.save(ORDER, 3, {"sum": 6})
    found = await snapshots.load_latest(ORDER)
    assert found is not None
    assert found.state == {"sum": 6}
    async with engine.begin() as connection:
        await connection.run_sync(downgrade_database, schema)
    await engine.dispose()
    assert bystander() == [(1,), (2,)]


def test_two_schemas_of_one_database_are_two_stores(empty_engine: Engine) -> None:
    stores = []
    for name in ("one", "One"):
        with empty_engine.begin() as connection:
            upgrade_database(connection, name)
        stores.append(SyncPostgresEventStore(EventStoreConfig(schema=name), bind=empty_engine))
    stores[0].append(ORDER, [_event(1)], 0)
    assert [store.current_version(ORDER) for store in stores] == [1, 0]


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("migrate", [upgrade_database, downgrade_database])
def test_names_that_postgresql_would_refuse_or_cut_are_refused_before_anything_is_done(
    empty_engine: Engine, refused: str, migrate: Callable[..., None]
) -> None:
    with empty_engine.begin() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM pg_namespace").scalar()
        with pytest.raises(ConfigurationError, match="schema"):
            migrate(connection, refused)
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_namespace").scalar() == before
