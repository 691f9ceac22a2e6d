"""The contract suite of runners with everything traced: leases, retries, parking and order are as before."""

import pytest
from tests.contract.stores import InMemory

from k1s0_event_store import EventStore
from k1s0_event_store.testing import runner_contract
from k1s0_event_store.testing.runner_contract import LimitedRunner, RunnerContract


class TestTracedInMemory(InMemory, RunnerContract):
    @pytest.fixture(autouse=True)
    def traced(self, telemetry, monkeypatch):
        """Whatever a test runs, runs traced."""

        class TracedRunner(LimitedRunner):
            def __init__(self, store, storage, subscriptions, **options):
                wrapped = [telemetry.subscription(one) for one in subscriptions]
                # Some tests have a double that is no EventStore.
                store = telemetry.store(store) if isinstance(store, EventStore) else store
                super().__init__(store, storage, wrapped, **options)

            def notify(self, notice):
                telemetry.observe(notice)
                super().notify(notice)

        monkeypatch.setattr(runner_contract, "LimitedRunner", TracedRunner)
