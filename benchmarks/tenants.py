"""What keeping tenants apart costs: how much longer calls take than on tables that know no tenants.

Usage: python benchmarks/tenants.py [--rounds 25]

Two databases on an embedded PostgreSQL with its default settings take turns, each time in another order: one
without tenants; in the other the same events belong to one of 20 tenants, who all have as many. The calls are
those of the public stores: stand-alone on a pool, and an append inside a transaction of the app's. Medians.
"""

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from report import markdown
from stores import new_database
from works import SHORT

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.config import join_url, split_url
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.rights import grant
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.postgres.tenants import add_tenants
from k1s0_event_store.sandbox import running_server

STREAMS, EVENTS, TENANTS, PAGE = 200, 20, 20, 1_000
WORKS = {
    "append of 1 event": 30,
    "append of 100 events": 5,
    "append of 5,000 events": 1,
    "append of 1 in the app's transaction": 30,
    "load of 20 events": 40,
    "page of 1,000 events of the feed": 3,
}
"""How often each is done in a round."""
_numbers = itertools.count()


def new_stream(count):
    stream_id = StreamId("order", f"o-{next(_numbers)}")
    return stream_id, [EventEnvelope(stream_id, "OrderPlaced", SHORT) for _ in range(count)]


async def append_joined(store, stream_id, events):
    async with store.bind.begin() as connection:
        await store.within(connection).append(stream_id, events)


def prepared(work, store, streams):
    """What a work calls, with its events made before."""
    match work.split():
        case ["append", "of", count, *rest]:
            stream_id, events = new_stream(int(count.replace(",", "")))
            append = append_joined if "app's" in rest else PostgresEventStore.append
            return lambda: append(store, stream_id, events)
        case ["load", *_]:
            stream_id = random.choice(streams)
            return lambda: store.load(stream_id)
    return lambda: store.read_page(limit=PAGE)


async def filled(store):
    streams = [new_stream(EVENTS) for _ in range(STREAMS)]
    for stream_id, events in streams:
        await store.append(stream_id, events)
    return [stream_id for stream_id, _ in streams]


async def microseconds(work, store, streams):
    """Of one call, in a round of them."""
    calls = [prepared(work, store, streams) for _ in range(WORKS[work])]
    began = time.perf_counter()
    for call in calls:
        await call()
    return (time.perf_counter() - began) / len(calls) * 1e6


def migrate(connection):
    upgrade_database(connection)
    add_tenants(connection)
    connection.exec_driver_sql("CREATE ROLE app LOGIN")
    grant(connection, ["writer", "reader"], "app")


def of_app(dsn):
    split = split_url(dsn)
    return join_url(split._replace(netloc=f"app@{split.netloc.rpartition('@')[2]}"))


async def figures(server, rounds):
    plain, apart = EventStoreConfig(dsn=new_database(server, "plain")), new_database(server, "apart")
    await in_transaction(plain, upgrade_database)
    await in_transaction(EventStoreConfig(dsn=apart), migrate)
    configs = [replace(plain, dsn=of_app(apart), tenant=f"tenant-{n}") for n in range(TENANTS)]
    async with PostgresEventStore(plain) as one, PostgresEventStore(configs[0]) as other:
        subjects = [(one, await filled(one)), (other, await filled(other))]
        for config in configs[1:]:
            await filled(PostgresEventStore(config, bind=other.bind))
        found = {work: ([], []) for work in WORKS}
        for work, turn in itertools.product(WORKS, range(rounds + 1)):
            for which in (0, 1) if turn % 2 else (1, 0):
                taken = await microseconds(work, *subjects[which])
                if turn:  # the first round warms up
                    found[work][which].append(taken)
    return found


def table(found):
    rows = []
    for work, measured in found.items():
        without, apart = map(statistics.median, measured)
        rows.append([work, f"{without:,.0f} µs", f"{apart:,.0f} µs", f"{apart / without:.2f}"])
    return markdown(["call", "without tenants", "of a tenant", "times"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="k1s0-") as folder, running_server(Path(folder) / "data") as dsn:
        print(table(asyncio.run(figures(dsn, rounds))))


if __name__ == "__main__":
    main()
