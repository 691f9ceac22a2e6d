"""What other layouts of the tables would cost: microseconds, bytes and log.

Usage: python benchmarks/layout.py [--rounds 25] [--write]

Makes a database for each layout on an embedded PostgreSQL with its default settings, changes the tables there
and fills it: 2,000 streams with random ids grow side by side to 20 events each, 5 at a time. The bytes are
those after a VACUUM then. After that the layouts take turns, round by round and each time in another order,
with all of a database in memory, and do the works by the library's own statements on one connection. Only
server and driver are timed, on one core, and no commit waits for the disk (synchronous_commit is off there).
The figures are medians.

append of 1: one goes to a new stream, the next to one of the 2,000, with no version expected, so that ids are
    looked up
append of 100: to a new stream; also how much is written to the log
append of 5,000: to a new stream; so many go by COPY
load: the first 20 events of a stream
poll: a page of the feed for a reader that has kept up, with one event in it
page: 500 events of the feed, from its beginning

More tables are about payloads that are worth compressing, about the fillfactor of `streams`, and about what
VACUUM has to do, at the default settings and others. --write keeps the figures in benchmarks/results and puts
the tables into docs/performance.md. Needs Linux: it binds processes to a core.
"""

import argparse
import asyncio
import io
import os
import random
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from itertools import product
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import asyncpg
import psycopg
from report import PERFORMANCE, machine, markdown, save, write_between
from stores import new_database, server_version
from works import LONG, PAYLOAD_200, SHORT, SPACE_BATCH, SPACE_STREAMS, SPACE_WRITERS, compact

from k1s0_event_store import EventEnvelope, EventStoreConfig, StreamId
from k1s0_event_store.feed import EVERYTHING
from k1s0_event_store.postgres import feed, operations
from k1s0_event_store.postgres.connection import in_transaction, run_async
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.postgres.statements import Copy, statements_for
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.store import check_span

WORKS = {"load": 40, "poll": 5, "page": 2, "append_1": 30, "append_100": 5, "append_5000": 1}
"""How often each work is done in a round."""
FORMS = {
    "append_1": ".0f", "append_100": ".1f", "append_5000": ".1f",
    "load": ".0f", "poll": ",.0f", "page": ",.0f",
}  # fmt: skip
WORKS_LARGE = {"load": 40, "append_1": 30, "append_100": 5}
WORKS_OF_STREAMS = {"append_old": 1_500}
HUNDRED, PAGE = 100, 500
LARGE_STREAMS = 200
GROWN = 150_000


class Layout(NamedTuple):
    """What is changed after the migrations, and what the library then has to say or send differently."""

    title: str
    changes: tuple[str, ...] = ()
    says: tuple[str, str] = ("", "")
    copies: Callable[[bytes], bytes] = bytes


def altered(table, *actions):
    return f"ALTER TABLE eventstore.{table} {', '.join(actions)}"


def unique(name, columns):
    return altered("events", f"DROP CONSTRAINT {name}", f"ADD CONSTRAINT {name} UNIQUE ({columns})")


def collated(collation):
    ids = [f'ALTER {name} TYPE text COLLATE "{collation}"' for name in ("aggregate_type", "aggregate_id")]
    return altered("streams", *ids), altered("events", *ids)


def indexes_with(setting, *names):
    return tuple(f"ALTER INDEX eventstore.{name} SET ({setting})" for name in names)


def jsonb_rows(rows):
    """The rows of a binary COPY with the version that jsonb begins with."""
    length = Struct("!i").pack
    for text in (compact(PAYLOAD_200).encode(), b"{}"):
        rows = rows.replace(length(len(text)) + text, length(len(text) + 1) + b"\1" + text)
    return rows


def worth_compressing():
    """A payload of an order with many lines, of about 4 KB."""
    source = random.Random(7)
    lines = [
        {
            "sku": f"sku-{source.getrandbits(32):08x}",
            "quantity": source.randint(1, 9),
            "cents": source.randint(99, 99_999),
        }
        for _ in range(80)
    ]
    return {"order_id": "o-123", "lines": lines}


