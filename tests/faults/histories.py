"""Races whose histories are judged: appends of every kind, reads, transactions, lost answers, the feed.

    python -m tests.faults.histories --seconds 600 --seed 1

What each client does comes from the seed; how they interleave does not. Some steps are gated: a
transaction is held until others really wait for it, or until a reader of the feed has passed it by.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store import (
    STREAM_EXISTS,
    EventStoreConfig,
    PostgresEventStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.operations import BY_COPY
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import new_events
from tests.postgres.racing import Interrupted
from tests.postgres.wire import running_proxy

from .history import Client, History, Reader
from .linearizability import check
from .servers import own_server

WRITERS = 6
TRIES = 20
"""Races until a planted bug must have been found; nearly always it is the first."""
STEPS = 12
FEW_STEPS = 5
STREAMS = "abcde"
BLOCKED = """SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'"""


class Stores:
    """What the clients of a race work with: stores of one database, on connections of their own."""

    def __init__(self, plain, others, lossy=None, proxy=None):
        self.plain, self.lossy, self.proxy = plain, lossy, proxy
        self.all = [plain, *others]


@asynccontextmanager
async def all_stores(dsn):
    """Every kind of store: alone, coalescing as it comes and always, blocking, on another driver, lossy."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k1s0-")))
        proxy = stack.enter_context(running_proxy(dsn, folder))
        engine = create_async_engine(dsn.replace("postgresql://", "postgresql+psycopg://"), pool_size=20)
        stack.push_async_callback(engine.dispose)
        config = EventStoreConfig(dsn=dsn, pool_size=20)
        stores = [
            PostgresEventStore(config),
            PostgresEventStore(config, coalesce=True),
            always_together(PostgresEventStore(config, coalesce=True)),
            PostgresEventStore(config, bind=engine),
            ThreadedEventStore(SyncPostgresEventStore(config)),
            PostgresEventStore(EventStoreConfig(dsn=proxy.dsn)),
        ]
        for store in stores:
            await stack.enter_async_context(store)
        yield Stores(stores[0], stores[1:-1], stores[-1], proxy)


@asynccontextmanager
async def mutated_stores(dsn, statements):
    """Stores with other statements: one sends each append alone, one all of them in batches."""
    config = EventStoreConfig(dsn=dsn, pool_size=20)
    async with (
        PostgresEventStore(config) as alone,
        always_together(PostgresEventStore(config, coalesce=True)) as together,
    ):
        alone._sql = together._sql = statements(alone._sql)
        yield Stores(alone, [together])


def always_together(store):
    """The store as it is while an append is under way alone: each call goes into a batch."""
    store._coalescer._first = object()
    return store


class GatedReader(Reader):
    """A reader with something else happening between its look at the server and the page that follows."""

    def __init__(self, history, store, *place):
        reading = PostgresEventStore(store.config, bind=store.bind)
        reading._sql = store._sql
        reading._runner = self._runner = Interrupted(reading._runner, reading._sql.feed_now)
        super().__init__(history, reading, *place)
        self.turn = asyncio.Lock()

    async def read_interrupted(self, call):
        self._runner.call = call
        await self.read()


class Race:
    """Streams of its own, some writers, two readers that keep following, and one that is gated."""

    def __init__(self, stores, seed, reader=Reader, steps=STEPS):
        self.stores, self.seed, self.reader, self.steps = stores, seed, reader, steps
        self.history = History()
        self.streams = [StreamId(f"race {seed}", name) for name in STREAMS]
        self.clients = [Client(self.history, store) for store in stores.all]
        self.losing = asyncio.Lock()

    async def run(self):
        """The whole history."""
        plain = self.stores.plain
        cursor = await plain.latest_cursor()
        readers = [self.reader(self.history, plain, f"by {limit}", limit, cursor) for limit in (3, 100)]
        self.gated = GatedReader(self.history, plain, "gated", 2, cursor)
        following = [asyncio.create_task(_follow(reader)) for reader in readers]
        try:
            await asyncio.gather(*(Writer(self, number).run() for number in range(WRITERS)))
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        for reader in (*readers, self.gated):
            # A page that was under way was thrown away with its cursor: it comes again.
            await reader.read()
        for stream_id in self.streams:
            await Client(self.history, plain).load(stream_id)
        return self.history

    async def blocked(self):
        """How many statements wait for locks now."""
        async with self.stores.plain.bind.connect() as connection:
            return (await connection.exec_driver_sql(BLOCKED)).scalar_one()


async def _follow(reader):
    while True:
        await reader.read()
        await asyncio.sleep(0.002)


class Writer:
    """One of those at work; each has its favourite store, and now and then another one."""

    def __init__(self, race, number):
        self.race = race
        self.chooser = random.Random(f"{race.seed}-{number}")
        self.client = race.clients[number % len(race.clients)]
        self.others = [client for client in race.clients if client is not self.client]
        self.transacting = self.client if hasattr(self.client.store, "bind") else race.clients[0]
        gated = (self.hold_up_others, self.commit_late, self.commit_between)
        self.steps = [gated[number % 3], *self.chooser.choices(self.actions(), k=race.steps - 1)]
        self.chooser.shuffle(self.steps)

    def actions(self):
        many = (self.append_any, self.append_exact, self.transact) * 3
        once = (self.append_stale, self.append_named, self.repeat, self.look, self.look, self.hold_up_others)
        large = (self.append_large,) if self.chooser.random() < 0.1 else ()
        return (*many, *once, *large, *([self.lose_answer] * 2 if self.race.stores.lossy else ()))

    async def run(self):
        for step in self.steps:
            await step()

    def draw(self, count=1):
        """Streams in one order for all, so that no two transactions wait for each other."""
        return sorted(self.chooser.sample(self.race.streams, count), key=str)

    def events(self, stream_id):
        return new_events(stream_id, self.chooser.randint(1, 3))

    async def append_any(self):
        (stream_id,) = self.draw()
        await self.client.append(stream_id, self.events(stream_id))

    async def append_exact(self):
        (stream_id,) = self.draw()
        version = await self.client.current_version(stream_id)
        await self.client.append(stream_id, self.events(stream_id), version)

    async def append_stale(self):
        """At a version that has passed already."""
        (stream_id,) = self.draw()
        version = await self.client.current_version(stream_id)
        await self.client.append(stream_id, self.events(stream_id), max(0, version - 1))

    async def append_named(self):
        (stream_id,) = self.draw()
        await self.client.append(stream_id, self.events(stream_id), self.chooser.choice((0, STREAM_EXISTS)))

    async def append_large(self):
        (stream_id,) = self.draw()
        await self.client.append(stream_id, new_events(stream_id, BY_COPY))

    async def repeat(self):
        """The same batch twice, by two clients, one after the other or at the same time."""
        (stream_id,) = self.draw()
        events = self.events(stream_id)
        again = self.chooser.choice(self.others or [self.client])
        calls = [client.append(stream_id, events) for client in (self.client, again)]
        if self.chooser.random() < 0.5:
            await asyncio.gather(*calls)
        else:
            for call in calls:
                await call

    async def look(self):
        (stream_id,) = self.draw()
        method = self.chooser.choice((Client.load, Client.load, Client.exists, Client.current_version))
        await method(self.client, stream_id)

    async def transact(self):
        async with self.transacting.transaction(commit=self.chooser.random() < 0.7) as joined:
            for stream_id in self.draw(self.chooser.randint(1, 3)):
                expected = await joined.current_version(stream_id) if self.chooser.random() < 0.5 else None
                await joined.append(stream_id, self.events(stream_id), expected)
                await asyncio.sleep(self.chooser.random() * 0.005)

    async def lose_answer(self):
        """An append, or a commit, whose answer is lost; at times it is repeated until that is settled."""
        lossy, proxy = Client(self.race.history, self.race.stores.lossy), self.race.stores.proxy
        (stream_id,) = self.draw()
        events = self.events(stream_id)
        async with self.race.losing:  # or another one's connection is lost while it is made
            if self.chooser.random() < 0.3:
                async with lossy.transaction() as joined:
                    await joined.append(stream_id, events)
                    proxy.lose_next_answer = True
            else:
                proxy.lose_next_answer = True
                await lossy.append(stream_id, events)
            proxy.lose_next_answer = False
        if self.chooser.random() < 0.7:
            await self.client.append(stream_id, events)

    async def hold_up_others(self):
        """Others want to append at the version that a transaction has appended at, and wait for it."""
        (stream_id,) = self.draw()
        waiting = []
        async with self.transacting.transaction() as holder:
            version = await holder.current_version(stream_id)
            if await holder.append(stream_id, self.events(stream_id), version) is None:
                return
            for client in (*self.others, self.client):
                waiting.append(asyncio.create_task(client.append(stream_id, self.events(stream_id), version)))
            waiting.append(asyncio.create_task(self._append_joined(stream_id, version)))
            await self._until_blocked(waiting)
        await asyncio.gather(*waiting)

    async def _append_joined(self, stream_id, version):
        async with self.race.clients[0].transaction() as joined:
            await joined.append(stream_id, self.events(stream_id), version)

    async def _until_blocked(self, waiting):
        """Each of them waits or is done; not for ever, for a coalesced append may stand behind others."""
        for _ in range(20):
            running = sum(not task.done() for task in waiting)
            if await self.race.blocked() >= running:
                return
            await asyncio.sleep(0.002)

    async def commit_late(self):
        """The feed is read while a transaction is open that has drawn lower positions, and after it."""
        async with self.race.gated.turn:
            await self._open_and_passed_by()
            await self.race.gated.read()

    async def _open_and_passed_by(self):
        held, later = self.draw(2)
        async with self.transacting.transaction() as late:
            await late.append(held, self.events(held))
            await self.client.append(later, self.events(later))
            await self.race.gated.read()

    async def commit_between(self):
        """A transaction is committed between the look of a reader at the server and its page."""
        async with self.race.gated.turn, AsyncExitStack() as stack:
            held, later = self.draw(2)
            late = await stack.enter_async_context(self.transacting.transaction())
            await late.append(held, self.events(held))
            await self.client.append(later, self.events(later))
            await self.race.gated.read_interrupted(stack.aclose)
            await self.race.gated.read()


async def race(stores, seed, *how):
    """The history of a race, and what is wrong with it."""
    history = await Race(stores, seed, *how).run()
    return history, check(history)


async def kinds_of_faults(stores, seed, wanted, reader=Reader):
    """What was found to be wrong in races, up to the one that shows the wanted kind."""
    found = set()
    for number in range(TRIES):
        _, faults = await race(stores, f"{seed}-{number}", reader, FEW_STEPS)
        found |= {fault.kind for fault in faults}
        if wanted in found:
            break
    return found


async def _run(dsn, seconds, seed):
    """Race after race; what was done in all, and the first that has faults."""
    await in_transaction(EventStoreConfig(dsn=dsn), upgrade_database)
    done, end = Counter(), time.monotonic() + seconds
    async with all_stores(dsn) as stores:
        while time.monotonic() < end:
            name = f"{seed}-{done['races']}"
            history, faults = await race(stores, name)
            done += history.summary() + Counter(races=1)
            if faults:
                return done, name, faults
    return done, None, []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with own_server(max_connections=200, fsync="off") as server:
        done, name, faults = asyncio.run(_run(server.dsn, wanted.seconds, wanted.seed))
    print(", ".join(f"{count:,} {what}" for what, count in sorted(done.items())))
    for fault in faults[:20]:
        print(f"race {name}: {fault}"[:2_000])
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
