"""How long the pages of the stream browser take on a large store, and that none of them counts a table.

Usage: python benchmarks/browser.py [--events 10000000] [--dsn URL of a database that was filled before]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import psycopg

from k1s0_event_store import EventStoreConfig, PostgresEventStore
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.web import event_browser

TYPES = ("order", "customer", "invoice", "shipment")
EVENT_TYPES = ("Placed", "Paid", "Packed", "Shipped", "Returned", "Renamed", "Sent", "Opened")
PER_STREAM = 20
MIDDLE = "id-0001001"
PAGES = {
    "overview": "/",
    "streams": "/streams",
    "streams of a type, far in": "/streams?type=shipment&after_type=shipment&after_id=id-0300000",
    "streams, a text that no id has": "/streams?contains=nowhere",
    "one stream": f"/stream?type=customer&id={MIDDLE}",
    "newest events": "/events",
    "one event, with its causes and effects": "/events/{middle}",
    "types": "/types",
    "subscriptions": "/subscriptions",
}

STREAMS = """
INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version)
SELECT (%(types)s::text[])[1 + n %% 4], 'id-' || lpad(n::text, 7, '0'), %(each)s
FROM generate_series(1, %(streams)s) AS n"""

# One event for every stream, `number` steps into a month.
EVENTS = """
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload, metadata,
                               occurred_at, recorded_at)
SELECT (%(types)s::text[])[1 + n %% 4], 'id-' || lpad(n::text, 7, '0'), %(number)s + 1, gen_random_uuid(),
       (%(event_types)s::text[])[1 + (n * 7 + %(number)s) %% 8],
       jsonb_build_object('amount', n %% 1000, 'note', repeat('x', 120), 'sku', 'S-' || n),
       jsonb_build_object('correlation_id', 'req-' || n / 3, 'actor', 'user-' || n %% 100), now(),
       now() - interval '30 days' * (1 - (%(number)s + n::float8 / %(streams)s) / %(each)s)
FROM generate_series(1, %(streams)s) AS n"""


async def fill(dsn, events):
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store, store.bind.begin() as connection:
        await connection.run_sync(upgrade_database)
    values = {"types": list(TYPES), "event_types": list(EVENT_TYPES), "each": PER_STREAM}
    values["streams"] = events // PER_STREAM
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(STREAMS, values)
        for number in range(PER_STREAM):
            connection.execute(EVENTS, {**values, "number": number})
        connection.execute("ANALYZE")


async def measure(dsn, rounds=15):
    with psycopg.connect(dsn) as connection:
        ((last,),) = connection.execute("SELECT max(position) FROM eventstore.events").fetchall()
    app = event_browser(EventStoreConfig(dsn=dsn))
    print(f"{last:,} events\n\n| page | milliseconds: median | slowest | kB |\n|---|---:|---:|---:|")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        for name, path in PAGES.items():
            taken = []
            for _ in range(rounds):
                start = time.perf_counter()
                answer = await client.get(path.format(middle=last // 2))
                taken.append(1e3 * (time.perf_counter() - start))
                assert answer.status_code == 200, (name, answer.text)
            size = len(answer.content) / 1e3
            print(f"| {name} | {statistics.median(taken):.1f} | {max(taken):.1f} | {size:.0f} |")


async def main(events, dsn):
    if dsn is not None:
        await measure(dsn)
        return
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as live:
        await fill(live, events)
        await measure(live)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--dsn")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.dsn))
