"""Reading much: constant memory, connections given back, plans on indexes."""

import asyncio
import gc
import tracemalloc
import weakref

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import CorruptDataError, SchemaError, StreamId
from k1s0_event_store.postgres.operations import next_page_size
from k1s0_event_store.testing.contract import new_events, versions

from ..faults.interruption import nothing_left_behind, until

LONG, ORDER = StreamId("order", "long"), StreamId("order", "o-1")
FILL = """
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                               metadata, occurred_at)
SELECT 'order', %s, n, gen_random_uuid(), 'Counted', jsonb_build_object('n', n), '{}', now()
FROM generate_series(1, %s) AS n"""
HEAD = "INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version) VALUES ('order', %s, %s)"


def fill(sql, stream_id, count):
    """A stream of `count` events, faster than by appending."""
    sql(FILL, stream_id.aggregate_id, count)
    sql(HEAD, stream_id.aggregate_id, count)
    sql("ANALYZE eventstore.events")


async def _all(events):
    return [event async for event in events]


async def test_a_long_stream_is_read_in_constant_memory_without_holding_a_connection(event_store, sql):
    fill(sql, LONG, 60_000)
    seen, peaks = 0, []
    tracemalloc.start()
    async for event in event_store.stream(LONG):
        seen += 1
        assert event.version == seen
        if seen % 20_000 == 0:
            assert event_store.bind.pool.checkedout() == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    tracemalloc.stop()
    assert seen == 60_000
    # A page is at most 500 events; the whole stream would be 120 times that.
    assert max(peaks) < 15_000_000
    assert peaks[-1] < peaks[0] * 1.5


async def test_pages_of_large_events_are_small(event_store):
    big = new_events(ORDER, 150)
    for event in big:
        event.payload["text"] = "x" * 200_000
    await event_store.append(ORDER, big)
    read = [event.version async for event in event_store.stream(ORDER, from_version=101)]
    assert read == list(range(101, 151))
    assert next_page_size([("", "x" * 200_000, "{}", 0, 0, 0, 0, 0)] * 3) == 19
    assert next_page_size([("", "x" * 9_000_000, "{}", 0, 0, 0, 0, 0)]) == 1
    assert next_page_size([("", "x", "{}", 0, 0, 0, 0, 0)]) == 500


async def test_a_consumer_that_stops_early_leaves_no_connection_behind(event_store, sql):
    fill(sql, LONG, 5_000)
    async for event in event_store.stream(LONG):
        if event.version == 150:
            break
    assert event_store.bind.pool.checkedout() == 0
    assert versions(await event_store.load(LONG, 4_999)) == [4_999, 5_000]


@pytest.mark.parametrize("close", [True, False])
async def test_reading_everything_ahead_ends_with_its_consumer(event_store, sql, close):
    fill(sql, LONG, 5_000)
    events = event_store.read_all()
    async for event in events:
        if event.version == 1_500:
            break
    if close:
        await events.aclose()
    else:
        del events, event
        await asyncio.sleep(0.1)
    assert event_store.bind.pool.checkedout() == 0
    assert len([event async for event in event_store.read_all()]) == 5_000


async def test_a_reading_that_is_left_by_break_is_gone_at_once_and_ends_what_is_under_way(event_store, sql):
    fill(sql, LONG, 5_000)
    events = event_store.read_all()
    async for event in events:
        if event.version == 150:
            break
    left = weakref.ref(events)
    async with nothing_left_behind():
        gc.disable()
        try:
            del events
            assert left() is None
        finally:
            gc.enable()
    await until(lambda: event_store.bind.pool.checkedout() == 0, "a connection is not given back")


async def test_a_reading_that_the_collector_finds_in_a_circle_ends_without_a_word(event_store, sql):
    fill(sql, LONG, 5_000)
    async with nothing_left_behind():
        circle = [event_store.read_all()]
        circle.append(circle)
        async for event in circle[0]:
            if event.version == 101:  # the page after this one is on its way
                break
        del circle
        gc.collect()
    await until(lambda: event_store.bind.pool.checkedout() == 0, "a connection is not given back")


