"""The stores of the library as the contract suites ask for them: fixtures to be mixed into test classes.

Those on PostgreSQL have the settings of `event_store_config`. A module or class that gives it another value
runs the suites on that: behind a pooler, as another role.
"""

from contextlib import asynccontextmanager, nullcontext

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

from k1s0_event_store import (
    InMemoryEventStore,
    InMemorySnapshotStore,
    PostgresEventStore,
    SyncInMemoryEventStore,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.keys import WrappingKeys
from k1s0_event_store.memory import InMemoryInbox, InMemoryKeyStore, InMemorySubscriptionStore
from k1s0_event_store.postgres import operations
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.testing.adapters import ThreadedEventStore, ThreadedSnapshotStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract, SnapshotContract
from k1s0_event_store.testing.import_contract import ImportContract, RacingImportContract

WRAPPING = WrappingKeys({"2026": b"w" * 32}, current="2026")


class EventsAlone(EventStoreContract, ImportContract, SnapshotContract):
    """What a store must show that is called by one at a time."""


class Events(EventsAlone, RacingContract, RacingImportContract):
    """What a store must show that anybody may call at any time."""


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


class InMemory:
    @pytest.fixture
    def store(self):
        return InMemoryEventStore()

    @pytest.fixture
    def snapshots(self):
        return InMemorySnapshotStore()

    @pytest.fixture
    def keys(self):
        return InMemoryKeyStore()

    @pytest.fixture
    def ledger(self):
        return InMemoryLedger()

    @pytest.fixture
    def storage(self, store, ledger):
        return InMemorySubscriptionStore(store, session=ledger.session)

    @pytest.fixture
    def make_inbox(self):
        made = {}

        def make(consumer):
            inbox = InMemoryInbox(consumer)
            return made.setdefault(inbox.consumer, inbox)

        return make

    @pytest.fixture
    def begin(self):
        return nullcontext


class SyncInMemory:
    @pytest.fixture
    def store(self):
        return ThreadedEventStore(SyncInMemoryEventStore())

    @pytest.fixture
    def snapshots(self):
        return ThreadedSnapshotStore(SyncInMemorySnapshotStore())


class Postgres:
    @pytest.fixture
    def store(self, event_store):
        return event_store

    @pytest.fixture
    def snapshots(self, snapshot_store):
        return snapshot_store

    @pytest.fixture
    async def keys(self, event_store_config):
        async with PostgresKeyStore(event_store_config, wrapping=WRAPPING) as keys:
            yield keys

    @pytest.fixture
    async def ledger(self, event_store):
        async with event_store.bind.begin() as connection:
            await connection.execute(text("CREATE TABLE ledger (id bigserial PRIMARY KEY, key text)"))
        return PostgresLedger(event_store.bind)

    @pytest.fixture
    def storage(self, subscription_store):
        return subscription_store

    @pytest.fixture
    def make_inbox(self):
        return PostgresInbox

    @pytest.fixture
    def begin(self, event_store):
        return async_sessionmaker(event_store.bind).begin


class SyncPostgres:
    @pytest.fixture
    def store(self, sync_event_store):
        return ThreadedEventStore(sync_event_store)

    @pytest.fixture
    def snapshots(self, sync_snapshot_store):
        return ThreadedSnapshotStore(sync_snapshot_store)


class Coalescing:
    """Appends of one process in one statement, as they come: the first alone, those after it together."""

    @pytest.fixture
    async def store(self, event_store_config):
        async with PostgresEventStore(event_store_config, coalesce=True) as store:
            yield store


class AlwaysCoalescing:
    """As if another append were always under way: each goes by the statement for many."""

    @pytest.fixture
    async def store(self, event_store_config):
        async with PostgresEventStore(event_store_config, coalesce=True) as store:
            store._coalescer._first = object()
            yield store


class ByCopy:
    """As if every append were a large one."""

    @pytest.fixture
    def store(self, event_store, monkeypatch):
        monkeypatch.setattr(operations, "BY_COPY", 1)
        return event_store
