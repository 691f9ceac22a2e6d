"""Pytest plugin: a migrated database per test, cloned from a template, and stores on it.

The server is the one of K1S0_EVENT_STORE_TEST_DSN (a role that may create databases), else a
PostgreSQL in Docker (testcontainers), else the embedded one; the summary says which. Loaded by
itself where the package is installed; imports nothing before a fixture is used.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    import psycopg

    from k1s0_event_store import (
        EventStoreConfig,
        InMemoryEventStore,
        InMemorySnapshotStore,
        PostgresEventStore,
        PostgresSnapshotStore,
        PostgresSubscriptionStore,
        SyncPostgresEventStore,
        SyncPostgresSnapshotStore,
    )


def _async_fixture(function: Callable[..., Any]) -> Any:
    """A fixture of pytest-asyncio, a plain one (of no use to blocking tests) where it is missing."""
    try:
        import pytest_asyncio
    except ImportError:
        return pytest.fixture(function)
    return pytest_asyncio.fixture(function)


DSN_VARIABLE: Final = "K1S0_EVENT_STORE_TEST_DSN"
CONTAINER_IMAGE: Final = "postgres:18"

_server_used = pytest.StashKey[str]()
_numbers = itertools.count(1)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which server the tests ran on."""
    if _server_used in config.stash:
        terminalreporter.write_line(f"k1s0-event-store: tests ran on {config.stash[_server_used]}")


@pytest.fixture(scope="session")
def event_store_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """DSN of a server, of a role that may create databases."""
    with _server() as (kind, dsn):
        pytestconfig.stash[_server_used] = f"{kind}: PostgreSQL {_execute(dsn, 'SHOW server_version')}"
        yield dsn