async def test_a_fault_while_reading_everything_ahead_reaches_the_consumer(event_store, sql):
    fill(sql, LONG, 5_000)
    events = event_store.read_all()
    for _ in range(200):
        await anext(events)
    sql("ALTER TABLE eventstore.events RENAME TO hidden")
    with pytest.raises(SchemaError):
        await _all(events)
    assert event_store.bind.pool.checkedout() == 0


async def test_events_appended_while_a_stream_is_read_are_included(event_store):
    await event_store.append(ORDER, new_events(ORDER, 100))
    seen = []
    async for event in event_store.stream(ORDER):
        seen.append(event.version)
        if event.version == 50:
            await event_store.append(ORDER, new_events(ORDER, 5))
    assert seen == list(range(1, 106))


async def test_read_all_ends_with_what_was_committed_when_it_began(event_store):
    await event_store.append(ORDER, new_events(ORDER, 150))
    async with AsyncSession(event_store.bind) as session:
        await event_store.within(session).append(LONG, new_events(LONG, 3))
        seen = 0
        async for _event in event_store.read_all():
            seen += 1
            if seen == 1:
                await session.commit()
                await event_store.append(ORDER, new_events(ORDER, 7))
    assert seen == 150
    assert len([event async for event in event_store.read_all()]) == 160


async def test_reads_use_the_indexes(event_store, sql):
    fill(sql, LONG, 50_000)
    fill(sql, ORDER, 20)
    for statement, args, index in (
        (event_store._sql.read, ("order", "o-1", 1, 2**62, None), "uq_events_version"),
        (event_store._sql.read_backwards, ("order", "long", 1, 2**62, 10), "uq_events_version"),
    ):
        async with event_store.bind.connect() as connection:
            await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            plan = await connection.exec_driver_sql("EXPLAIN " + statement.dollar, args)
            text = "\n".join(row[0] for row in plan)
        assert index in text, text
        assert "Seq Scan" not in text
        assert "Sort" not in text


async def test_positions_and_versions_beyond_32_bits_are_kept(event_store, sql):
    sql("ALTER TABLE eventstore.events ALTER position RESTART WITH 5000000000")
    sql(HEAD, "o-1", 2**40)
    assert await event_store.append(ORDER, new_events(ORDER, 2), expected_version=2**40) == 2**40 + 2
    loaded = await event_store.load(ORDER, from_version=2**40)
    assert [(e.version - 2**40, e.position) for e in loaded] == [(1, 5000000000), (2, 5000000001)]
    assert [e.position async for e in event_store.read_all()] == [5000000000, 5000000001]


async def test_a_hundred_thousand_events_are_one_append(event_store):
    assert await event_store.append(LONG, new_events(LONG, 100_000), expected_version=0) == 100_000
    assert (await event_store.load(LONG, backwards=True, limit=1))[0].payload == {"n": 100_000}


async def test_times_are_utc_whatever_the_session_says(event_store, sync_event_store):
    await event_store.append(ORDER, new_events(ORDER, 1))
    with sync_event_store.bind.connect() as connection:
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'Asia/Tokyo'")
        (loaded,) = sync_event_store.within(connection).load(ORDER)
    assert loaded == (await event_store.load(ORDER))[0]
    assert str(loaded.recorded_at.tzinfo) == "UTC"


async def test_stored_json_too_deep_to_read_is_told_with_its_place(event_store, sql):
    sql(HEAD, "o-1", 1)
    deep = "[" * 5_000 + "]" * 5_000
    sql(FILL.replace("jsonb_build_object('n', n)", f"'{deep}'::jsonb"), "o-1", 1)
    (event,) = await event_store.load(ORDER)
    with pytest.raises(CorruptDataError, match="stream order-o-1, version 1, payload"):
        _ = event.payload
