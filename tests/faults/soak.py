"""Mixed load for half an hour: memory, connections, locks and temporary files do not grow.

    python -m tests.faults.soak --minutes 30

A client (see clients.py) works all the time, and beside it readers that stop early, appends that are
cancelled, and a reader of the feed. Every few seconds a sample is taken; growth is judged after a warm-up.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sqlalchemy import text

from k1s0_event_store import ConcurrencyError, EventStoreConfig
from k1s0_event_store.postgres.verification import PostgresVerifier

from .batches import Batch, stream
from .clients import Client, Stores, until_it_passes
from .kills import SETTINGS, prepare
from .servers import own_server

PACE = 4.0
"""So many times longer the writers rest: what is stored has to fit in memory here."""
RENEWED_EVERY = 20.0
"""Seconds until the writers turn to new streams: how long streams are is not what is measured."""
WARM_UP = 0.3
"""The part of the time that is not judged: pools fill, statements are prepared, caches grow to their size."""

SAMPLE = text("""
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend'),
       (SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid()),
       (SELECT temp_files FROM pg_stat_database WHERE datname = current_database()),
       (SELECT count(*) FROM pg_prepared_statements)
""")


@dataclass(frozen=True)
class Sample:
    """What the client and the server hold at one moment. Statements are those of the connection that asks."""

    seconds: float
    memory_mb: float
    connections_in_use: int
    files: int
    tasks: int
    backends: int
    locks: int
    temporary_files: int
    prepared_statements: int


@dataclass(frozen=True)
class Limit:
    """How much a median may rise from the first half of what is judged to the second one."""

    share: float
    more: float


LIMITS = {
    "memory_mb": Limit(0.05, 4),
    "connections_in_use": Limit(0.2, 5),
    "files": Limit(0.05, 2),
    "tasks": Limit(0.2, 6),
    "backends": Limit(0.0, 2),
    "locks": Limit(0.2, 20),
    "temporary_files": Limit(0.0, 0),
    "prepared_statements": Limit(0.05, 4),
}


@dataclass(frozen=True)
class Judged:
    """One measure: the medians of both halves, its highest value, and whether it has grown."""

    name: str
    first: float
    second: float
    highest: float
    has_grown: bool


def judge(samples):
    """What has become of each measure after the warm-up."""
    later = [sample for sample in samples if sample.seconds >= WARM_UP * samples[-1].seconds]
    half = len(later) // 2
    for name, limit in LIMITS.items():
        values = [getattr(sample, name) for sample in later]
        first, second = statistics.median(values[:half]), statistics.median(values[half:])
        has_grown = second > first * (1 + limit.share) + limit.more
        yield Judged(name, first, second, max(values), has_grown)


class Soak:
    """A client, its disturbers, and who takes samples."""

    def __init__(self, stores, folder, seed):
        self.samples: list[Sample] = []
        self.done = dict.fromkeys(("streamed", "loaded", "cancelled", "refused", "read in the feed"), 0)
        self._stores = stores
        self._client = Client(stores, folder, "soak", seed, pace=PACE)
        self._chooser = random.Random(seed)
        self._began = time.monotonic()

    async def run(self, seconds, every):
        """Work for so long."""
        stopping = self._client.stopping
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._client.run())
            for work in (self._renew, self._read_a_little, self._cancel, self._conflict, self._follow):
                tasks.create_task(self._again_and_again(work))
            while time.monotonic() - self._began < seconds:
                await asyncio.sleep(every)
                self.samples.append(await self._sample())
            stopping.set()

    async def _again_and_again(self, work):
        while not self._client.stopping.is_set():
            await work()
            await asyncio.sleep(self._chooser.random() * 0.1)

    async def _renew(self):
        era = int((time.monotonic() - self._began) / RENEWED_EVERY)
        self._client.streams = tuple(f"shared-{era}-{number}" for number in range(6))

    def _any_stream(self):
        return stream(self._chooser.choice(self._client.streams))

    async def _read_a_little(self):
        """A stream and a feed that are left early, and a load."""
        store = self._stores.store
        async for _event in store.stream(self._any_stream()):
            self.done["streamed"] += 1
            if self._chooser.random() < 0.1:
                break
        self.done["loaded"] += len(await store.load(self._any_stream(), limit=100, backwards=True))

    async def _follow(self):
        cursor = await self._stores.store.latest_cursor()
        await asyncio.sleep(0.2)
        async with aclosing(self._stores.store.read_all(cursor)) as events:
            async for event in events:
                self.done["read in the feed"] += 1
                if event.version % 50 == 0:
                    break

    async def _cancel(self):
        """Appends that are given up under way, and settled by repeating them."""
        name = f"cancelled/{self.done['cancelled']}"
        batch = Batch(
            name, self._chooser.choice(("any version", "coalesced")), (self._any_stream().aggregate_id,), 2
        )
        task = asyncio.create_task(self._client.settle(batch))
        await asyncio.sleep(self._chooser.random() * 0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await self._client.settle(batch)
        self.done["cancelled"] += 1

    async def _conflict(self):
        batch = Batch(f"late/{self.done['refused']}", "exact version", ("old",), 1, 0)
        store = self._stores.store
        with suppress(ConcurrencyError):
            await until_it_passes(lambda: store.append(stream("old"), batch.events("old"), 0))
        self.done["refused"] += 1

    async def _sample(self):
        async with self._stores.store.bind.connect() as connection:
            measured = (await connection.execute(SAMPLE)).one()
        return Sample(
            time.monotonic() - self._began,
            resident_mb(),
            self._stores.store.bind.pool.checkedout(),
            len(os.listdir("/proc/self/fd")),
            len(asyncio.all_tasks()),
            *measured,
        )


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def soak(dsn, seconds, every, seed):
    """The soak, when it is over, and what `verify` finds in the store."""
    with tempfile.TemporaryDirectory(prefix="k1s0-") as folder:
        async with Stores.on(dsn) as stores:
            work = Soak(stores, Path(folder), seed)
            await work.run(seconds, every)
        async with PostgresVerifier(EventStoreConfig(dsn=dsn)) as verifier:
            return work, [fault async for fault in verifier.faults()]


def show(samples):
    """A line for each of twenty moments."""
    names = [field.name for field in fields(Sample)]
    print("  ".join(names))
    for sample in samples[:: max(1, len(samples) // 20)]:
        print("  ".join(f"{value:>{len(name)}.0f}" for name, value in asdict(sample).items()))


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with own_server(**SETTINGS, max_wal_size="512MB") as server:
        prepare(server.dsn)
        work, faults = asyncio.run(soak(server.dsn, asked.minutes * 60, asked.every, asked.seed))
    show(work.samples)
    print(", ".join(f"{count:,} {what}" for what, count in work.done.items()))
    judged = list(judge(work.samples))
    for one in judged:
        verdict = "HAS GROWN" if one.has_grown else "no growth"
        print(f"{one.name}: {one.first:.0f}, later {one.second:.0f}, at most {one.highest:.0f}: {verdict}")
    if faults or any(one.has_grown for one in judged):
        sys.exit(f"seed {asked.seed}: {faults or 'something has grown'}")


if __name__ == "__main__":
    main()
