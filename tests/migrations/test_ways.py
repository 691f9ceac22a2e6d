"""`alembic` in the repository and `upgrade_database`: alone, after each other and against each other."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from sqlalchemy import Engine

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.schema import (
    BASE,
    VERSION_TABLE,
    current_revision,
    downgrade_database,
    head_revision,
    upgrade_database,
)

Alembic = Callable[..., str]
Catalog = Callable[..., set[tuple[str, ...]]]
NASTY = "a \"b\" 'c' per%cent %(p1)s co:lon {events} $1 📦"
RACERS = 8
ORDER = StreamId("order", "o-1")


@pytest.fixture(params=[None, NASTY])
def schema(request: pytest.FixtureRequest) -> str | None:
    """What K1S0_EVENT_STORE_SCHEMA says; None: it is not set."""
    return request.param


async def _works(dsn: str, schema: str | None) -> None:
    async with PostgresEventStore(EventStoreConfig(dsn=dsn, schema=schema or "eventstore")) as store:
        await store.validate()
        assert await store.append(ORDER, [EventEnvelope(ORDER, "OrderPlaced", {})], 0) == 1


def _left_after_downgrade(facts: set[tuple[str, ...]]) -> set[str]:
    """The tables and functions behind the facts of a catalog, without those of the version table."""
    return {fact[1] for fact in facts} - {VERSION_TABLE, f"{VERSION_TABLE}_pkc"}


async def test_alembic_in_the_repository_upgrades_and_downgrades(
    empty_dsn: str, run_alembic: Alembic, catalog: Catalog, schema: str | None
) -> None:
    run_alembic(empty_dsn, "upgrade", "head", schema=schema)
    first = catalog(empty_dsn, schema or "eventstore")
    await _works(empty_dsn, schema)

    run_alembic(empty_dsn, "downgrade", "base", schema=schema)
    assert _left_after_downgrade(catalog(empty_dsn, schema or "eventstore")) == set()

    run_alembic(empty_dsn, "upgrade", "head", schema=schema)
    assert catalog(empty_dsn, schema or "eventstore") == first


async def test_alembics_sql_script_makes_the_same_tables(
    empty_dsn: str, empty_engine: Engine, run_alembic: Alembic, catalog: Catalog, schema: str | None
) -> None:
    name = schema or "eventstore"
    script = run_alembic("postgresql://nowhere/never", "upgrade", "head", "--sql", schema=schema)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(script.encode())
    from_script = catalog(empty_dsn, name)
    with empty_engine.connect() as connection:
        assert current_revision(connection, name) == head_revision()
    await _works(empty_dsn, schema)

    with empty_engine.begin() as connection:
        downgrade_database(connection, name)
        upgrade_database(connection, name)
    assert catalog(empty_dsn, name) == from_script


def test_alembics_downgrade_script_leaves_nothing_of_ours(
    empty_dsn: str, empty_engine: Engine, run_alembic: Alembic, catalog: Catalog
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection)
    script = run_alembic(empty_dsn, "downgrade", f"{head_revision()}:base", "--sql")
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(script.encode())
    assert _left_after_downgrade(catalog(empty_dsn)) == set()
    with empty_engine.connect() as connection:
        assert current_revision(connection) == BASE


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+asyncpg", "postgresql+psycopg"])
async def test_alembic_takes_every_form_of_url_that_the_store_takes(
    empty_dsn: str, run_alembic: Alembic, scheme: str
) -> None:
    dsn = empty_dsn.replace("postgresql://", f"{scheme}://")
    parameters = "connect_timeout=5&keepalives=1&channel_binding=prefer&sslmode=prefer&application_name=a%20b"
    dsn += f"{'&' if '?' in dsn else '?'}{parameters}"
    run_alembic(dsn, "upgrade", "head")
    await _works(dsn, None)


def test_alembic_without_a_url_says_which_variable_to_set(
    alembic_command: Callable[..., subprocess.Popen[str]],
) -> None:
    process = alembic_command("", "upgrade", "head")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "set K1S0_EVENT_STORE_DSN" in errors
    assert "Traceback" not in errors


async def test_an_async_connection_migrates_in_the_callers_transaction(
    empty_dsn: str, empty_engine: Engine
) -> None:
    engine = create_async_store_engine(EventStoreConfig(dsn=empty_dsn))
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_database)
        await connection.rollback()
        assert await connection.run_sync(current_revision) == BASE
        await connection.run_sync(upgrade_database)
        await connection.commit()
    await _works(empty_dsn, None)
    async with engine.begin() as connection:
        await connection.run_sync(downgrade_database)
        assert await connection.run_sync(current_revision) == BASE
    await engine.dispose()


def test_a_blocking_connection_migrates_in_the_callers_transaction(
    empty_dsn: str, empty_engine: Engine, catalog: Catalog
) -> None:
    with empty_engine.connect() as connection:
        upgrade_database(connection)
        connection.rollback()
    assert catalog(empty_dsn) == set()
    with empty_engine.begin() as connection:
        upgrade_database(connection)
        assert current_revision(connection) == head_revision()
    asyncio.run(_works(empty_dsn, None))


def test_the_ways_know_of_each_other(
    empty_dsn: str, empty_engine: Engine, run_alembic: Alembic, catalog: Catalog
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection)
    first = catalog(empty_dsn)
    assert run_alembic(empty_dsn, "current").startswith(head_revision())
    run_alembic(empty_dsn, "upgrade", "head")
    assert catalog(empty_dsn) == first

    run_alembic(empty_dsn, "downgrade", "base")
    with empty_engine.begin() as connection:
        assert current_revision(connection) == BASE
        upgrade_database(connection)
    assert catalog(empty_dsn) == first


def test_a_second_run_writes_nothing(empty_engine: Engine, empty_dsn: str, catalog: Catalog) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection)
    first = catalog(empty_dsn)
    with empty_engine.begin() as connection:
        upgrade_database(connection)
        upgrade_database(connection, to=head_revision())
        written = connection.exec_driver_sql("SELECT pg_current_xact_id_if_assigned()::text").scalar()
        downgrade_database(connection, to=head_revision())
    assert written is None
    assert catalog(empty_dsn) == first


def test_a_downgrade_of_an_empty_database_does_nothing(
    empty_dsn: str, empty_engine: Engine, catalog: Catalog
) -> None:
    with empty_engine.begin() as connection:
        downgrade_database(connection)
    assert catalog(empty_dsn) == set()


def test_racing_starters_all_succeed(
    empty_dsn: str, make_engine: Callable[[str], Engine], catalog: Catalog
) -> None:
    barrier = Barrier(RACERS)

    def start(_: int) -> str:
        with make_engine(empty_dsn).connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            connection.rollback()
            barrier.wait(timeout=30)
            upgrade_database(connection)
            connection.commit()
            return current_revision(connection)

    with ThreadPoolExecutor(RACERS) as pool:
        assert list(pool.map(start, range(RACERS))) == [head_revision()] * RACERS
    assert catalog(empty_dsn)
    asyncio.run(_works(empty_dsn, None))


def test_racing_starters_of_different_ways_all_succeed(
    empty_dsn: str,
    empty_engine: Engine,
    alembic_command: Callable[..., subprocess.Popen[str]],
) -> None:
    with empty_engine.connect() as holder:
        # Nobody can start before this transaction, the first in the queue, has ended.
        upgrade_database(holder)
        processes = [alembic_command(empty_dsn, "upgrade", "head") for _ in range(3)]
        _wait_for_waiters(empty_dsn, len(processes))
        holder.rollback()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    asyncio.run(_works(empty_dsn, None))


def _wait_for_waiters(dsn: str, count: int) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(600):
            if connection.execute(waiting).fetchone() == (count,):
                return
            connection.execute("SELECT pg_sleep(0.05)")
    raise AssertionError(f"{count} starters should wait")
