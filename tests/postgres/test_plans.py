"""Plans: none is made again and again, and none reads a stream to look up ids."""

from dataclasses import replace

import pytest

from k1s0_event_store import (
    STREAM_EXISTS,
    ConcurrencyError,
    EventFilter,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
)
from k1s0_event_store.postgres import operations
from k1s0_event_store.postgres.connection import run_async
from k1s0_event_store.testing.contract import new_events

LONG = StreamId("order", "long")
LENGTH, BATCH = 5_000, 100
MADE_AFRESH = 5
"""Plans that PostgreSQL makes for the parameters at hand before it thinks of one for all."""
FILL = """
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                               metadata, occurred_at)
SELECT 'order', stream::text, version, gen_random_uuid(), 'Counted', '{}', '{}', now()
FROM generate_series(1, 500) AS stream, generate_series(1, 5) AS version"""
STREAM = """
WITH head AS (INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version) VALUES ('order', %s, %s))
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                               metadata, occurred_at)
SELECT 'order', %s, n, gen_random_uuid(), 'Counted', '{}', '{}', now() FROM generate_series(1, %s) AS n"""


class Explaining:
    """Executes queries, and notes their plans."""

    def __init__(self, connection):
        self._connection = connection
        self.plans = []

    async def fetch(self, query):
        transaction = self._connection.transaction()
        await transaction.start()
        explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + query.statement.dollar
        self.plans.append((await self._connection.fetchval(explain, *query.args))[0]["Plan"])
        await transaction.rollback()
        return await self._connection.fetch(query.statement.dollar, *query.args)


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def read(plan):
    """Rows of the table of events that a plan has looked at, wanted or not."""
    return sum(
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in nodes(plan)
        if node.get("Relation Name") == "events" and "Scan" in node["Node Type"]
    )


@pytest.mark.parametrize("joined", [False, True])
async def test_an_append_to_a_long_stream_reads_none_of_its_events(event_store, sql, joined):
    sql(FILL)
    sql("ANALYZE eventstore.events")  # now PostgreSQL takes every stream for a short one
    sql(STREAM, "long", LENGTH, "long", LENGTH)
    async with event_store.bind.connect() as connection:
        explaining = Explaining((await connection.get_raw_connection()).driver_connection)
        for expected in (None, LENGTH + BATCH):
            wanted = operations.check_append(LONG, new_events(LONG, BATCH), expected)
            await run_async(explaining, operations.append(event_store._sql, wanted, joined))
    assert len(explaining.plans) == 2
    assert [read(plan) for plan in explaining.plans] == [0, 0]


async def test_a_repeated_batch_is_found_without_reading_its_long_stream(event_store, sql):
    sql(FILL)
    sql("ANALYZE eventstore.events")
    sql(STREAM, "long", LENGTH, "long", LENGTH)
    batch = new_events(LONG, BATCH)
    await event_store.append(LONG, batch)
    async with event_store.bind.connect() as connection:
        explaining = Explaining((await connection.get_raw_connection()).driver_connection)
        wanted = operations.check_append(LONG, batch, LENGTH)
        steps = operations.append(event_store._sql, wanted, joined=False)
        assert await run_async(explaining, steps) == LENGTH + BATCH
    assert [read(plan) for plan in explaining.plans] == [0, BATCH]


async def test_appends_together_read_nothing_of_long_streams(event_store, sql):
    sql(FILL)
    sql("ANALYZE eventstore.events")
    sql(STREAM, "long", LENGTH, "long", LENGTH)
    async with event_store.bind.connect() as connection:
        explaining = Explaining((await connection.get_raw_connection()).driver_connection)
        streams = LONG, StreamId("order", "new")
        wanted = [operations.check_append(each, new_events(each, BATCH), None) for each in streams]
        answers = await run_async(explaining, operations.append_together(event_store._sql, wanted))
    assert answers == [LENGTH + BATCH, BATCH]
    assert [read(plan) for plan in explaining.plans] == [0]


async def test_plans_are_made_once_and_used_by_whoever_gets_the_connection_next(event_store_config):
    config = replace(event_store_config, pool_size=1, max_overflow=0)
    async with PostgresEventStore(config) as store:
        snapshots = PostgresSnapshotStore(bind=store.bind)
        cursor, version = await store.latest_cursor(), 0
        for number in range(2 * MADE_AFRESH):
            for size in (1, 2):
                for expected in (None, STREAM_EXISTS, version + 2 * size):
                    version = await store.append(LONG, new_events(LONG, size), expected)
                new = StreamId("order", f"new-{number}-{size}")
                await store.append(new, new_events(new, size), 0)
            await store.append(new, new_events(new, BATCH))
            with pytest.raises(ConcurrencyError):
                await store.append(new, new_events(new, 1), 1)
            await store.load(new)
            await store.load(LONG, limit=1, backwards=True)
            await store.current_version(LONG)
            await snapshots.save(LONG, version, {})
            await snapshots.load_latest(LONG)
            await store.load_since_snapshot(LONG, snapshots)
            cursor = (await store.read_page(cursor)).cursor
            await store.read_page(limit=1, only=EventFilter(event_types=["Counted"]))
        plans = await used_plans(store)
    assert len(plans) == 17
    assert all(custom <= MADE_AFRESH <= generic for custom, generic in plans.values()), plans


async def used_plans(store):
    """How often a statement had a plan of its own, and one for all parameters, by its text."""
    async with store.bind.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT statement, custom_plans, generic_plans FROM pg_prepared_statements"
        )
        return {row[0]: tuple(row[1:]) for row in rows if "eventstore" in row[0] and "$1" in row[0]}