ASCENDING = ("uq_events_event_id", "idx_events_position", "idx_events_tx_position")
WITHOUT_POSITION, WITHOUT_TX = (f"DROP INDEX eventstore.{name}" for name in ASCENDING[1:])
BRIN = "CREATE INDEX ON eventstore.events USING brin ({}) WITH (autosummarize = on)"
# PostgreSQL has none for its transaction ids, and takes one from a superuser only.
OPERATORS = """
CREATE OPERATOR CLASS xid8_minmax DEFAULT FOR TYPE xid8 USING brin AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 brin_minmax_opcinfo(internal),
    FUNCTION 2 brin_minmax_add_value(internal, internal, internal, internal),
    FUNCTION 3 brin_minmax_consistent(internal, internal, internal),
    FUNCTION 4 brin_minmax_union(internal, internal, internal)"""
ORDERED = (
    "DROP TABLE eventstore.events",
    """
    CREATE TABLE eventstore.events (
        position bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
        tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
        version bigint NOT NULL,
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        event_id uuid NOT NULL,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        event_type text NOT NULL,
        payload json NOT NULL,
        metadata json NOT NULL,
        CONSTRAINT uq_events_version UNIQUE (aggregate_type, aggregate_id, version),
        CONSTRAINT uq_events_event_id UNIQUE (event_id, aggregate_id)
    )""",
    "CREATE INDEX idx_events_position ON eventstore.events (position)",
    "CREATE INDEX idx_events_tx_position ON eventstore.events (tx, position)",
)
AS_IT_IS = Layout("as it is: `json`")
JSONB = Layout(
    "`jsonb`",
    (
        altered(
            "events", *(f"ALTER {name} TYPE jsonb USING {name}::jsonb" for name in ("payload", "metadata"))
        ),
    ),
    ("::json", "::jsonb"),
    jsonb_rows,
)
LZ4 = Layout("`json`, compressed by lz4", (altered("events", "ALTER payload SET COMPRESSION lz4"),))
LAYOUTS = (
    AS_IT_IS,
    JSONB,
    LZ4,
    Layout("unique: `event_id`", (unique("uq_events_event_id", "event_id"),)),
    Layout(
        "unique: `aggregate_id, event_id`",
        (unique("uq_events_event_id", "aggregate_id, event_id"),),
        ("aggregate_id || ''", "aggregate_id"),
    ),
    Layout(
        "unique: `aggregate_id, aggregate_type, version`",
        (unique("uq_events_version", "aggregate_id, aggregate_type, version"),),
    ),
    Layout(
        "`deduplicate_items = off`", indexes_with("deduplicate_items = off", "uq_events_version", *ASCENDING)
    ),
    Layout("`fillfactor = 100` where an index ascends", indexes_with("fillfactor = 100", *ASCENDING)),
    Layout("columns of fixed length first", ORDERED),
    Layout("BRIN on `tx`", (WITHOUT_TX, OPERATORS, BRIN.format("tx"))),
    Layout("no index on `tx`", (WITHOUT_TX,)),
    Layout("BRIN on `position`", (WITHOUT_POSITION, BRIN.format("position"))),
    Layout('ids `COLLATE "C"`', collated("C")),
)
UNCOMPRESSED = Layout("`json`, not compressed", (altered("events", "ALTER payload SET STORAGE EXTERNAL"),))
LAYOUTS_LARGE = (AS_IT_IS, JSONB, LZ4, UNCOMPRESSED)
LAYOUTS_OF_STREAMS = (
    Layout("80, as it is"),
    *(Layout(str(factor), (altered("streams", f"SET (fillfactor = {factor})"),)) for factor in (100, 90, 50)),
)
WARM = """
SELECT pg_prewarm(oid) FROM pg_class
WHERE relnamespace = 'eventstore'::regnamespace AND relkind IN ('r', 'i')"""
INDEXES = """
SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE indrelid = 'eventstore.events'::regclass ORDER BY 2 DESC"""
LOG = "SELECT wal_bytes FROM pg_stat_get_backend_wal(pg_backend_pid())"
STREAMS = """
SELECT n_tup_hot_upd::float / n_tup_upd AS hot, pg_table_size(relid) AS table, pg_indexes_size(relid) AS index
FROM pg_stat_user_tables WHERE relid = 'eventstore.streams'::regclass"""


