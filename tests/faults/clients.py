"""A client under load: sixteen writers of every kind, a projection, a relay and snapshots.

Whatever happens to its connections, it goes on: an append that failed for a reason that may pass is repeated
with the same event ids until it is settled. What it tries and what it is told is in its journal.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    ConcurrencyError,
    DuplicateEventError,
    EventStoreConfig,
    EventStoreError,
    Message,
    OutcomeUnknownError,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    Publisher,
    Relay,
    SubscriptionRunner,
    SyncPostgresEventStore,
)
from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.postgres.operations import BY_COPY

from .audit import EMPTY, IN_SESSION, WRITE_STATE, fold
from .batches import Batch, Claims, Journal, stream
from .lines import Lines

WITHIN = 60
"""Seconds until what has to come at last is given up."""
SHARED = tuple(f"shared-{number}" for number in range(6))
LEASE_SECONDS = 0.5


@dataclass(frozen=True)
class Stores:
    """The stores of a client, all on one way to the server."""

    store: PostgresEventStore
    coalescing: PostgresEventStore
    blocking: SyncPostgresEventStore

    @classmethod
    @asynccontextmanager
    async def on(cls, dsn):
        config = EventStoreConfig(dsn=dsn, pool_size=20, pool_timeout=WITHIN, connect_timeout=WITHIN)
        with SyncPostgresEventStore(config) as blocking:
            async with (
                PostgresEventStore(config) as store,
                PostgresEventStore(config, bind=store.bind, coalesce=True) as coalescing,
            ):
                yield cls(store, coalescing, blocking)


# The ways to store a batch; each answers with the version of its last stream


async def alone(stores, batch):
    (name,) = batch.streams
    return await stores.store.append(stream(name), batch.events(name), batch.expected)


async def coalesced(stores, batch):
    (name,) = batch.streams
    return await stores.coalescing.append(stream(name), batch.events(name), batch.expected)


async def blocking(stores, batch):
    (name,) = batch.streams
    append = stores.blocking.append
    return await asyncio.to_thread(append, stream(name), batch.events(name), batch.expected)


async def in_session(stores, batch):
    async with AsyncSession(stores.store.bind) as session:
        bound = stores.store.within(session)
        for name in batch.streams:
            version = await bound.append(stream(name), batch.events(name))
        row = text("INSERT INTO business (batch) VALUES (:batch) ON CONFLICT DO NOTHING")
        await session.execute(row, {"batch": batch.name})
        await session.commit()
    return version


async def imported(stores, batch):
    (name,) = batch.streams
    copies = [
        EventEnvelope(stream(name), event.event_type, event.payload, event_id=event.event_id, version=version)
        for version, event in enumerate(batch.events(name), batch.expected + 1)
    ]
    await stores.store.import_batch(copies)
    return batch.expected + batch.size


@dataclass(frozen=True)
class Kind:
    """Writers of one kind: how they store, how many events for how many streams, and how long they rest."""

    store: Callable[[Stores, Batch], Awaitable[int]]
    writers: int
    sizes: tuple[int, int] = (1, 3)
    streams: int = 1
    exact: bool = False
    has_own_stream: bool = False
    rest: float = 0.02


KINDS = {
    "any version": Kind(alone, 3),
    "exact version": Kind(alone, 3, exact=True),
    "coalesced": Kind(coalesced, 3, rest=0.005),
    "coalesced exact": Kind(coalesced, 1, exact=True, rest=0.005),
    IN_SESSION: Kind(in_session, 2, streams=2),
    "blocking": Kind(blocking, 2),
    "by COPY": Kind(alone, 1, sizes=(BY_COPY, BY_COPY + 50), rest=0.5),
    "import": Kind(imported, 1, sizes=(1, 30), exact=True, has_own_stream=True, rest=0.05),
}


def may_pass(error):
    """Is it worth trying again? The errors of the store say so; those of a session come from SQLAlchemy."""
    if isinstance(error, EventStoreError):
        # Of a batch in two open transactions the second fails, and is told the first answer when repeated.
        return error.retryable or isinstance(error, DuplicateEventError)
    return isinstance(error, OSError | DBAPIError)


async def until_it_passes(call, failed=lambda error: None):
    """What `call` returns, in the end. Errors that do not pass are raised, and so is a conflict."""
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                return await call()
            except ConcurrencyError:
                raise
            except Exception as error:
                if not may_pass(error):
                    raise
                failed(error)
            await asyncio.sleep(0.01)


class Writer:
    """Stores one batch after the other; what it does is drawn from a seed."""

    def __init__(self, client, kind, name):
        self._client = client
        self._kind = kind
        self._name = name
        self._chooser = random.Random(f"{client.seed}-{name}")
        self._count = 0

    async def run(self):
        while not self._client.stopping.is_set():
            await self._client.settle(await self._draw())
            await asyncio.sleep(self._chooser.random() * 2 * self._client.pace * KINDS[self._kind].rest)

    async def _draw(self):
        kind, chooser = KINDS[self._kind], self._chooser
        # In one order, so that no two wait for each other.
        names = sorted(chooser.sample(self._client.streams, kind.streams))
        if kind.has_own_stream:
            names = [f"own-{self._name}"]
        expected = None
        if kind.exact:
            expected = await until_it_passes(
                lambda: self._client.stores.store.current_version(stream(names[0]))
            )
        self._count += 1
        return Batch(
            f"{self._name}/{self._count}", self._kind, tuple(names), chooser.randint(*kind.sizes), expected
        )


class FilePublisher(Publisher):
    """A broker that is a file."""

    def __init__(self, path):
        self._lines = Lines(path)

    async def publish(self, message):
        self._lines.write(message.key, int(message.headers["version"]), message.message_id)

    async def close(self):
        self._lines.close()


def to_message(event):
    name = event.stream_id.aggregate_id
    headers = {"version": str(event.version)}
    return Message("events", name, b"{}", headers, message_id=str(event.event_id))


class ReadModel:
    """The state of each stream, as a projection."""

    async def handle_batch(self, events, session):
        names = list({event.stream_id.aggregate_id for event in events})
        known = await session.execute(
            text("SELECT stream, events, digest FROM read_model WHERE stream = ANY(:names)"), {"names": names}
        )
        states = dict.fromkeys(names, EMPTY) | {name: tuple(state) for name, *state in known}
        for event in events:
            name = event.stream_id.aggregate_id
            states[name] = fold(states[name], event.event_id)
        rows = [{"stream": name, "events": n, "digest": digest} for name, (n, digest) in states.items()]
        await session.execute(text(WRITE_STATE), rows)


class Client:
    """All of it. `name` tells its batches and files from those of clients before and after it in `folder`."""

    def __init__(self, stores: Stores, folder: Path, name: str, seed, *, pace=1.0) -> None:
        self.stores = stores
        self.seed = seed
        self.pace = pace
        self.streams = SHARED
        self.stopping = asyncio.Event()
        self.settled = 0
        self.snapshots = PostgresSnapshotStore(bind=stores.store.bind)
        self._name = name
        self._folder = folder
        self._journal = Journal(folder / f"journal-{name}")

    async def run(self):
        """Settle what earlier clients left, write until told to stop, and let the subscriptions catch up."""
        earlier = [path for path in journals(self._folder) if path.name != f"journal-{self._name}"]
        async with FilePublisher(self._folder / f"published-{self._name}") as publisher:
            runner = self._runner(publisher)
            async with runner, asyncio.TaskGroup() as tasks:
                for batch in Claims.of(earlier).unsettled:
                    tasks.create_task(self.settle(batch))
                for writer in self._writers():
                    tasks.create_task(writer.run())
                tasks.create_task(self._keep_snapshots())
            async with asyncio.timeout(WITHIN):
                await runner.run_until_caught_up()
        self._journal.close()

    async def settle(self, batch):
        """Repeat it until it is stored or refused."""
        self._journal.tries(batch)
        try:
            version = await until_it_passes(
                lambda: KINDS[batch.kind].store(self.stores, batch), lambda error: self._note(error, batch)
            )
        except ConcurrencyError:
            self._journal.refuses(batch)
        else:
            self._journal.acknowledges(batch, version)
        self.settled += 1

    def _note(self, error, batch):
        if isinstance(error, OutcomeUnknownError):
            self._journal.knows_nothing_of(batch)

    def _writers(self):
        for kind, options in KINDS.items():
            for number in range(options.writers):
                yield Writer(self, kind, f"{self._name}-{kind.replace(' ', '-')}-{number}")

    def _runner(self, publisher):
        storage = PostgresSubscriptionStore(bind=self.stores.store.bind)
        projection = Projection("read-model", ReadModel(), partitions=2)
        relay = Relay(publisher, to_message, partitions=2, checkpoint_every=100, checkpoint_seconds=0.2)
        return SubscriptionRunner(
            self.stores.store, storage, [projection, relay], lease_seconds=LEASE_SECONDS, poll=(0.005, 0.05)
        )

    async def _keep_snapshots(self):
        chooser = random.Random(f"{self.seed}-{self._name}-snapshots")
        while not self.stopping.is_set():
            name = chooser.choice(self.streams)
            await until_it_passes(lambda name=name: self._keep_snapshot(stream(name)))
            await asyncio.sleep(0.02 * self.pace)

    async def _keep_snapshot(self, stream_id):
        replay = await self.stores.store.replay(
            stream_id, lambda state, event: fold(state, event.event_id), EMPTY, self.snapshots, restore=tuple
        )
        if replay.version:
            await self.snapshots.save(stream_id, replay.version, replay.state)


def journals(folder):
    """Those of all clients so far."""
    return sorted(folder.glob("journal-*"))


def publications(folder):
    """What all clients so far have published, in the order in which they lived."""
    return sorted(folder.glob("published-*"))
