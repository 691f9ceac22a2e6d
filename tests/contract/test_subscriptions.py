"""The contract suite of subscriptions on every store of the library."""

from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from k1s0_event_store.memory import InMemoryEventStore, InMemorySubscriptionStore
from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract


class InMemoryLedger:
    """Rows that are there once the session they were written through has ended well."""

    def __init__(self):
        self.rows = []

    @asynccontextmanager
    async def session(self):
        written = []
        yield written
        self.rows += written

    async def write(self, session, key):
        session.append(key)

    async def read(self):
        return list(self.rows)


class PostgresLedger:
    """A table of the app's."""

    def __init__(self, bind):
        self.bind = bind

    async def write(self, session, key):
        await session.execute(text("INSERT INTO ledger (key) VALUES (:key)"), {"key": key})

    async def read(self):
        async with self.bind.connect() as connection:
            return list(await connection.scalars(text("SELECT key FROM ledger ORDER BY id")))


class TestInMemory(SubscriptionStoreContract, RunnerContract):
    @pytest.fixture
    def store(self):
        return InMemoryEventStore()

    @pytest.fixture
    def ledger(self):
        return InMemoryLedger()

    @pytest.fixture
    def storage(self, store, ledger):
        return InMemorySubscriptionStore(store, session=ledger.session)


class TestPostgres(SubscriptionStoreContract, RunnerContract):
    @pytest.fixture
    def store(self, event_store):
        return event_store

    @pytest.fixture
    async def ledger(self, event_store):
        async with event_store.bind.begin() as connection:
            await connection.execute(text("CREATE TABLE ledger (id bigserial PRIMARY KEY, key text)"))
        return PostgresLedger(event_store.bind)

    @pytest.fixture
    def storage(self, subscription_store):
        return subscription_store