class Timing:
    """Executes queries on one connection, and adds up the seconds that server and driver take."""

    def __init__(self, connection, layout):
        self.seconds = 0.0
        self._connection = connection
        self._layout = layout

    async def fetch(self, query):
        if isinstance(query, Copy):
            return await self._copy(query)
        text = query.statement.dollar.replace(*self._layout.says)
        return await self._timed(self._connection.fetch(text, *query.args))

    async def _copy(self, copy):
        rows = io.BytesIO(self._layout.copies(b"".join(copy.data)))
        how = {"schema_name": copy.schema, "columns": copy.columns, "format": "binary"}
        answer = await self._timed(self._connection.copy_to_table(copy.table, source=rows, **how))
        return ((int(answer.removeprefix("COPY ")),),)

    @asynccontextmanager
    async def transaction(self):
        transaction = self._connection.transaction()
        await self._timed(transaction.start())
        yield self
        await self._timed(transaction.commit())

    async def _timed(self, awaitable):
        start = time.perf_counter()
        answer = await awaitable
        self.seconds += time.perf_counter() - start
        return answer


def share_core(server_process):
    """Keep a server process on one core with this one: a short query takes twice as long between two."""
    core = {max(os.sched_getaffinity(0))}
    for process in (0, server_process):
        os.sched_setaffinity(process, core)


