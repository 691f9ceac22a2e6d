"""What the happy path costs on the wire."""

from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from k1s0_event_store import (
    STREAM_EXISTS,
    AggregateCache,
    AggregateRoot,
    ConcurrencyError,
    EventRegistry,
    PostgresSnapshotStore,
    Repository,
    StreamId,
    every,
)
from k1s0_event_store.postgres.operations import BY_COPY
from k1s0_event_store.testing.contract import new_events

WARM, WARMER, ORDER = StreamId("order", "warm"), StreamId("order", "warmer"), StreamId("order", "o-1")


async def warm_up(store):
    """Connect, and let the driver prepare each statement, those for one event and those for several."""
    for stream_id, count in ((WARM, 1), (WARMER, 2)):
        for expected in (0, count, None, STREAM_EXISTS):
            await store.append(stream_id, new_events(stream_id, count), expected_version=expected)
    await store.load(WARM)
    await store.current_version(WARM)


async def test_a_stand_alone_append_is_one_round_trip(proxy, proxied_store):
    await warm_up(proxied_store)
    for count, expected in ((1, 0), (1, 1), (1, None), (2, 3), (BY_COPY - 1, STREAM_EXISTS)):
        before = proxy.round_trips
        await proxied_store.append(ORDER, new_events(ORDER, count), expected_version=expected)
        assert proxy.round_trips - before == 1


async def test_a_large_append_is_four_round_trips_however_large(proxy, proxied_store):
    await proxied_store.append(WARM, new_events(WARM, BY_COPY))
    for count in (BY_COPY, 10 * BY_COPY):
        before = proxy.round_trips
        await proxied_store.append(ORDER, new_events(ORDER, count))
        assert proxy.round_trips - before == 4


async def test_a_load_is_one_round_trip(proxy, proxied_store):
    await warm_up(proxied_store)
    before = proxy.round_trips
    assert len(await proxied_store.load(WARM)) == 4
    assert proxy.round_trips - before == 1


async def test_a_snapshot_and_the_events_after_it_are_one_round_trip(proxy, proxied_store):
    await warm_up(proxied_store)
    snapshots = PostgresSnapshotStore(bind=proxied_store.bind)
    await snapshots.save(WARM, 2, "state")
    for _ in range(2):  # the first one prepares the statement
        before = proxy.round_trips
        snapshot, events = await proxied_store.load_since_snapshot(WARM, snapshots)
        assert (snapshot.state, [event.version for event in events]) == ("state", [2, 3, 4])
    assert proxy.round_trips - before == 1


async def test_an_aggregate_is_loaded_in_one_round_trip_and_changed_in_one_more(proxy, proxied_store):
    registry = EventRegistry()

    @registry.register("counted")
    @dataclass
    class Counted:
        by: int

    @dataclass
    class Counter(AggregateRoot):
        aggregate_type = "counter"
        value: int = 0

        def apply(self, event):
            self.value += event.by

    snapshots = PostgresSnapshotStore(bind=proxied_store.bind)
    options = [{"snapshots": snapshots, "snapshot": every(4)}, {"cache": AggregateCache()}]
    for number, chosen in enumerate(options):
        counters = Repository(proxied_store, registry, Counter, **chosen)
        for _ in range(6):
            before = proxy.round_trips
            await counters.transact(f"c-{number}", lambda counter: counter.record(Counted(1)))
        assert proxy.round_trips - before == 2
        before = proxy.round_trips
        assert (await counters.load(f"c-{number}")).value == 6
        assert proxy.round_trips - before == 1


async def test_a_conflict_is_two_round_trips(proxy, proxied_store):
    await warm_up(proxied_store)
    for _ in range(2):  # the first one prepares the second statement
        before = proxy.round_trips
        with pytest.raises(ConcurrencyError):
            await proxied_store.append(WARM, new_events(WARM, 1), expected_version=1)
    assert proxy.round_trips - before == 2


async def test_an_append_in_a_callers_transaction_is_one_round_trip(proxy, proxied_store):
    async with AsyncSession(proxied_store.bind) as session:
        store = proxied_store.within(session)
        await warm_up(store)
        before = proxy.round_trips
        await store.append(ORDER, new_events(ORDER, 3), expected_version=0)
        await store.append(ORDER, new_events(ORDER, 1), expected_version=3)
        assert proxy.round_trips - before == 2


def test_a_blocking_append_is_one_round_trip(proxy, proxied_sync_store):
    store = proxied_sync_store
    store.append(WARM, new_events(WARM, 1))
    before = proxy.round_trips
    store.append(ORDER, new_events(ORDER, 3), expected_version=0)
    assert proxy.round_trips - before == 1


def test_a_blocking_append_in_a_callers_transaction_is_one_round_trip(proxy, proxied_sync_store):
    with Session(proxied_sync_store.bind) as session:
        store = proxied_sync_store.within(session)
        store.append(WARM, new_events(WARM, 1))
        before = proxy.round_trips
        store.append(ORDER, new_events(ORDER, 3), expected_version=0)
        assert proxy.round_trips - before == 1
