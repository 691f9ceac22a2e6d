"""The feed in figures: a projection against the peers' own runners, latency, idle subscriptions, a poll.

Usage: python benchmarks/feed.py [--rounds 5] [--events 1000000] [--python313 PATH] [--environments FOLDER]
                                 [--write] [--only projection,latency,idle,poll]

projection: 5,020 events are there before the start; a projection writes one row for each. Medians of
    --rounds. Stores take turns, each with a process and a database of its own, peers also with an
    environment of their own (--python313 is an interpreter for eventsource-py).
latency: from the moment an append came back to the call of the handler, for 300 appends, one every
    20 ms; idle, and while 8 writers in another process append as fast as they can. Appends before
    them are not measured: after a rest, a poll may come as late as a second.
idle: processor time of 10 subscriptions that have nothing to do, over 20 s, in % of one core.
poll: the median of 200 polls that find one new event, by a reader that has kept up: before, and while
    an unrelated writing transaction has stayed open through --events appends, each a transaction.

Every part starts an embedded PostgreSQL of its own with default settings. Prints a Markdown table;
--write puts it into docs/performance.md. Needs Linux (/proc) for idle.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from report import PERFORMANCE, machine, markdown, write_between
from stores import PEERS, Store, in_turn, new_database, peer_pythons, server_version

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    SubscriptionRunner,
)
from k1s0_event_store.feed import FIRST_PAGE, LARGEST_PAGE
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

OURS = "k1s0_event_store_feed"
RUNNERS = {
    "eventsourcing_feed": f"{PEERS['eventsourcing_pg']}, its ProjectionRunner",
    "eventsource_py_feed": f"{PEERS['eventsource_py']}, its SubscriptionManager",
}
ENVIRONMENTS = {"eventsourcing_feed": "eventsourcing_pg", "eventsource_py_feed": "eventsource_py"}
TIME_LIMIT = 120
APPENDS, EVERY, WRITERS = 300, 0.02, 8
WARM_UP = 50
SUBSCRIPTIONS, SETTLE, WATCH = 10, 5.0, 20.0
POLLS, CHUNK = 200, 5_000
MODES = {False: "polling", True: "listening"}
UNRELATED = "INSERT INTO unrelated VALUES (1)"
# What one append writes to the feed; streams of ten events.
FILL = """
DO $$ BEGIN FOR number IN {first}..{last} LOOP
    INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                                   metadata, occurred_at)
    VALUES ('filled', number / 10, number % 10 + 1, gen_random_uuid(), 'Filled', '{{"n": 1}}', '{{}}', now());
    COMMIT;
