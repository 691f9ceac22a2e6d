"""What the happy path costs on the wire."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from k1s0_event_store import STREAM_EXISTS, ConcurrencyError, StreamId
from k1s0_event_store.testing.contract import new_events

WARM, ORDER = StreamId("order", "warm"), StreamId("order", "o-1")


async def warm_up(store):
    """Connect, and let the driver prepare each statement."""
    await store.append(WARM, new_events(WARM, 1), expected_version=0)
    for expected in (1, None, STREAM_EXISTS):
        await store.append(WARM, new_events(WARM, 1), expected_version=expected)
    await store.load(WARM)
    await store.current_version(WARM)


async def test_a_stand_alone_append_is_one_round_trip(proxy, proxied_store):
    await warm_up(proxied_store)
    for count, expected in ((3, 0), (1, 3), (1, None), (500, STREAM_EXISTS)):
        before = proxy.round_trips
        await proxied_store.append(ORDER, new_events(ORDER, count), expected_version=expected)
        assert proxy.round_trips - before == 1


async def test_a_load_is_one_round_trip(proxy, proxied_store):
    await warm_up(proxied_store)
    before = proxy.round_trips
    assert len(await proxied_store.load(WARM)) == 4
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
        assert proxy.round_trips - before == 1


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
