"""The airports as a read model: a table that a projection keeps up to date while events come in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from time import perf_counter
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store.delivery import Notice
from k1s0_event_store.demo.airports import Airport, Airports, Reading, count, read_airports
from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.exceptions import CorruptDataError, SubscriptionError
from k1s0_event_store.postgres.schema import take_lock
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.postgres.subscription import PostgresSubscriptionStore
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.subscription import PartitionState, PartitionStatus, Projection

NAME: Final = "airport-delays"
VERSION: Final = 1

_TABLE: Final = "demo_airports"
_COUNTS: Final = tuple(field.name for field in fields(Airport))
_RESTING: Final = {PartitionState.PAUSED, PartitionState.STOPPED}
_PATIENCE: Final = 30.0
_BATCH: Final = 2000
_LEASE_SECONDS: Final = 3.0
"""Short, so that the next run need not wait for one that was killed."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How many events the projection was behind when it was asked, and how long it took to have them."""

    behind: int
    seconds: float


class AirportTable:
    """The read model: one row for each airport, in the schema of the events."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        columns = [sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS]
        code = sa.Column("code", sa.Text, primary_key=True)
        self.table = sa.Table(_TABLE, sa.MetaData(), code, *columns, schema=schema)
        added = insert(self.table)
        sums = {name: self.table.c[name] + added.excluded[name] for name in _COUNTS}
        self._add = added.on_conflict_do_update(index_elements=["code"], set_=sums)

    async def handle_batch(self, events: Sequence[EventEnvelope], session: AsyncSession) -> None:
        """Add what many events say, in one statement."""
        airports = sorted(count({}, events).items())
        if airports:
            rows = [{"code": code, **asdict(airport)} for code, airport in airports]
            await session.execute(self._add, rows)

    async def clear(self, session: AsyncSession) -> None:
        """Forget everything."""
        await session.execute(sa.delete(self.table))

    async def load(self, session: AsyncSession) -> Airports:
        """What the table says now."""
        rows = (await session.execute(sa.select(self.table))).mappings()
        return {row["code"]: Airport(**{name: row[name] for name in _COUNTS}) for row in rows}

    def make(self, connection: sa.Connection) -> bool:
        """Make the table where it is missing; returns True if it was."""
        take_lock(connection, self._schema)
        is_missing = not sa.inspect(connection).has_table(_TABLE, schema=self._schema)
        if is_missing:
            self.table.create(connection)
        return is_missing


class AirportDelays:
    """The projection with its table, and its place in the feed.

    It is given the whole feed, as the reading is that it is compared with.
    """

    def __init__(self, store: PostgresEventStore) -> None:
        self._store = store
        self._table = AirportTable(store.config.schema)
        self._subscriptions = PostgresSubscriptionStore(store.config, bind=store.bind)

    async def prepare(self) -> int:
        """Make the read model; returns how many events are in it.

        One that does not go with the checkpoint is emptied, and built from the first event on.
        """
        async with self._subscriptions.transaction() as transaction:
            session = transaction.session
            is_new = await (await session.connection()).run_sync(self._table.make)
            subscriptions = self._subscriptions.within(session)
            await subscriptions.register(NAME, VERSION, 1)
            if is_new or (await _partition(subscriptions)).cursor is None:
                await subscriptions.reset(NAME, VERSION)
                await self._table.clear(session)
            return sum(airport.events for airport in (await self._table.load(session)).values())

    def runner(self, observe: Callable[[Notice], object]) -> SubscriptionRunner:
        """What runs the projection; `observe` is told how it goes."""
        return SubscriptionRunner(
            self._store,
            self._subscriptions,
            [Projection(NAME, self._table, version=VERSION, batch_size=_BATCH)],
            lease_seconds=_LEASE_SECONDS,
            poll=(0.02, 0.1),
            observe=observe,
        )

    async def catch_up(self) -> CatchUp:
        """Wait until the projection has handled everything; raises SubscriptionError if it does not move."""
        started = moved = perf_counter()
        first = last = await _partition(self._subscriptions)
        while not last.caught_up:
            await asyncio.sleep(0.01)
            now = await _partition(self._subscriptions)
            if now.cursor != last.cursor:
                moved = perf_counter()
            elif perf_counter() - moved > _PATIENCE or now.state in _RESTING:
                raise SubscriptionError(_standstill(now))
            last = now
        return CatchUp(first.behind, perf_counter() - started)

    async def behind(self) -> int:
        """How many events the projection has not looked at yet."""
        return (await _partition(self._subscriptions)).behind

    async def load(self) -> Airports:
        """What the read model says now."""
        async with self._subscriptions.transaction() as transaction:
            return await self._table.load(transaction.session)

    async def check(self) -> Reading:
        """Read all events and compare; raises CorruptDataError if the read model says something else.

        Reads again where events came in meanwhile, such as from the same demo in a second window.
        """
        before, reading = None, Reading()
        while True:
            await self.catch_up()
            airports = await self.load()
            if before is not None and airports == reading.airports:
                return reading
            if airports == before:
                raise CorruptDataError(
                    f"the read model of {NAME} does not agree with the events; run "
                    f"`k1s0-event-store subscriptions remove {NAME} {VERSION}`, and the demo builds it anew"
                )
            before, reading = airports, await read_airports(self._store)


async def _partition(subscriptions: PostgresSubscriptionStore) -> PartitionStatus:
    statuses = await subscriptions.statuses(NAME)
    (status,) = (status for status in statuses if status.version == VERSION)
    return status.partitions[0]


def _standstill(status: PartitionStatus) -> str:
    reason = "" if status.error is None else f": {status.error}"
    return (
        f"{NAME} is {status.behind:,} events behind and does not move ({status.state}){reason}; "
        f"`k1s0-event-store subscriptions resume {NAME}` lets it go on"
    )