END LOOP; END $$"""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    figure: str
    target: str = ""


@asynccontextmanager
async def migrated(dsn, **settings):
    """A store on `dsn`, its tables made."""
    async with PostgresEventStore(EventStoreConfig(dsn=dsn, **settings)) as store:
        async with store.bind.begin() as connection:
            await connection.run_sync(upgrade_database)
        yield store


def running(store, *subscriptions):
    """A runner for `subscriptions`, with the settings of `store`."""
    return SubscriptionRunner(store, PostgresSubscriptionStore(store.config, bind=store.bind), subscriptions)


async def append_one(store, name):
    """Append the first event of a new stream; returns the event."""
    event = EventEnvelope(StreamId("bench", name), "Happened", {"n": 1})
    await store.append(event.stream_id, [event], 0)
    return event


# Projection


def projection(dsn, folder, options):
    peers = peer_pythons(options.environments or folder, options.python313)
    pythons = {runner: peers[peer] for runner, peer in ENVIRONMENTS.items() if peer in peers}
    return compare(dsn, {OURS: sys.executable, **pythons}, options.rounds)


def compare(dsn, pythons, rounds):
    stores = [start_store(module, python, dsn) for module, python in pythons.items()]
    in_turn(stores, ["project"], rounds)
    batch = start_store(OURS, pythons[OURS], dsn, "batch")
    in_turn([batch], ["project_batch"], rounds)
    best = max(store.median("project") or 0 for store in stores if store.module in RUNNERS)
    ours = stores[0].median("project")
    return [
        rate("**k1s0-event-store**, a call per event", ours),
        *(rate(RUNNERS[store.module], store.median("project")) for store in stores[1:]),
        Row("*a call per event: times the best peer*", f"{ours / best:.2f}" if best else "-", "at least 3"),
        rate("**k1s0-event-store**, a call per batch", batch.median("project_batch")),
    ]


def start_store(module, python, dsn, suffix="event"):
    return Store(module, python, new_database(dsn, f"b_{module}_{suffix}"), time_limit=TIME_LIMIT)


def rate(who, median):
    return Row(f"a row per event: {who}", "-" if median is None else f"{median:,.0f} events per second")


# Latency


def latency(dsn, _folder, _options):
    rows = []
    for loaded in (False, True):
        for notify, mode in MODES.items():
            database = new_database(dsn, f"latency_{mode}_{'loaded' if loaded else 'idle'}")
            delays = asyncio.run(delays_in(database, notify, loaded))
            what = f"from commit to handler, {f'{WRITERS} writers' if loaded else 'idle'}, {mode}: p50, p99"
            rows.append(Row(what, f"{percentile(delays, 50):.1f} ms, {percentile(delays, 99):.1f} ms"))
    return rows


def percentile(values, number):
    return statistics.quantiles(values, n=100)[number - 1]


async def delays_in(dsn, notify, loaded):
    """Milliseconds from each append's return to its handler's call."""
    handled = {}

    async def handle(event, session):
        handled[event.event_id] = time.perf_counter()

    async with migrated(dsn, notify=notify) as store, running(store, Projection("latency", handle)):
        with writers(dsn, notify) if loaded else nullcontext():
            await asyncio.sleep(2.0)
            await append_regularly(store, "warm-up", WARM_UP)
            returned = await append_regularly(store, "measured", APPENDS)
            await until(lambda: returned.keys() <= handled.keys())
    return [max(0.0, handled[event_id] - at) * 1e3 for event_id, at in returned.items()]


async def append_regularly(store, name, times):
    """When each of the appends came back, by event id."""
    returned = {}
    for number in range(times):
        event = await append_one(store, f"{name}-{number}")
        returned[event.event_id] = time.perf_counter()
        await asyncio.sleep(EVERY)
    return returned


async def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("events were not handled")
        await asyncio.sleep(0.01)


@contextmanager
def writers(dsn, notify):
    """Other writers in a process of their own."""
    process = multiprocessing.get_context("spawn").Process(target=write_on, args=(dsn, notify), daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            sys.exit("the writers ended")
    finally:
        process.terminate()
        process.join()


def write_on(dsn, notify):
    """Append until the process is ended."""
    asyncio.run(write_with_all(dsn, notify))


async def write_with_all(dsn, notify):
    async with PostgresEventStore(EventStoreConfig(dsn=dsn, notify=notify)) as store:
        await asyncio.gather(*(write_without_end(store, number) for number in range(WRITERS)))


async def write_without_end(store, writer):
    for number in count():
        await append_one(store, f"writer-{writer}-{number}")


# Idle subscriptions


def idle(dsn, folder, _options):
    postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    rows = []
    for notify, mode in MODES.items():
        database = new_database(dsn, f"idle_{mode}")
        client, server = asyncio.run(idle_share(database, notify, postmaster))
        figure = f"{client:.2f} % of a core here, {server:.2f} % in the server"
        rows.append(Row(f"{SUBSCRIPTIONS} idle subscriptions, {mode}", figure, "under 1 %"))
    return rows


async def idle_share(dsn, notify, postmaster):
    """Per cent of a core: of this process, and of the server's."""

    async def handle(event, session):
        pass

    projections = [Projection(f"idle-{number}", handle) for number in range(SUBSCRIPTIONS)]
    async with migrated(dsn, notify=notify) as store, running(store, *projections):
        await append_one(store, "first")
        await asyncio.sleep(SETTLE)
        before, started = (time.process_time(), server_seconds(postmaster)), time.perf_counter()
        await asyncio.sleep(WATCH)
        after, seconds = (time.process_time(), server_seconds(postmaster)), time.perf_counter() - started
    return [(last - first) / seconds * 100 for first, last in zip(before, after, strict=True)]


