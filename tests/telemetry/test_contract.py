"""The contract suite on traced stores: whoever uses one sees no difference."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import NoOpTracerProvider

from k1s0_event_store import (
    InMemoryEventStore,
    InMemorySnapshotStore,
    SyncInMemoryEventStore,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.telemetry import Telemetry
from k1s0_event_store.testing.adapters import ThreadedEventStore, ThreadedSnapshotStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract, SnapshotContract

from ..long_form import one_in


class Whole(EventStoreContract, RacingContract, SnapshotContract):
    """All of it: metrics alone leave events as they are."""

    @pytest.fixture
    def telemetry(self):
        return Telemetry(NoOpTracerProvider(), MeterProvider(shutdown_on_exit=False))


class Carrying(EventStoreContract, RacingContract, SnapshotContract):
    """All but the tests that compare metadata, to which tracing adds: see test_context.py."""

    test_an_event_comes_back_as_it_was_given = None
    test_each_event_of_a_batch_keeps_what_is_its_own = None
    test_unusual_json_comes_back_the_same = None


class InMemory:
    @pytest.fixture
    def store(self, telemetry):
        return telemetry.store(InMemoryEventStore())

    @pytest.fixture
    def snapshots(self, telemetry):
        return telemetry.snapshots(InMemorySnapshotStore())


class SyncInMemory:
    @pytest.fixture
    def store(self, telemetry):
        return ThreadedEventStore(telemetry.store(SyncInMemoryEventStore()))

    @pytest.fixture
    def snapshots(self, telemetry):
        return ThreadedSnapshotStore(telemetry.snapshots(SyncInMemorySnapshotStore()))


class Postgres:
    @pytest.fixture
    def store(self, telemetry, event_store):
        return telemetry.store(event_store)

    @pytest.fixture
    def snapshots(self, telemetry, snapshot_store):
        return telemetry.snapshots(snapshot_store)


class TestMeasuredInMemory(InMemory, Whole):
    pass


class TestMeasuredSyncInMemory(SyncInMemory, Whole):
    pass


@one_in(4)
class TestMeasuredPostgres(Postgres, Whole):
    pass


class TestTracedInMemory(InMemory, Carrying):
    pass


class TestTracedSyncInMemory(SyncInMemory, Carrying):
    pass


@one_in(4)
class TestTracedPostgres(Postgres, Carrying):
    pass
