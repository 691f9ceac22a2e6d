"""Races with real connections: 50 writers on one stream."""

import asyncio
import random
import threading

import pytest

from k1s0_event_store import (
    ConcurrencyError,
    EventStoreConfig,
    PostgresEventStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.testing.contract import new_events, outcomes, versions

ORDER = StreamId("order", "o-1")
WRITERS = 50


@pytest.fixture(params=[False, True], ids=["each alone", "coalescing"])
async def store(request, event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=WRITERS, max_overflow=0)
    async with PostgresEventStore(config, coalesce=request.param) as store:
        yield store


async def test_fifty_writers_with_expected_versions_leave_no_gap_and_burn_no_position(store, sql):
    won: list[int] = []
    refused: list[ConcurrencyError] = []

    async def write(writer):
        chooser = random.Random(writer)
        for _ in range(20):
            version = await store.current_version(ORDER)
            count = chooser.randint(1, 3)
            try:
                won.append(await store.append(ORDER, new_events(ORDER, count), expected_version=version))
            except ConcurrencyError as error:
                refused.append(error)

    await asyncio.gather(*map(write, range(WRITERS)))
    assert len(won) + len(refused) == WRITERS * 20
    assert len(refused) > 100
    assert all(e.actual_version is not None and e.actual_version > e.expected_version for e in refused)
    events = await store.load(ORDER)
    assert versions(events) == list(range(1, max(won) + 1))
    assert sorted(won) == sorted(set(won))
    # Version order is position order, and the losers drew none.
    assert [e.position for e in events] == list(range(1, max(won) + 1))


async def test_fifty_writers_with_any_version_all_succeed(store, sql):
    won, refused = await outcomes(store.append(ORDER, new_events(ORDER, 2)) for _ in range(WRITERS * 4))
    assert refused == []
    assert sorted(won) == list(range(2, WRITERS * 8 + 1, 2))
    events = await store.load(ORDER)
    assert [(e.version, e.position) for e in events] == [(n, n) for n in range(1, WRITERS * 8 + 1)]
    batches = [events[i : i + 2] for i in range(0, len(events), 2)]
    assert all([e.payload["n"] for e in batch] == [1, 2] for batch in batches)


async def test_fifty_creators_make_one_stream(store, sql):
    for attempt in range(5):
        stream_id = StreamId("order", f"new-{attempt}")
        won, refused = await outcomes(
            store.append(stream_id, new_events(stream_id, 3), expected_version=0) for _ in range(WRITERS)
        )
        assert won == [3]
        assert {(type(e), e.actual_version) for e in refused} == {(ConcurrencyError, 3)}
    assert sql("SELECT max(position), count(*) FROM eventstore.events") == [(15, 15)]


def test_fifty_threads_race_on_the_blocking_store(event_store_dsn, sql):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=WRITERS, max_overflow=0)
    won: list[int] = []
    refused: list[ConcurrencyError] = []
    with SyncPostgresEventStore(config) as store:
        start = threading.Barrier(WRITERS)

        def write() -> None:
            start.wait()
            for _ in range(4):
                try:
                    version = store.current_version(ORDER)
                    won.append(store.append(ORDER, new_events(ORDER, 1), expected_version=version))
                except ConcurrencyError as error:
                    refused.append(error)

        threads = [threading.Thread(target=write) for _ in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) + len(refused) == WRITERS * 4
        assert sorted(won) == list(range(1, len(won) + 1))
        assert versions(store.stream(ORDER)) == list(range(1, len(won) + 1))
