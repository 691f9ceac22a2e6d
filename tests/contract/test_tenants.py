"""The contract suites for a tenant, in tables that hold the same streams of another."""

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from k1s0_event_store import PostgresEventStore, PostgresSnapshotStore
from k1s0_event_store.testing.inbox_contract import (
    InboxContract,
    RacingInboxContract,
    TransactionalInboxContract,
)
from k1s0_event_store.testing.key_contract import KeyStoreContract, RacingKeysContract
from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract

from .stores import AlwaysCoalescing, Events, EventsAlone, Postgres, RacingContract, SyncPostgres


@pytest.fixture
def event_store_config(acme):
    return replace(acme, pool_size=20)


class TestPostgres(Postgres, Events):
    pass


class TestSyncPostgres(SyncPostgres, Events):
    pass


class TestCoalescing(AlwaysCoalescing, RacingContract):
    pass


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


class TestAppSessionmaker(Events):
    @pytest.fixture
    def maker(self, event_store):
        return async_sessionmaker(event_store.bind)

    @pytest.fixture
    def store(self, maker, event_store_config):
        return PostgresEventStore(event_store_config, bind=maker)

    @pytest.fixture
    def snapshots(self, maker, event_store_config):
        return PostgresSnapshotStore(event_store_config, bind=maker)


class TestKeys(Postgres, KeyStoreContract, RacingKeysContract):
    pass


class TestSubscriptions(Postgres, SubscriptionStoreContract, RunnerContract):
    pass


class TestInbox(Postgres, InboxContract, RacingInboxContract, TransactionalInboxContract):
    pass
