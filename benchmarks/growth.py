"""What grows with the store: five operations at 10 thousand, 1 million and 20 million events.

Usage: python benchmarks/growth.py [--sizes 10000,1000000,20000000] [--stream 1000000] [--rounds 20] [--write]

Fills a database for each size with streams of 20 events and a snapshot of each, and one more with a single
stream of --stream events, on an embedded PostgreSQL with its default settings. Then all are measured in
turn, round by round, so that they have the same luck; the figures are medians.

append: one event to a stream that is there, another one each time
poll: a page of the feed for a reader that has kept up, with that one event in it
load: the newest 20 events of a stream that was not looked at just before
save, restore: a small snapshot

The sizes above need about 15 GB of disk. --write keeps the figures in benchmarks/results, puts them into
docs/performance.md and draws their picture (which needs the dependency group `benchmarks`).
"""

import argparse
import asyncio
import math
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from report import PERFORMANCE, machine, markdown, save, write_between
from stores import new_database, server_version
from works import PAYLOAD, SHORT, PeakMemory, compact

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
)
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

OPERATIONS = {
    "append": "append one event",
    "poll": "poll: one event is new",
    "load": "load 20 events",
    "save": "save a snapshot",
    "restore": "load a snapshot",
}
STATE = {"total": 123.45, "lines": ["sku-1", "sku-2"], "status": "shipped"}
EACH = 20
CHUNK = 100_000
# As appends write them: ids ascend with time, as the positions do.
EVENTS = """
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload, metadata,
                               occurred_at)
SELECT 'growth', 'filled-' || stream, version, uuidv7(), 'BenchEvent', %(payload)s::json, '{}', now()
FROM generate_series(%(first_version)s::int, %(last_version)s::int) AS version,
     generate_series(%(first_stream)s::int, %(last_stream)s::int) AS stream"""
STREAMS = """
INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version)
SELECT 'growth', 'filled-' || stream, %(length)s FROM generate_series(1, %(streams)s::int) AS stream"""
SNAPSHOTS = """
INSERT INTO eventstore.snapshots (aggregate_type, aggregate_id, version, schema_version, state)
SELECT aggregate_type, aggregate_id, version, 1, %(state)s::json FROM eventstore.streams"""


class Subject:
    """A store of so many streams of one length, and the milliseconds of each operation."""

    def __init__(self, dsn, streams, length):
        self.store = PostgresEventStore(EventStoreConfig(dsn=dsn))
        self.milliseconds = {operation: [] for operation in OPERATIONS}
        self._snapshots = PostgresSnapshotStore(bind=self.store.bind)
        self._dsn = dsn
        self._streams = streams
        self._length = length
        self._versions = {}
        self._random = random.Random(7)
        self._cursor = None

    async def fill(self):
        print(f"filling {self._streams:,} times {self._length:,} events", file=sys.stderr)
        async with self.store.bind.begin() as connection:
            await connection.run_sync(upgrade_database)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for part in parts(self._streams, self._length):
                connection.execute(EVENTS, {**part, "payload": compact(PAYLOAD)})
            connection.execute(STREAMS, {"streams": self._streams, "length": self._length})
            connection.execute(SNAPSHOTS, {"state": compact(STATE)})
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        self._cursor = await self.store.latest_cursor()

    async def measure(self):
        """Each operation once. The store refuses an append if the fill had left a head row wrong."""
        stream_id, version = self._any_stream()
        event = EventEnvelope(stream_id, "BenchEvent", PAYLOAD)
        await self._timed("append", self.store.append(stream_id, [event], version))
        self._versions[stream_id] = version + 1
        page = await self._timed("poll", self.store.read_page(self._cursor))
        self._cursor = page.cursor
        assert [found.event_id for found in page.events] == [event.event_id]
        stream_id, version = self._any_stream()
        events = await self._timed("load", self.store.load(stream_id, version - SHORT + 1))
        assert len(events) == SHORT
        await self._timed("save", self._snapshots.save(stream_id, version, STATE))
        stream_id, _ = self._any_stream()
        snapshot = await self._timed("restore", self._snapshots.load_latest(stream_id))
        assert snapshot.state == STATE

    def _any_stream(self):
        stream_id = StreamId("growth", f"filled-{self._random.randint(1, self._streams)}")
        return stream_id, self._versions.get(stream_id, self._length)

    async def _timed(self, operation, awaitable):
        start = time.perf_counter()
        answer = await awaitable
        self.milliseconds[operation].append(1e3 * (time.perf_counter() - start))
        return answer

    def medians(self):
        return {operation: statistics.median(taken) for operation, taken in self.milliseconds.items()}


