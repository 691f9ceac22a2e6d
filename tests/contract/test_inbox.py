"""The contract suite of inboxes on every one of the library, in every kind of session."""

from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.testing.inbox_contract import (
    RACERS,
    InboxContract,
    RacingInboxContract,
    TransactionalInboxContract,
)

from ..long_form import one_in
from .stores import InMemory, Postgres

ODD_SCHEMA = 'Odd "schema" %s :x'


async def engine_on(dsn, driver):
    engine = create_async_engine(
        dsn.replace("postgresql://", f"postgresql+{driver}://"), pool_size=RACERS + 1, max_overflow=0
    )
    yield engine
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture
async def asyncpg_engine(event_store_dsn):
    async for engine in engine_on(event_store_dsn, "asyncpg"):
        yield engine


@pytest.fixture
async def psycopg_engine(event_store_dsn):
    async for engine in engine_on(event_store_dsn, "psycopg"):
        yield engine


class OnPostgres(Postgres, InboxContract, RacingInboxContract, TransactionalInboxContract):
    pass


class TestInMemory(InMemory, InboxContract, RacingInboxContract):
    pass


class TestAsyncSession(OnPostgres):
    @pytest.fixture
    def begin(self, asyncpg_engine):
        return async_sessionmaker(asyncpg_engine).begin


class TestConnectionOfPsycopg(OnPostgres):
    @pytest.fixture
    def begin(self, psycopg_engine):
        return psycopg_engine.begin


@one_in(3)
class TestConnectionOfAsyncpg(OnPostgres):
    @pytest.fixture
    def begin(self, asyncpg_engine):
        return asyncpg_engine.begin


@one_in(3)
class TestScopedSession(OnPostgres):
    """The app's session per request."""

    @pytest.fixture
    def begin(self, asyncpg_engine):
        request = ContextVar("request", default=None)
        scoped = async_scoped_session(async_sessionmaker(asyncpg_engine), scopefunc=request.get)

        @asynccontextmanager
        async def begin():
            token = request.set(object())
            try:
                async with scoped.begin():
                    yield scoped
            finally:
                await scoped.remove()
                request.reset(token)

        return begin


@one_in(3)
class TestSessionThatBeganByItself(OnPostgres):
    """On psycopg, in a schema of another name; without autoflush, and the commit is called."""

    @pytest.fixture
    def make_inbox(self):
        return lambda consumer: PostgresInbox(consumer, EventStoreConfig(schema=ODD_SCHEMA))

    @pytest.fixture
    async def begin(self, psycopg_engine):
        async with psycopg_engine.begin() as connection:
            await connection.run_sync(upgrade_database, ODD_SCHEMA)

        @asynccontextmanager
        async def begin():
            async with AsyncSession(psycopg_engine, autoflush=False) as session:
                yield session
                await session.commit()

        return begin