def server_seconds(postmaster):
    """Processor time that the server has used so far: its processes, also those that have ended."""
    ticks = sum(
        ticks_of(process, postmaster) for process in Path("/proc").iterdir() if process.name.isdigit()
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def ticks_of(process, postmaster):
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return 0
    if process.name == str(postmaster):
        return sum(map(int, fields[11:15]))  # with its children that have ended
    return sum(map(int, fields[11:13])) if fields[1] == str(postmaster) else 0


# A poll beside a transaction that stays open


def poll(dsn, _folder, options):
    before, beside, after = asyncio.run(poll_times(new_database(dsn, "poll"), options.events))
    ratio = f"{beside / min(before, after):.2f}"
    return [
        Row("a poll that finds one event, before", f"{before:.2f} ms"),
        Row(f"a poll, a transaction open through {options.events:,} appends", f"{beside:.2f} ms"),
        Row("a poll, after the end of that transaction", f"{after:.2f} ms"),
        Row("*a poll beside the transaction: times the better of the others*", ratio, "at most 2"),
    ]


async def poll_times(dsn, events):
    """Median milliseconds of a poll: before the transaction, at its end, after it."""
    async with migrated(dsn) as store:
        reader = Reader(store)
        with psycopg.connect(dsn) as writing, psycopg.connect(dsn, autocommit=True) as filling:
            filling.execute("CREATE TABLE unrelated (n int)")
            filling.execute("SET synchronous_commit = off")
            before = await poll_time(reader, filling)
            writing.execute(UNRELATED)
            for first in range(0, events, CHUNK):
                filling.execute(FILL.format(first=first, last=min(first + CHUNK, events) - 1))
                await reader.read_along()
            beside = await poll_time(reader, filling)
            writing.commit()
            after = await poll_time(reader, filling)
    if reader.seen != events + 3 * (WARM_UP + POLLS):
        sys.exit(f"the reader saw {reader.seen} events")
    return before, beside, after


async def poll_time(reader, connection):
    """Median milliseconds of a poll that finds one event; what was filled before is on disk by then."""
    connection.execute("CHECKPOINT")
    await reader.read_along()
    times = [await reader.poll() for _ in range(WARM_UP + POLLS)]
    return statistics.median(times[WARM_UP:]) * 1e3


class Reader:
    """Follows the feed page by page, as a subscription does."""

    def __init__(self, store) -> None:
        self.seen = 0
        self._store = store
        self._cursor: Any = None
        self._names = count()

    async def read_along(self):
        more = True
        while more:
            more = await self._read(LARGEST_PAGE)

    async def _read(self, limit):
        page = await self._store.read_page(self._cursor, limit)
        self._cursor = page.cursor
        self.seen += len(page.events)
        return page.more

    async def poll(self):
        """Seconds of a poll that finds the one event that was appended before it."""
        await append_one(self._store, f"polled-{next(self._names)}")
        start, seen = time.perf_counter(), self.seen
        more = await self._read(FIRST_PAGE)
        seconds = time.perf_counter() - start
        if more or self.seen != seen + 1:
            sys.exit("a poll did not find its event")
        return seconds


PARTS = {"projection": projection, "latency": latency, "idle": idle, "poll": poll}


def measure(parts, options):
    """All rows of the parts, and the server's version."""
    rows = []
    for part in parts:
        with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "data") as dsn:
            rows += PARTS[part](dsn, Path(name), options)
            version = server_version(dsn)
    return rows, version


def table(rows, rounds, version):
    """The rows as Markdown."""
    note = f"One run of `python benchmarks/feed.py`, a row per event in medians of {rounds} rounds:"
    return f"{markdown(['', '', 'target'], rows)}\n\n{note} {machine(version)}"


def part_names(text):
    names = text.split(",")
    if unknown := set(names) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return names


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=1_000_000, help="appends beside the open transaction")
    parser.add_argument("--python313", help="an interpreter of Python 3.13, for eventsource-py")
    parser.add_argument("--environments", type=Path, help="where the peers' environments are, or shall be")
    parser.add_argument("--only", type=part_names, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    rows, version = measure(options.only, options)
    text = table(rows, options.rounds, version)
    print(text)
    if options.write:
        write_between(text, "feed-benchmark", PERFORMANCE)


if __name__ == "__main__":
    main()
