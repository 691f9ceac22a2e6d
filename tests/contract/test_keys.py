"""The contract suite of key stores on every one of the library, alone and in a caller's transaction."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.memory import InMemoryKeyStore
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.testing.key_contract import KeyStoreContract, RacingKeysContract

from ..long_form import one_in
from .stores import WRAPPING, InMemory, Postgres

ODD_SCHEMA = 'Odd "schema" %s :x'


@pytest.fixture
async def engine(event_store_dsn):
    """An engine of the app's, on psycopg."""
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    await engine.dispose()


class TestInMemory(InMemory, KeyStoreContract, RacingKeysContract):
    pass


class TestInMemoryWithin(KeyStoreContract):
    @pytest.fixture
    def keys(self):
        return InMemoryKeyStore().within(object())


class TestPostgres(Postgres, KeyStoreContract, RacingKeysContract):
    @pytest.fixture
    def event_store_config(self, event_store_dsn):
        return EventStoreConfig(dsn=event_store_dsn, pool_size=16, max_overflow=0)


@one_in(3)
class TestWithinAsyncSession(KeyStoreContract):
    @pytest.fixture
    async def keys(self, event_store):
        async with AsyncSession(event_store.bind) as session:
            yield PostgresKeyStore(bind=event_store.bind, wrapping=WRAPPING).within(session)


@one_in(3)
class TestWithinConnectionOfPsycopg(KeyStoreContract):
    @pytest.fixture
    async def keys(self, engine):
        async with engine.connect() as connection:
            yield PostgresKeyStore(bind=engine, wrapping=WRAPPING).within(connection)


@one_in(3)
class TestAppSessionmaker(KeyStoreContract, RacingKeysContract):
    """Bound to a sessionmaker of the app's, on psycopg, in a schema of another name."""

    @pytest.fixture
    async def keys(self, engine):
        async with engine.begin() as connection:
            await connection.run_sync(upgrade_database, ODD_SCHEMA)
        maker = async_sessionmaker(engine)
        return PostgresKeyStore(EventStoreConfig(schema=ODD_SCHEMA), bind=maker, wrapping=WRAPPING)


@one_in(3)
class TestTransactionPooler(Postgres, KeyStoreContract, RacingKeysContract):
    @pytest.fixture
    def event_store_config(self, event_store_dsn):
        return EventStoreConfig(dsn=event_store_dsn, transaction_pooler=True)
