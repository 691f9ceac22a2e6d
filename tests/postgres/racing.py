"""Writers that race, readers of the feed, and what a reader can have done wrong."""

import asyncio
import copy
import random
from contextlib import suppress
from dataclasses import fields, replace

from sqlalchemy import text

from k1s0_event_store import ConcurrencyError, Cursor, EventEnvelope, PostgresEventStore, StreamId
from k1s0_event_store.postgres.statements import Appends
from k1s0_event_store.testing.contract import new_events

SEED = 2026
WRITERS = 16
STEPS = 30


def stream(name):
    return StreamId("order", name)


def ids(sql):
    """The ids of all committed events."""
    return {row[0] for row in sql("SELECT event_id FROM eventstore.events")}


def faults(committed, read):
    """What is wrong with `read`, the feed of these committed events."""
    found, known, versions = set(), set(), {}
    for event in read:
        if event.event_id in known:
            found.add("twice")
        if event.version != versions.get(event.stream_id, 0) + 1:
            found.add("out of order")
        if not known.issuperset(map(str, event.metadata.get("seen", ()))):
            found.add("before its cause")
        versions[event.stream_id] = event.version
        known |= {event.event_id, str(event.event_id)}
    given = {event.event_id for event in read}
    found |= {"lost"} if committed - given else set()
    return found | ({"not committed"} if given - committed else set())


class Reader:
    """Follows the feed from the beginning. At times it goes on from text, with a store that is new."""

    def __init__(self, store, limit):
        self.store, self.limit = store, limit
        self.cursor = None
        self.events: list[EventEnvelope] = []
        self.pages = 0

    async def read(self):
        """Read what there is."""
        more = True
        while more:
            page = await self.store.read_page(self.cursor, self.limit)
            assert len(page.events) <= self.limit
            self.events += page.events
            self.cursor, more = page.cursor, page.more
            self.pages += 1
            if self.pages % 3 == 0:
                self._begin_anew()

    def _begin_anew(self):
        self.cursor = Cursor(str(self.cursor))
        new = PostgresEventStore(self.store.config, bind=self.store.bind)
        new._sql, new._runner = self.store._sql, self.store._runner
        self.store = new


async def follow(reader, is_done):
    while not is_done():
        await reader.read()
        await asyncio.sleep(0.002)


class Transaction:
    """A transaction on a connection of its own."""

    def __init__(self, store, connection):
        self.connection = connection
        self.store = store.within(connection)

    async def draw_id(self):
        await self.connection.execute(text("SELECT pg_current_xact_id()"))

    async def append(self, name, count=1, **metadata):
        return await self.store.append(stream(name), new_events(stream(name), count, metadata=metadata))

    async def undo(self, name):
        """Append in a savepoint and take it back."""
        savepoint = await self.connection.begin_nested()
        await self.append(name)
        await savepoint.rollback()

    async def commit(self):
        await self.connection.commit()
        await self.connection.close()

    async def rollback(self):
        await self.connection.rollback()
        await self.connection.close()


class Writer:
    """One of many at work on a few shared streams; what it does is drawn from a seed."""

    def __init__(self, store, number):
        self.store = store
        self.chooser = random.Random(f"{SEED}-{number}")

    async def run(self, steps=STEPS):
        for _ in range(steps):
            action = self.chooser.choice(
                (self.append_any, self.append_exact, self.append_effect, self.work, self.work, self.give_up)
            )
            await action()

    def draw(self, count=1):
        # In one order, so that no two writers wait for each other.
        return sorted(self.chooser.sample("abcdef", count))

    async def pause(self, longest):
        await asyncio.sleep(self.chooser.random() * longest)

    async def append_any(self):
        (name,) = self.draw()
        await self.store.append(stream(name), new_events(stream(name), self.chooser.randint(1, 3)))

    async def append_exact(self):
        (name,) = self.draw()
        version = await self.store.current_version(stream(name))
        with suppress(ConcurrencyError):
            await self.store.append(stream(name), new_events(stream(name), 2), expected_version=version)

    async def append_effect(self):
        """An event that names those it was written after."""
        *causes, name = self.chooser.sample("abcdef", 3)
        async with self.store.bind.connect() as connection:
            transaction = Transaction(self.store, connection)
            if self.chooser.random() < 0.5:
                await transaction.draw_id()
            seen = []
            for cause in causes:
                seen += await transaction.store.load(stream(cause), backwards=True, limit=1)
            await self.pause(0.01)
            await transaction.append(name, seen=[event.event_id for event in seen])
            await transaction.commit()

    async def work(self):
        """A transaction with its id early or not, over several streams, with parts taken back."""
        async with self.store.bind.connect() as connection:
            transaction = Transaction(self.store, connection)
            if self.chooser.random() < 0.3:
                await transaction.draw_id()
            await self.pause(0.05)
            for name in self.draw(self.chooser.randint(1, 3)):
                if self.chooser.random() < 0.3:
                    await transaction.undo(name)
                await transaction.append(name, self.chooser.choice((1, 2, 20)))
            await self.pause(0.01)
            await transaction.commit()

    async def give_up(self):
        async with self.store.bind.connect() as connection:
            transaction = Transaction(self.store, connection)
            for name in self.draw(2):
                await transaction.append(name)
            await transaction.rollback()


class Interrupted:
    """A runner with something else happening after one statement."""

    def __init__(self, runner, statement):
        self._runner, self._statement = runner, statement
        self.call = None

    async def fetch(self, query):
        rows = await self._runner.fetch(query)
        if query.statement is self._statement and self.call is not None:
            call, self.call = self.call, None
            await call()
        return rows


def mutated(statements, names, old, new):
    """A copy of `statements` with `old` replaced in some of them; of appends wherever it stands."""
    changed = copy.copy(statements)
    new = new.replace("{events}", '"eventstore".events').replace("{streams}", '"eventstore".streams')
    for name in names:
        before = getattr(statements, name)
        after = _mutated(before, old, new)
        assert after != _mutated(before, "", "")
        setattr(changed, name, after)
    return changed


def _mutated(statement, old, new):
    if isinstance(statement, Appends):
        kinds = {field.name: _mutated(getattr(statement, field.name), old, new) for field in fields(Appends)}
        return Appends(**kinds)
    # As it is written, without the schema that every function has been given.
    return replace(statement, dollar=statement.dollar.replace("pg_catalog.", "").replace(old, new))