class Subject:
    """A database in one layout, and the figures of each work."""

    def __init__(self, dsn, layout, payload=PAYLOAD_200):
        self.title = layout.title
        self.figures = defaultdict(list)
        self.bytes = {}
        self._dsn = dsn
        self._layout = layout
        self._payload = payload
        self._sql = statements_for(EventStoreConfig().schema)
        self._random = random.Random(7)
        self._filled = []
        self._checked = set()

    async def open(self):
        """True; False where the server has not what the layout needs."""
        await in_transaction(EventStoreConfig(dsn=self._dsn), upgrade_database)
        self.connection = await asyncpg.connect(self._dsn, server_settings={"synchronous_commit": "off"})
        self._timing = Timing(self.connection, self._layout)
        await self.connection.execute("CREATE EXTENSION pg_prewarm")
        share_core(await self.connection.fetchval("SELECT pg_backend_pid()"))
        try:
            for change in self._layout.changes:
                await self.connection.execute(change)
        except asyncpg.FeatureNotSupportedError as exc:
            print(f"{self.title} is left out: {exc}", file=sys.stderr)
            await self.connection.close()
            return False
        return True

    async def fill(self, streams, each):
        """Let streams grow side by side, then look at the bytes that an event takes.

        Appends come in another order than their ids were drawn in, as those of several writers do.
        """
        self._filled = [self._new_stream() for _ in range(streams)]
        for start in range(0, each, SPACE_BATCH):
            for first in range(0, streams, SPACE_WRITERS):
                together = self._filled[first : first + SPACE_WRITERS]
                appends = [self._wanted(stream_id, SPACE_BATCH, start) for stream_id in together]
                for wanted in self._random.sample(appends, len(appends)):
                    await self._run(operations.append(self._sql, wanted, joined=False))
        await self.connection.execute("VACUUM ANALYZE")
        table = await self.connection.fetchval("SELECT pg_table_size('eventstore.events')")
        indexes = dict(await self.connection.fetch(INDEXES))
        self.bytes = {name: size / (streams * each) for name, size in {"table": table, **indexes}.items()}

    async def append_1(self):
        with self._kept("append_1", 2):
            await self._append(self._new_stream(), 1, 0)
            await self._append(self._random.choice(self._filled), 1, None)

    async def append_old(self):
        """To a stream that is there."""
        with self._kept("append_old"):
            await self._append(self._random.choice(self._filled), 1, None)

    async def append_100(self):
        log = await self._log()
        with self._kept("append_100", HUNDRED):
            await self._append(self._new_stream(), HUNDRED, 0)
        self.figures["log"].append((await self._log() - log) / HUNDRED)

    async def append_5000(self):
        with self._kept("append_5000", LONG):
            await self._append(self._new_stream(), LONG, 0)

    async def load(self):
        stream_id = self._random.choice(self._filled)
        with self._kept("load"):
            span = check_span(stream_id, limit=SHORT)
            events = await self._run(operations.load(self._sql, stream_id, span))
        assert len(events) == SHORT

    async def poll(self):
        cursor = await self._run(feed.latest_cursor(self._sql))
        await self._append(self._new_stream(), 1, 0)
        with self._kept("poll"):
            page = await self._page(cursor)
        assert len(page.events) == 1

    async def page(self):
        with self._kept("page"):
            page = await self._page(None)
        assert len(page.events) == PAGE

    async def _append(self, stream_id, size, expected):
        wanted = self._wanted(stream_id, size, expected)
        await self._run(operations.append(self._sql, wanted, joined=False))

    def _wanted(self, stream_id, size, expected):
        events = [EventEnvelope(stream_id, "BenchEvent", self._payload) for _ in range(size)]
        return operations.check_append(stream_id, events, expected)

    def _new_stream(self):
        return StreamId("bench", str(uuid.UUID(int=self._random.getrandbits(128), version=4)))

    async def _page(self, after):
        return await self._run(feed.read_page(self._sql, after, PAGE, EVERYTHING, None, self._checked))

    async def _run(self, steps):
        return await run_async(self._timing, steps)

    async def _log(self):
        """Bytes of log that this session has written; others write into the same one."""
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        return int(await self.connection.fetchval(LOG))

    @contextmanager
    def _kept(self, figure, parts=1):
        """The microseconds of the block, for each of so many parts of it."""
        before = self._timing.seconds
        yield
        self.figures[figure].append(1e6 * (self._timing.seconds - before) / parts)

    def medians(self):
        return {figure: statistics.median(taken) for figure, taken in self.figures.items()}


async def opened(server, name, layouts, payload=PAYLOAD_200):
    """The subjects of those layouts that the server can have."""
    subjects = [
        Subject(new_database(server, f"{name}_{number}"), layout, payload)
        for number, layout in enumerate(layouts)
    ]
    return [subject for subject in subjects if await subject.open()]


async def measure(subjects, works, rounds):
    """All in turn; the first round is not counted."""
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr)
        for subject in random.Random(number).sample(subjects, len(subjects)):
            await subject.connection.execute(WARM)
            for work, times in works.items():
                for _ in range(times):
                    await getattr(subject, work)()
            if number == 0:
                subject.figures.clear()


async def of_events(server, rounds):
    """Figures by layout."""
    subjects = await opened(server, "events", LAYOUTS)
    for subject in subjects:
        await subject.fill(SPACE_STREAMS, SHORT)
    return await compared(subjects, WORKS, rounds)


async def of_large_payloads(server, rounds):
    subjects = await opened(server, "large", LAYOUTS_LARGE, worth_compressing())
    for subject in subjects:
        await subject.fill(LARGE_STREAMS, SHORT)
    return await compared(subjects, WORKS_LARGE, rounds)


async def compared(subjects, works, rounds):
    await measure(subjects, works, rounds)
    for subject in subjects:
        await subject.connection.close()
    return {subject.title: {**subject.medians(), "bytes": subject.bytes} for subject in subjects}


