"""What the server does for the main operations: EXPLAIN (ANALYZE, BUFFERS, WAL) of the very statements.

Usage: python benchmarks/explain.py [--events 1000000]

Fills a database of an embedded PostgreSQL with streams of 20 events, does each operation a few times so that
the plans are those of a running app, then shows the plan of its statements. At the end stands what making
plans takes: each operation with the plan that is kept, and with one that is made anew every time.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import asyncpg
import psycopg
from peers.k1s0_event_store_pg import FILL
from stores import new_database
from works import PAYLOAD, SHORT, compact

from k1s0_event_store import EventEnvelope, EventStoreConfig, StreamId
from k1s0_event_store.feed import EVERYTHING
from k1s0_event_store.postgres import feed, operations
from k1s0_event_store.postgres.connection import in_transaction, run_async
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.postgres.statements import statements_for
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.store import check_span

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, WAL, COSTS OFF, TIMING OFF) "
NEW = StreamId("bench", "new")
TIMES = 6
"""PostgreSQL thinks of a plan for all parameters after five."""
ROUNDS = 200


class Explaining:
    """Executes queries on one connection, and shows their plans where it is asked to."""

    def __init__(self, connection):
        self._connection = connection
        self.shows = False

    async def fetch(self, query):
        if self.shows:
            await self._show(query)
        return await self._connection.fetch(query.statement.dollar, *query.args)

    async def _show(self, query):
        transaction = self._connection.transaction()
        await transaction.start()
        for (line,) in await self._connection.fetch(EXPLAIN + query.statement.dollar, *query.args):
            print(f"    {line}")
        await transaction.rollback()
        print()


def works(sql, stored):
    """The operations by title: each call makes the steps of one. `stored` is a stream as it was filled."""
    versions = iter(range(1_000_000))
    checked = set()

    def append(stream_id, size, expected=None):
        events = [EventEnvelope(stream_id, "BenchEvent", PAYLOAD) for _ in range(size)]
        return operations.append(sql, operations.check_append(stream_id, events, expected), joined=False)

    return {
        "append one event, an exact version expected": lambda: append(stored, 1, SHORT + next(versions)),
        "append one event, no version expected": lambda: append(NEW, 1),
        "append 100 events, no version expected": lambda: append(NEW, 100),
        "load 20 events": lambda: operations.load(sql, stored, check_span(stored, limit=SHORT)),
        "a page of the feed, 500 events, from its beginning": lambda: feed.read_page(
            sql, None, 500, EVERYTHING, None, checked
        ),
    }


async def explain(dsn):
    config = EventStoreConfig(dsn=dsn)
    runner = Explaining(await asyncpg.connect(dsn))
    for title, work in works(statements_for(config.schema), StreamId("bench", "filled-77")).items():
        for turn in range(TIMES + 1):
            runner.shows = turn == TIMES
            if runner.shows:
                print(f"{title}\n")
            await run_async(runner, work())


async def compare_plans(dsn):
    """Microseconds of each operation, in turn on two connections that differ in nothing else."""
    runners = {}
    for mode in ("auto", "force_custom_plan"):
        settings = {"plan_cache_mode": mode, "synchronous_commit": "off"}
        runners[mode] = Explaining(await asyncpg.connect(dsn, server_settings=settings))
    sql = statements_for(EventStoreConfig().schema)
    print("microseconds with the plan that is kept and with one that is made anew, no waiting for disks\n")
    for title, work in works(sql, StreamId("bench", "filled-78")).items():
        taken = {mode: [] for mode in runners}
        for _ in range(ROUNDS):
            for mode, runner in runners.items():
                start = time.perf_counter()
                await run_async(runner, work())
                taken[mode].append(time.perf_counter() - start)
        kept, anew = (1e6 * statistics.median(each[TIMES:]) for each in taken.values())
        print(f"    {title}: {kept:,.0f} and {anew:,.0f}")


def fill(dsn, events):
    asyncio.run(in_transaction(EventStoreConfig(dsn=dsn), upgrade_database))
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in FILL:
            connection.execute(
                statement, {"streams": events // SHORT, "each": SHORT, "payload": compact(PAYLOAD)}
            )
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as server:
        dsn = new_database(server, "explained")
        fill(dsn, options.events)
        asyncio.run(explain(dsn))
        asyncio.run(compare_plans(dsn))


if __name__ == "__main__":
    main()
