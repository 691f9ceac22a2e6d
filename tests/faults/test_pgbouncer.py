"""The contract suites behind PgBouncer in transaction mode, where each transaction has another connection."""

import pytest
from sqlalchemy import text

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.testing.contract import RacingContract
from k1s0_event_store.testing.inbox_contract import (
    RACERS,
    InboxContract,
    RacingInboxContract,
    TransactionalInboxContract,
)
from k1s0_event_store.testing.key_contract import KeyStoreContract, RacingKeysContract
from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract
from tests.contract.stores import ByCopy, Coalescing, Events, Postgres, SyncPostgres

from ..long_form import one_in
from ..pooler import pooled_dsn, running_pooler


@pytest.fixture(scope="module")
def forgetful_pooler(event_store_server):
    """Every transaction gets a new connection to the server: nothing of a session is there any more."""
    settings = {"server_lifetime": 0, "default_pool_size": 2 * RACERS}
    with running_pooler(event_store_server, **settings) as folder:
        yield folder


@pytest.fixture
def event_store_config(forgetful_pooler, event_store_dsn):
    return EventStoreConfig(dsn=pooled_dsn(forgetful_pooler, event_store_dsn), transaction_pooler=True)


async def test_no_two_transactions_have_the_same_connection_to_the_server(event_store):
    async with event_store.bind.connect() as connection:
        processes = set()
        for _ in range(5):
            async with connection.begin():
                processes.add(await connection.scalar(text("SELECT pg_backend_pid()")))
    assert len(processes) == 5


@one_in(6)
class TestPostgres(Postgres, Events):
    pass


@one_in(6)
class TestSyncPostgres(SyncPostgres, Events):
    pass


class TestPostgresCoalescing(Coalescing, RacingContract):
    pass


class TestPostgresByCopy(ByCopy, RacingContract):
    pass


@one_in(3)
class TestKeys(Postgres, KeyStoreContract, RacingKeysContract):
    pass


@one_in(8)
class TestSubscriptions(Postgres, SubscriptionStoreContract, RunnerContract):
    pass


@one_in(3)
class TestInbox(Postgres, InboxContract, RacingInboxContract, TransactionalInboxContract):
    pass