async def of_streams(server, rounds):
    """What many appends make of the head rows."""
    subjects = await opened(server, "streams", LAYOUTS_OF_STREAMS)
    for subject in subjects:
        await subject.fill(SPACE_STREAMS, SPACE_BATCH)
    await measure(subjects, WORKS_OF_STREAMS, rounds)
    found = {}
    for subject in subjects:
        await subject.connection.execute("SELECT pg_stat_force_next_flush()")
        found[subject.title] = {**subject.medians(), **await subject.connection.fetchrow(STREAMS)}
        await subject.connection.close()
    return found


class Policy(NamedTuple):
    """When VACUUM comes, and what it freezes: by default as autovacuum does."""

    title: str
    threshold: int = 1_000
    scale_factor: float = 0.2
    freeze_min_age: int = 50_000_000


EVERY = 10_000
POLICIES = (
    Policy("as it is"),
    Policy(f"after {EVERY:,} rows", EVERY, 0),
    Policy("`freeze_min_age = 0`", freeze_min_age=0),
)
BETWEEN = {True: "a checkpoint between", False: "no checkpoint between"}
COLLATION = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
UNFROZEN = """
SELECT reltuples * (1 - relallfrozen::float / greatest(relpages, 1))
FROM pg_class WHERE oid = 'eventstore.events'::regclass"""


class Vacuuming:
    """What VACUUM says of its work on `events`, and how long it took."""

    def __init__(self, connection):
        self.works = []
        self._connection = connection
        self._said = []
        connection.add_log_listener(lambda _connection, message: self._said.append(message.message))

    async def vacuum(self, options="VERBOSE"):
        self._said.clear()
        start = time.perf_counter()
        await self._connection.execute(f"VACUUM ({options}) eventstore.events")
        milliseconds = 1e3 * (time.perf_counter() - start)
        await asyncio.sleep(0)  # what was said is handed over in the next turn of the loop
        self.works.append((milliseconds, self._sum(r"(\d+) dirtied"), self._sum(r"(\d+) bytes")))

    def _sum(self, pattern):
        return sum(map(int, re.findall(pattern, "\n".join(self._said))))

    def take(self):
        """Milliseconds, pages and bytes of all that was done since."""
        works, self.works = self.works, []
        return dict(zip(("milliseconds", "pages", "log"), map(sum, zip(*works, strict=True)), strict=True))


async def of_vacuum(server):
    """What VACUUM does while the table grows, and in the end to freeze all that it has not."""
    found = {}
    for number, (policy, checkpoint) in enumerate(product(POLICIES, BETWEEN)):
        (subject,) = await opened(server, f"vacuum_{number}", [AS_IT_IS])
        found[f"{policy.title}, {BETWEEN[checkpoint]}"] = await vacuumed(subject, policy, checkpoint)
        await subject.connection.close()
    return found


