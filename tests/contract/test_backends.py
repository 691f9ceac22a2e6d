"""The contract suite on every store of the library, alone and inside a caller's transaction."""

import asyncio

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from k1s0_event_store import (
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.testing.adapters import ThreadedEventStore, ThreadedSnapshotStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract, SnapshotContract

from ..long_form import one_in
from .stores import (
    AlwaysCoalescing,
    ByCopy,
    Coalescing,
    Events,
    EventsAlone,
    InMemory,
    Postgres,
    SyncInMemory,
    SyncPostgres,
)


class TestInMemory(InMemory, Events):
    pass


class TestSyncInMemory(SyncInMemory, Events):
    pass


class TestPostgres(Postgres, Events):
    pass


class TestSyncPostgres(SyncPostgres, Events):
    pass


class TestPostgresCoalescing(Coalescing, RacingContract):
    pass


@one_in(2)
class TestPostgresAlwaysCoalescing(AlwaysCoalescing, EventStoreContract, RacingContract):
    pass


@one_in(2)
class TestPostgresByCopy(ByCopy, EventStoreContract, RacingContract):
    pass


class TestPostgresOnOneEngine(Postgres, SnapshotContract):
    """Events and snapshots are read together there."""

    @pytest.fixture
    def snapshots(self, event_store):
        return PostgresSnapshotStore(event_store.config, bind=event_store.bind)


class TestSyncPostgresOnOneEngine(SyncPostgres, SnapshotContract):
    @pytest.fixture
    def snapshots(self, sync_event_store):
        store = SyncPostgresSnapshotStore(sync_event_store.config, bind=sync_event_store.bind)
        return ThreadedSnapshotStore(store)


@one_in(2)
class TestWithinAsyncSession(EventsAlone):
    @pytest.fixture
    async def session(self, event_store):
        async with AsyncSession(event_store.bind) as session:
            yield session

    @pytest.fixture
    def store(self, event_store, session):
        return event_store.within(session)

    @pytest.fixture
    def snapshots(self, snapshot_store, session):
        return snapshot_store.within(session)

    # Only what is committed is in the feed; the session's own events come with its commit.
    @pytest.fixture
    def feed_store(self, store, session):
        class Committing(type(store)):
            async def append(self, *args):
                answer = await super().append(*args)
                await session.commit()
                return answer

            async def import_batch(self, events):
                answer = await super().import_batch(events)
                await session.commit()
                return answer

        committing = Committing.__new__(Committing)
        committing.__dict__.update(store.__dict__)
        return committing


@one_in(3)
class TestWithinSession(EventsAlone):
    @pytest.fixture
    def session(self, sync_event_store):
        with Session(sync_event_store.bind) as session:
            yield session

    @pytest.fixture
    def store(self, sync_event_store, session):
        return ThreadedEventStore(sync_event_store.within(session))

    @pytest.fixture
    def snapshots(self, sync_snapshot_store, session):
        return ThreadedSnapshotStore(sync_snapshot_store.within(session))

    @pytest.fixture
    def feed_store(self, store, session):
        class Committing(ThreadedEventStore):
            async def append(self, *args):
                answer = await super().append(*args)
                await asyncio.to_thread(session.commit)
                return answer

            async def import_batch(self, events):
                answer = await super().import_batch(events)
                await asyncio.to_thread(session.commit)
                return answer

        return Committing(store._store)


@one_in(2)
class TestAppEngine(Events):
    """Bound to an engine of the app's, on psycopg's async side."""

    @pytest.fixture
    async def engine(self, event_store_dsn):
        engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
        yield engine
        await engine.dispose()

    @pytest.fixture
    def store(self, engine):
        return PostgresEventStore(bind=engine)

    @pytest.fixture
    def snapshots(self, engine):
        return PostgresSnapshotStore(bind=engine)


@one_in(3)
class TestAppSessionmaker(Events):
    """Bound to a sessionmaker of the app's: each call in a session of its own."""

    @pytest.fixture
    async def maker(self, event_store_dsn):
        engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+asyncpg://"))
        yield async_sessionmaker(engine)
        await engine.dispose()

    @pytest.fixture
    def store(self, maker):
        return PostgresEventStore(bind=maker)

    @pytest.fixture
    def snapshots(self, maker):
        return PostgresSnapshotStore(bind=maker)


@one_in(2)
class TestSyncAppEngine(Events):
    """Bound to a blocking engine of the app's, in a schema of another name."""

    @pytest.fixture
    def engine(self, event_store_dsn):
        from k1s0_event_store.postgres.schema import upgrade_database

        engine = create_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            upgrade_database(connection, 'Odd "schema" %s :x')
        yield engine
        engine.dispose()

    @pytest.fixture
    def config(self):
        return EventStoreConfig(schema='Odd "schema" %s :x')

    @pytest.fixture
    def store(self, engine, config):
        return ThreadedEventStore(SyncPostgresEventStore(config, bind=engine))

    @pytest.fixture
    def snapshots(self, engine, config):
        return ThreadedSnapshotStore(SyncPostgresSnapshotStore(config, bind=engine))
