"""The contract suites behind PgBouncer in transaction mode, where each transaction has another connection."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

from k1s0_event_store import (
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.keys import WrappingKeys
from k1s0_event_store.postgres import operations
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.testing.adapters import ThreadedEventStore, ThreadedSnapshotStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract, SnapshotContract
from k1s0_event_store.testing.import_contract import ImportContract, RacingImportContract
from k1s0_event_store.testing.inbox_contract import (
    RACERS,
    InboxContract,
    RacingInboxContract,
    TransactionalInboxContract,
)
from k1s0_event_store.testing.key_contract import KeyStoreContract, RacingKeysContract
from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract
from tests.contract.test_subscriptions import PostgresLedger

from ..pooler import pooled_dsn, running_pooler

WRAPPING = WrappingKeys({"2026": b"w" * 32}, current="2026")


@pytest.fixture(scope="module")
def forgetful_pooler(event_store_server):
    """Every transaction gets a new connection to the server: nothing of a session is there any more."""
    settings = {"server_lifetime": 0, "default_pool_size": 2 * RACERS}
    with running_pooler(event_store_server, **settings) as folder:
        yield folder


@pytest.fixture
def config(forgetful_pooler, event_store_dsn):
    return EventStoreConfig(dsn=pooled_dsn(forgetful_pooler, event_store_dsn), transaction_pooler=True)


async def test_no_two_transactions_have_the_same_connection_to_the_server(pooled_store):
    async with pooled_store.bind.connect() as connection:
        processes = set()
        for _ in range(5):
            async with connection.begin():
                processes.add(await connection.scalar(text("SELECT pg_backend_pid()")))
    assert len(processes) == 5


@pytest.fixture
async def pooled_store(config):
    async with PostgresEventStore(config) as store:
        yield store


@pytest.fixture
def pooled_sync_store(config):
    with SyncPostgresEventStore(config) as store:
        yield store


class TestPostgres(
    EventStoreContract, RacingContract, ImportContract, RacingImportContract, SnapshotContract
):
    @pytest.fixture
    def store(self, pooled_store):
        return pooled_store

    @pytest.fixture
    async def snapshots(self, config):
        async with PostgresSnapshotStore(config) as snapshots:
            yield snapshots


class TestSyncPostgres(
    EventStoreContract, RacingContract, ImportContract, RacingImportContract, SnapshotContract
):
    @pytest.fixture
    def store(self, pooled_sync_store):
        return ThreadedEventStore(pooled_sync_store)

    @pytest.fixture
    def snapshots(self, config):
        with SyncPostgresSnapshotStore(config) as snapshots:
            yield ThreadedSnapshotStore(snapshots)


class TestPostgresCoalescing(RacingContract):
    @pytest.fixture
    async def store(self, config):
        async with PostgresEventStore(config, coalesce=True) as store:
            yield store


class TestPostgresByCopy(RacingContract):
    @pytest.fixture
    def store(self, pooled_store, monkeypatch):
        monkeypatch.setattr(operations, "BY_COPY", 1)
        return pooled_store


class TestKeys(KeyStoreContract, RacingKeysContract):
    @pytest.fixture
    async def keys(self, config):
        async with PostgresKeyStore(config, wrapping=WRAPPING) as keys:
            yield keys


class TestSubscriptions(SubscriptionStoreContract, RunnerContract):
    @pytest.fixture
    def store(self, pooled_store):
        return pooled_store

    @pytest.fixture
    async def ledger(self, event_store):
        async with event_store.bind.begin() as connection:
            await connection.execute(text("CREATE TABLE ledger (id bigserial PRIMARY KEY, key text)"))
        return PostgresLedger(event_store.bind)

    @pytest.fixture
    async def storage(self, config, pooled_store):
        async with PostgresSubscriptionStore(config, bind=pooled_store.bind) as storage:
            yield storage


class TestInbox(InboxContract, RacingInboxContract, TransactionalInboxContract):
    @pytest.fixture
    def make_inbox(self):
        return PostgresInbox

    @pytest.fixture
    def begin(self, pooled_store):
        return async_sessionmaker(pooled_store.bind).begin