async def vacuumed(subject, policy, checkpoint):
    connection, vacuuming = subject.connection, Vacuuming(subject.connection)
    # Rows whose commit is not on the disk yet count as not visible to all.
    await connection.execute("SET synchronous_commit = on")
    await connection.execute(altered("events", "SET (autovacuum_enabled = off)"))
    await connection.execute(f"SET vacuum_freeze_min_age = {policy.freeze_min_age}")
    new = times = 0
    for _ in range(GROWN // LONG):
        await subject.append_5000()
        new += LONG
        if new > policy.threshold + policy.scale_factor * await connection.fetchval(UNFROZEN):
            if checkpoint:
                await connection.execute("CHECKPOINT")
            await vacuuming.vacuum()
            new, times = 0, times + 1
    growing = vacuuming.take()
    await connection.execute("CHECKPOINT")
    await vacuuming.vacuum("FREEZE, VERBOSE")
    return {"times": times, "growing": growing, "later": vacuuming.take()}


def events_table(figures):
    head = ["append of 1", "of 100", "of 5,000", "load", "poll", "page", "bytes: table", "indexes", "log"]
    return markdown(["layout of `events`", *head], [line(layout, figures, FORMS) for layout in LAYOUTS])


def large_table(figures):
    size = f"payloads of {len(compact(worth_compressing())):,} bytes"
    head = [size, "append of 1", "of 100", "load", "bytes: table", "indexes", "log"]
    works = [work for work in FORMS if work in WORKS_LARGE]
    return markdown(head, [line(layout, figures, works) for layout in LAYOUTS_LARGE])


def line(layout, figures, works):
    """A layout's cells; dashes where the server has not what it needs."""
    found = figures.get(layout.title)
    if found is None:
        return [layout.title, *"-" * (len(works) + 3)]
    sizes = found["bytes"]["table"], sum(indexes_of(found).values()), found["log"]
    taken = [format(found[work], FORMS[work]) for work in works]
    return [layout.title, *taken, *(f"{size:,.0f}" for size in sizes)]


def indexes_of(found):
    return {name: size for name, size in found["bytes"].items() if name != "table"}


def streams_table(figures):
    head = ["fillfactor of `streams`", "HOT updates", "append of 1, to old streams", "bytes: table", "index"]
    forms = {"hot": ".2%", "append_old": ".0f", "table": ",", "index": ","}
    rows = [
        [title, *(format(found[figure], form) for figure, form in forms.items())]
        for title, found in figures.items()
    ]
    return markdown(head, rows)


def vacuum_table(figures):
    work = ["ms", "pages made dirty", "log per event"]
    head = ["VACUUM of `events`", "times", *work, f"FREEZE in the end: {work[0]}", *work[1:]]
    rows = [
        [title, str(found["times"]), *worked(found["growing"]), *worked(found["later"])]
        for title, found in figures.items()
    ]
    return markdown(head, rows)


def worked(work):
    return f"{work['milliseconds']:,.0f}", f"{work['pages']:,}", f"{work['log'] / GROWN:.1f}"


def report(results):
    """The tables with what they mean."""
    indexes = indexes_of(results["events"][AS_IT_IS.title])
    parts = ", ".join(f"`{name}` {size:.0f}" for name, size in indexes.items())
    texts = (
        events_table(results["events"]),
        "Microseconds for each event of an append, for a load of 20 events, for a poll that finds one, for a "
        f"page of {PAGE}; bytes for each event in the table, in its indexes, in the log of appends of 100. "
        f"As it is, the indexes are {parts}. {results['note']}",
        large_table(results["large"]),
        streams_table(results["streams"]),
        f"After {results['appends']:,} appends of one event to {SPACE_STREAMS:,} streams.",
        vacuum_table(results["vacuum"]),
        f"While {GROWN:,} events come in appends of {LONG:,}, with or without a checkpoint between them and "
        "VACUUM; and in the end, after a checkpoint, freezing what is not frozen yet.",
    )
    return "\n\n".join(texts)


async def run(server, rounds):
    return {
        "events": await of_events(server, rounds),
        "large": await of_large_payloads(server, rounds),
        "streams": await of_streams(server, rounds),
        "appends": WORKS_OF_STREAMS["append_old"] * (rounds + 1),
        "vacuum": await of_vacuum(server),
    }


def note(rounds, server):
    with psycopg.connect(server) as connection:
        collation = connection.execute(COLLATION).fetchone()[0]
    return (
        f"Medians of {rounds} rounds, all layouts in turn, by `python benchmarks/layout.py`: "
        f"{machine(server_version(server))} These sessions set synchronous_commit off; the database's own "
        f"collation is {collation}. A dash: this server cannot do it."
    )


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args()


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as dsn:
        results = asyncio.run(run(dsn, options.rounds))
        results["note"] = note(options.rounds, dsn)
    print(report(results))
    if options.write:
        save(results, "layout")
        write_between(report(results), "layout", PERFORMANCE)


if __name__ == "__main__":
    main()
