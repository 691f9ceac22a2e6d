"""Behind a pooler in transaction mode: nothing prepared, no state in the session."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    ConcurrencyError,
    EventStoreConfig,
    PostgresEventStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.testing.contract import new_events, outcomes, versions

ORDER = StreamId("order", "o-1")


async def test_many_clients_on_two_connections_append_load_and_stream(pooler):
    config = EventStoreConfig(dsn=pooler, transaction_pooler=True, pool_size=10)
    async with PostgresEventStore(config) as store:
        won, refused = await outcomes(store.append(ORDER, new_events(ORDER, 2)) for _ in range(50))
        assert refused == []
        assert sorted(won) == list(range(2, 101, 2))
        streams = [StreamId("order", str(i)) for i in range(30)]
        await asyncio.gather(*(store.append(s, new_events(s, 3), expected_version=0) for s in streams))
        loaded = await asyncio.gather(*(store.load(s) for s in streams))
        assert [versions(events) for events in loaded] == [[1, 2, 3]] * 30
        assert [e.version async for e in store.stream(ORDER)] == list(range(1, 101))
        assert len([e async for e in store.read_all()]) == 190


async def test_conflicts_and_callers_transactions_work(pooler):
    async with PostgresEventStore(EventStoreConfig(dsn=pooler, transaction_pooler=True)) as store:
        async with AsyncSession(store.bind) as session, session.begin():
            await store.within(session).lock(ORDER, wait=1)
            await store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
            with pytest.raises(ConcurrencyError):
                await store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
        assert await store.current_version(ORDER) == 2


def test_the_blocking_store_works(pooler):
    with SyncPostgresEventStore(EventStoreConfig(dsn=pooler, transaction_pooler=True)) as store:
        for n in range(20):  # psycopg would prepare after five
            assert store.append(ORDER, new_events(ORDER, 1), expected_version=n) == n + 1
        assert versions(store.stream(ORDER)) == list(range(1, 21))
