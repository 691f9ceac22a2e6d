"""The contract suites for a tenant, as a role that row-level security holds for."""

from dataclasses import replace
from functools import partial

import pytest

from k1s0_event_store import PostgresInbox
from k1s0_event_store.testing.import_contract import ImportContract
from k1s0_event_store.testing.inbox_contract import (
    InboxContract,
    RacingInboxContract,
    TransactionalInboxContract,
)
from k1s0_event_store.testing.key_contract import KeyStoreContract, RacingKeysContract
from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract

from ..long_form import one_in
from . import test_backends
from .stores import (
    AlwaysCoalescing,
    Events,
    EventStoreContract,
    Postgres,
    RacingContract,
    SyncPostgres,
)


@pytest.fixture
def event_store_config(acme):
    return replace(acme, pool_size=20)


@one_in(2)
class TestPostgres(Postgres, Events):
    pass


@one_in(4)
class TestSyncPostgres(SyncPostgres, EventStoreContract, ImportContract):
    pass


class TestCoalescing(AlwaysCoalescing, RacingContract):
    pass


@one_in(4)
class TestWithinAsyncSession(test_backends.TestWithinAsyncSession):
    pass


@one_in(2)
class TestKeys(Postgres, KeyStoreContract, RacingKeysContract):
    pass


@one_in(3)
class TestSubscriptions(Postgres, SubscriptionStoreContract, RunnerContract):
    pass


@one_in(3)
class TestInbox(Postgres, InboxContract, RacingInboxContract, TransactionalInboxContract):
    @pytest.fixture
    def make_inbox(self, event_store_config):
        return partial(PostgresInbox, config=event_store_config)
