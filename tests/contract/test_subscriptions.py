"""The contract suite of subscriptions on every store of the library."""

from k1s0_event_store.testing.runner_contract import RunnerContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract

from .stores import InMemory, Postgres


class TestInMemory(InMemory, SubscriptionStoreContract, RunnerContract):
    pass


class TestPostgres(Postgres, SubscriptionStoreContract, RunnerContract):
    pass
