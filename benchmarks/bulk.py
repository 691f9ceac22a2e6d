"""Ways to get many events into the tables, and what each takes of the client and of the server.

Usage: python benchmarks/bulk.py [--events 200000] [--batch 10000] [--rounds 5]

Streams of 20 events, by turns on an embedded PostgreSQL with its default settings; each way and round has
new tables. Printed are medians: events per second, and microseconds of processor time per event.

limit: COPY of heads and events into the tables, in one transaction, without any check
import: store.import_batch, of events that are made on the way
straight: heads moved by the statement of import_batch, COPY into the events; for comparison with these:
staging: heads moved by that statement, COPY into a temporary table, INSERT ... SELECT
unnest: heads moved by that statement, INSERT ... SELECT from arrays
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from stores import new_database
from works import PAYLOAD, SHORT, compact

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.envelope import new_event_id
from k1s0_event_store.postgres.binary_copy import EVENT_COLUMNS
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.import_statements import import_statements_for
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

_numbers = itertools.count(1)
SQL = import_statements_for("eventstore")
STREAM_COLUMNS = ("aggregate_type", "aggregate_id", "version")
COLUMNS = ", ".join(EVENT_COLUMNS)
INTO_EVENTS = f"INSERT INTO eventstore.events ({COLUMNS}) "
TYPES = ("text", "text", "bigint", "uuid", "text", "text", "text", "timestamptz")
UNNEST = (
    f"{INTO_EVENTS} SELECT a, b, c, d, e, f::json, g::json, h FROM unnest("
    + ", ".join(f"${number}::{name}[]" for number, name in enumerate(TYPES, 1))
    + ") AS given (a, b, c, d, e, f, g, h)"
)
STAGING = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS staging ON COMMIT DELETE ROWS AS
SELECT {COLUMNS} FROM eventstore.events WITH NO DATA"""
MOVE = f"{INTO_EVENTS} SELECT {COLUMNS} FROM staging ORDER BY ctid"


def rows(names):
    now, payload = datetime.now(UTC), compact(PAYLOAD)
    return [
        ("bench", name, version, new_event_id(), "BenchEvent", payload, "{}", now)
        for name in names
        for version in range(1, SHORT + 1)
    ]


async def copy(connection, table, columns, records, schema="eventstore"):
    await connection.copy_records_to_table(table, schema_name=schema, columns=columns, records=records)


async def move_heads(connection, names):
    counts = [SHORT] * len(names)
    moved = await connection.fetchval(SQL.move_heads.dollar, ["bench"] * len(names), names, counts, counts)
    assert moved == len(names)


async def limit(connection, store, names):
    await copy(connection, "streams", STREAM_COLUMNS, [("bench", name, SHORT) for name in names])
    await copy(connection, "events", EVENT_COLUMNS, rows(names))


async def straight(connection, store, names):
    await move_heads(connection, names)
    await copy(connection, "events", EVENT_COLUMNS, rows(names))


async def staging(connection, store, names):
    await connection.execute(STAGING)
    await move_heads(connection, names)
    await copy(connection, "staging", EVENT_COLUMNS, rows(names), schema=None)
    await connection.execute(MOVE)


async def unnest(connection, store, names):
    await move_heads(connection, names)
    await connection.execute(UNNEST, *zip(*rows(names), strict=True))


async def by_import(connection, store, names):
    stream_ids = [StreamId("bench", name) for name in names]
    await store.within(connection).import_batch(
        EventEnvelope(stream_id, "BenchEvent", PAYLOAD, version=version)
        for stream_id in stream_ids
        for version in range(1, SHORT + 1)
    )


async def through_asyncpg(dsn, work, batches):
    connection = await asyncpg.connect(dsn)
    try:
        for names in batches:
            async with connection.transaction():
                await work(connection, None, names)
        return processor_time(connection.get_server_pid())
    finally:
        await connection.close()


async def through_the_store(dsn, work, batches):
    async with (
        PostgresEventStore(EventStoreConfig(dsn=dsn)) as store,
        store.bind.connect() as connection,
    ):
        for names in batches:
            async with connection.begin():
                await work(connection, store, names)
        raw = await connection.get_raw_connection()
        return processor_time(raw.driver_connection.get_server_pid())


WAYS = {
    "limit": (through_asyncpg, limit),
    "import": (through_the_store, by_import),
    "straight": (through_asyncpg, straight),
    "staging": (through_asyncpg, staging),
    "unnest": (through_asyncpg, unnest),
}


def processor_time(pid):
    """Seconds that a process has worked for; a server process has done nothing before."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(server, way, events, batch):
    """Events per second, and microseconds per event of the client and of the server."""
    dsn = new_database(server, f"bulk_{next(_numbers)}")
    await in_transaction(EventStoreConfig(dsn=dsn), upgrade_database)
    names = [f"imported-{number}" for number in range(events // SHORT)]
    size = events if way == "limit" else batch
    batches = [names[first : first + size // SHORT] for first in range(0, len(names), size // SHORT)]
    connect, work = WAYS[way]
    start, worked = time.perf_counter(), time.process_time()
    by_server = await connect(dsn, work, batches)
    seconds, by_client = time.perf_counter() - start, time.process_time() - worked
    return events / seconds, 1e6 * by_client / events, 1e6 * by_server / events


async def main(options):
    figures = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as server:
        for _ in range(options.rounds):
            for way, found in figures.items():
                found.append(await measured(server, way, options.events, options.batch))
    print(f"{'':10}{'events/s':>12}{'client µs':>12}{'server µs':>12}")
    for way, found in figures.items():
        rate, client, server_time = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{way:10}{rate:12,.0f}{client:12.1f}{server_time:12.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
