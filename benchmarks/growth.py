"""What grows: an append to a stream of 1,000,000 events against one of 10, and the memory of stream().

Usage: python benchmarks/growth.py [--events 1000000]
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from pathlib import Path

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

SHORT, LONG = StreamId("growth", "short"), StreamId("growth", "long")


def resident():
    """Megabytes of resident memory, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def fill(store, events):
    batch = 5_000
    for start in range(0, events, batch):
        new = [EventEnvelope(LONG, "Grown", {"n": n, "text": "x" * 150}) for n in range(start, start + batch)]
        await store.append(LONG, new, start)


async def append_times(store, rounds=15, each=40):
    """Median seconds of one append: to the short stream, to the long one, in turn."""
    taken = {SHORT: [], LONG: []}
    for _ in range(rounds):
        for stream_id, times in taken.items():
            version = await store.current_version(stream_id)
            for number in range(each):
                start = time.perf_counter()
                await store.append(stream_id, [EventEnvelope(stream_id, "Grown", {"n": 1})], version + number)
                times.append(time.perf_counter() - start)
    return statistics.median(taken[SHORT]), statistics.median(taken[LONG])


async def stream_memory(store):
    """Events read, events per second, and the largest growth of memory on the way in megabytes."""
    before, most, seen = resident(), 0.0, 0
    start = time.perf_counter()
    async for _event in store.stream(LONG):
        seen += 1
        if seen % 5_000 == 0:
            most = max(most, resident() - before)
    return seen, seen / (time.perf_counter() - start), most


async def main(events):
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder) / "data") as dsn:
        async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
            async with store.bind.begin() as connection:
                await connection.run_sync(upgrade_database)
            await store.append(SHORT, [EventEnvelope(SHORT, "Grown", {"n": n}) for n in range(10)])
            await fill(store, events)
            async for _event in store.stream(SHORT):
                pass  # the first reading loads what every later one shares
            seen, rate, memory = await stream_memory(store)
            short, long = await append_times(store)
    print(f"stream() over {seen:,} events: {rate:,.0f} per second, {memory:.1f} MB at most above the start")
    print(f"one append to {events:,} events: {long / short:.2f} times one to 10 ({long * 1e3:.2f} ms)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    asyncio.run(main(parser.parse_args().events))