@pytest.fixture(scope="session")
def event_store_template(event_store_server: str) -> Iterator[str]:
    """Name of a migrated database that nobody is connected to."""
    from sqlalchemy.pool import NullPool

    from k1s0_event_store.config import EventStoreConfig
    from k1s0_event_store.postgres.connection import create_sync_store_engine
    from k1s0_event_store.postgres.schema import upgrade_database

    name = _unique_name("template")
    _execute(event_store_server, f'CREATE DATABASE "{name}"')
    config = EventStoreConfig(
        dsn=database_dsn(event_store_server, name), engine_options={"poolclass": NullPool}
    )
    with create_sync_store_engine(config).begin() as connection:
        upgrade_database(connection)
    yield name
    _execute(event_store_server, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def event_store_dsn(event_store_server: str, event_store_template: str) -> Iterator[str]:
    """DSN of a migrated, empty database of this test's own."""
    with cloned_database(event_store_server, event_store_template) as dsn:
        yield dsn


@pytest.fixture
def event_store_config(event_store_dsn: str) -> EventStoreConfig:
    """Settings for the test's database."""
    from k1s0_event_store import EventStoreConfig

    return EventStoreConfig(dsn=event_store_dsn)


@_async_fixture
async def event_store(event_store_config: EventStoreConfig) -> AsyncIterator[PostgresEventStore]:
    """An event store on the test's database."""
    from k1s0_event_store import PostgresEventStore

    async with PostgresEventStore(event_store_config) as store:
        yield store


@_async_fixture
async def snapshot_store(event_store_config: EventStoreConfig) -> AsyncIterator[PostgresSnapshotStore]:
    """A snapshot store on the test's database."""
    from k1s0_event_store import PostgresSnapshotStore

    async with PostgresSnapshotStore(event_store_config) as store:
        yield store


@_async_fixture
async def subscription_store(
    event_store: PostgresEventStore, event_store_config: EventStoreConfig
) -> AsyncIterator[PostgresSubscriptionStore]:
    """A subscription store on the engine of `event_store`."""
    from k1s0_event_store import PostgresSubscriptionStore

    async with PostgresSubscriptionStore(event_store_config, bind=event_store.bind) as store:
        yield store


@pytest.fixture
def sync_event_store(event_store_config: EventStoreConfig) -> Iterator[SyncPostgresEventStore]:
    """A blocking event store on the test's database."""
    from k1s0_event_store import SyncPostgresEventStore

    with SyncPostgresEventStore(event_store_config) as store:
        yield store


@pytest.fixture
def sync_snapshot_store(event_store_config: EventStoreConfig) -> Iterator[SyncPostgresSnapshotStore]:
    """A blocking snapshot store on the test's database."""
    from k1s0_event_store import SyncPostgresSnapshotStore

    with SyncPostgresSnapshotStore(event_store_config) as store:
        yield store


@pytest.fixture
def in_memory_event_store() -> InMemoryEventStore:
    """An event store in memory."""
    from k1s0_event_store import InMemoryEventStore

    return InMemoryEventStore()


@pytest.fixture
def in_memory_snapshot_store() -> InMemorySnapshotStore:
    """A snapshot store in memory."""
    from k1s0_event_store import InMemorySnapshotStore

    return InMemorySnapshotStore()


def database_dsn(dsn: str, name: str) -> str:
    """`dsn` for another database of the same server."""
    from k1s0_event_store.config import join_url, split_url

    return join_url(split_url(dsn)._replace(path=f"/{name}"))


@contextmanager
def cloned_database(server: str, template: str) -> Iterator[str]:
    """DSN of a new database like `template`, dropped at the end."""
    name = _unique_name("test")
    with _connected(server) as connection:
        # Files are copied in half the time that it takes to log their pages, where no disk is waited for.
        strategy = "wal_log" if _run(connection, "SHOW fsync") == "on" else "file_copy"
        _run(connection, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {strategy}')
        try:
            yield database_dsn(server, name)
        finally:
            _run(connection, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    given = os.environ.get(DSN_VARIABLE)
    if given:
        yield f"the server of {DSN_VARIABLE}", given
    elif (container := _container()) is not None:
        with container:
            yield f"a container of {CONTAINER_IMAGE}", container.get_connection_url(driver=None)
    else:
        with _embedded_server() as dsn:
            yield "the embedded server", dsn


def _container() -> Any | None:
    """A container ready to start, None where no Docker engine answers."""
    if not _docker_answers():
        return None
    try:
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:  # before testcontainers 4.14
        from testcontainers.postgres import PostgresContainer
    return PostgresContainer(CONTAINER_IMAGE)


def _docker_answers() -> bool:
    with warnings.catch_warnings():
        # A client that found no engine leaves its socket to the garbage collector; until the error
        # is handled its traceback still holds the client.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            import docker
            from docker.errors import DockerException
        except ImportError:
            return False
        try:
            docker.from_env().close()
        except DockerException:
            answers = False
        else:
            answers = True
        gc.collect()
    return answers


@contextmanager
def _embedded_server() -> Iterator[str]:
    from k1s0_event_store.sandbox import running_server

    with (
        tempfile.TemporaryDirectory(prefix="k1s0-", dir=_fast_folder()) as folder,
        running_server(Path(folder) / "data") as dsn,
    ):
        # Nothing here has to survive a power cut.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            _execute(dsn, f"ALTER SYSTEM SET {setting} = off")
        _execute(dsn, "SELECT pg_reload_conf()")
        yield dsn


def _fast_folder() -> str | None:
    """Memory, where it has ample room: cloning a database is several times faster there."""
    memory = "/dev/shm"  # noqa: S108 - the folder made in it has a random name and is private
    try:
        return memory if shutil.disk_usage(memory).free > 4 << 30 else None
    except OSError:
        return None


def _unique_name(kind: str) -> str:
    return f"k1s0_{kind}_{os.getpid()}_{next(_numbers)}"


def _execute(dsn: str, sql: str) -> Any:
    """Run one statement outside a transaction; the first value of its answer, if it has one."""
    with _connected(dsn) as connection:
        return _run(connection, sql)


def _connected(dsn: str) -> psycopg.Connection:
    import psycopg

    return psycopg.connect(dsn, autocommit=True)


def _run(connection: psycopg.Connection, sql: str) -> Any:
    cursor = connection.execute(sql.encode())
    row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None
