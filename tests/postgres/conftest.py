"""What the tests of the PostgreSQL stores share."""

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store import EventStoreConfig, PostgresEventStore, SyncPostgresEventStore

from .wire import proxy_before


@pytest.fixture
async def app_engine(event_store_dsn):
    """An async engine of the app's, with a table of its own."""
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, status text NOT NULL)")
        )
    yield engine
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture
def sync_app_engine(event_store_dsn):
    """A blocking engine of the app's, with a table of its own."""
    engine = create_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, status text NOT NULL)")
        )
    yield engine
    assert engine.pool.checkedout() == 0
    engine.dispose()


@pytest.fixture
def proxy(event_store_dsn):
    """A proxy in front of the test's database."""
    with proxy_before(event_store_dsn) as proxy:
        yield proxy


@pytest.fixture
async def proxied_store(proxy):
    async with PostgresEventStore(EventStoreConfig(dsn=proxy.dsn)) as store:
        yield store


@pytest.fixture
def proxied_sync_store(proxy):
    with SyncPostgresEventStore(EventStoreConfig(dsn=proxy.dsn)) as store:
        yield store