def parts(streams, length):
    """About 100,000 events at a time: some streams, or a part of one."""
    streams_of, versions_of = max(1, CHUNK // length), min(CHUNK, length)
    for stream in range(1, streams + 1, streams_of):
        for version in range(1, length + 1, versions_of):
            yield {
                "first_stream": stream,
                "last_stream": min(stream + streams_of - 1, streams),
                "first_version": version,
                "last_version": min(version + versions_of - 1, length),
            }


async def measure(subjects, rounds):
    """All in turn; the first round is not counted: it connects and prepares."""
    for number in range(rounds + 1):
        for subject in subjects:
            for _ in range(EACH):
                await subject.measure()
            if number == 0:
                for taken in subject.milliseconds.values():
                    taken.clear()


async def memory_of_stream(store):
    """Megabytes that a whole `stream()` takes at most above the start."""
    events = store.stream(StreamId("growth", "filled-1"))
    await anext(events)
    memory = PeakMemory()
    async for _ in events:
        pass
    return memory.growth()


async def run(dsn, options):
    """Figures by operation: at every size, and of the long stream."""
    stores = [Subject(new_database(dsn, f"of_{size}"), size // SHORT, SHORT) for size in options.sizes]
    long = Subject(new_database(dsn, "one_stream"), 1, options.stream)
    for subject in (*stores, long):
        await subject.fill()
    await measure([*stores, long], options.rounds)
    memory = await memory_of_stream(long.store)
    for subject in (*stores, long):
        await subject.store.close()
    return {
        "operations": OPERATIONS,
        "sizes": options.sizes,
        "milliseconds": {name: [store.medians()[name] for store in stores] for name in OPERATIONS},
        "stream": options.stream,
        "milliseconds_of_stream": long.medians(),
        "memory_of_stream": memory,
    }


def factor(sizes, milliseconds):
    """How many times as long an operation takes in a store that is ten times as large."""
    return (
        10
        ** statistics.linear_regression(list(map(math.log10, sizes)), list(map(math.log10, milliseconds)))[0]
    )


def report(results):
    """The figures as Markdown, with the slopes in words."""
    sizes, stream = results["sizes"], results["stream"]
    head = ["milliseconds", *(f"{size:,} events" for size in sizes), "for ten times the events"]
    rows = [
        [
            title,
            *(f"{taken:.2f}" for taken in results["milliseconds"][name]),
            f"{factor(sizes, results['milliseconds'][name]):.2f} times",
            f"{results['milliseconds_of_stream'][name]:.2f}",
        ]
        for name, title in OPERATIONS.items()
    ]
    memory = f"`stream()` over the {stream:,} takes {results['memory_of_stream']:.1f} MB at most."
    return f"{markdown([*head, f'one stream of {stream:,}'], rows)}\n\n{memory} {results['note']}"


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [10_000, 1_000_000, 20_000_000]
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=sizes)
    parser.add_argument("--stream", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="put table and picture into docs/performance.md")
    return parser.parse_args()


def main():
    options = arguments()
    if options.write:
        import pictures  # before the run: matplotlib may be missing
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as dsn:
        results = asyncio.run(run(dsn, options))
        results["note"] = (
            f"Medians of {options.rounds * EACH} operations, all stores in turn, by "
            f"`python benchmarks/growth.py`: {machine(server_version(dsn))}"
        )
    print(report(results))
    if options.write:
        save(results, "growth")
        write_between(report(results), "growth", PERFORMANCE)
        pictures.draw_growth()


if __name__ == "__main__":
    main()
