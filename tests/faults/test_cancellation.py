"""Calls that are cancelled at each of their awaits: the pool stays whole, nothing is half done."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import (
    DeciderRepository,
    EventStoreConfig,
    InMemoryEventStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    Repository,
    StreamId,
    SubscriptionRunner,
    TypedEventStore,
    every,
)
from k1s0_event_store.keys import WrappingKeys
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.testing.contract import events_of, new_events, read_pages, versions

from ..long_form import is_long, one_in
from .cancelled_calls import (
    AGGREGATES,
    COUNTING,
    DECIDERS,
    EVENTS,
    INBOX,
    KEYS,
    LENGTH,
    LONG,
    REGISTRY,
    SNAPSHOTS,
    SUBSCRIPTIONS,
    TYPED,
    Counter,
)
from .interruption import SECONDS, interruptions, nothing_left_behind, until

SECRETS = {"2025": b"v" * 32, "2026": b"w" * 32}
WRAPPING = WrappingKeys(SECRETS, current="2026")


class World:
    """What cases prepare with; its stores are never cancelled."""

    def __init__(self, config):
        self.config = config
        self.store = PostgresEventStore(config)
        bind = self.store.bind
        self.snapshots = PostgresSnapshotStore(config, bind=bind)
        self.subscriptions = PostgresSubscriptionStore(config, bind=bind)
        self.keys = PostgresKeyStore(config, bind=bind, wrapping=WRAPPING)
        self.old_keys = PostgresKeyStore(config, bind=bind, wrapping=WrappingKeys(SECRETS, current="2025"))
        options = {"snapshots": self.snapshots, "snapshot": every(2)}
        self.typed = TypedEventStore(self.store, REGISTRY)
        self.aggregates = Repository(self.store, REGISTRY, Counter, **options)
        self.deciders = DeciderRepository(self.store, REGISTRY, COUNTING, **options)
        self.session = None
        self._number = 0

    def begin_anew(self):
        self._number += 1

    @property
    def stream(self):
        """A stream of this one run of a case."""
        return StreamId("order", f"o-{self._number}")

    async def copies(self, count):
        """Two events of so many streams, as another store gives them."""
        source = InMemoryEventStore()
        for number in range(count):
            stream_id = StreamId("order", f"o-{self._number}-{number}")
            await source.append(stream_id, new_events(stream_id, 2))
        return events_of(await read_pages(source))

    async def finish(self, store, batch):
        """Import again what was interrupted: whole streams are there, or none of what was missing."""
        streams = {event.stream_id for event in batch}
        before = [len(await store.load(stream_id)) for stream_id in streams]
        assert len(set(before)) == 1 or sorted(before) == [1, 2]
        await store.import_batch(batch)
        assert [versions(await store.load(stream_id)) for stream_id in streams] == [[1, 2]] * len(streams)

    async def lease(self):
        name = self.stream.aggregate_id
        await self.subscriptions.register(name, 1, 1)
        (lease,) = await self.subscriptions.beat(name, 1, "w", 60)
        return lease

    async def park(self, lease):
        await self.subscriptions.park(lease, await self.store.load(LONG, limit=1), "no", 1)

    def another(self, store):
        options = {"wrapping": WRAPPING} if isinstance(store, PostgresKeyStore) else {}
        return type(store)(self.config, **options)


@pytest.fixture
async def world(event_store_config):
    async for world in world_of(event_store_config):
        yield world


@pytest.fixture
async def world_of_a_tenant(acme):
    async for world in world_of(acme):
        yield world


async def world_of(config):
    world = World(config)
    await world.store.append(LONG, new_events(LONG, LENGTH))
    await world.snapshots.save(LONG, LENGTH - 1, {"n": 1})
    async with world.store:
        yield world


@asynccontextmanager
async def app_engine(config, driver):
    engine = create_async_engine(config.dsn.replace("postgresql://", f"postgresql+{driver}://"))
    yield engine
    await engine.dispose()


@asynccontextmanager
async def alone(config):
    async with PostgresEventStore(config) as store:
        yield store, store.bind


@asynccontextmanager
async def coalescing(config):
    """As if another append were under way: each goes by the statement for many."""
    async with PostgresEventStore(config, coalesce=True) as store:
        store._coalescer._first = object()
        yield store, store.bind


@asynccontextmanager
async def behind_a_pooler(config):
    config = EventStoreConfig(dsn=config.dsn, transaction_pooler=True)
    async with PostgresEventStore(config) as store:
        yield store, store.bind


@asynccontextmanager
async def on_psycopg(config):
    async with app_engine(config, "psycopg") as engine:
        yield PostgresEventStore(bind=engine), engine


@asynccontextmanager
async def on_a_sessionmaker(config, driver="asyncpg"):
    async with app_engine(config, driver) as engine:
        yield PostgresEventStore(bind=async_sessionmaker(engine)), engine


def on_a_sessionmaker_of_psycopg(config):
    return on_a_sessionmaker(config, "psycopg")


STAND_ALONE = [alone, coalescing, on_psycopg]
if is_long():
    STAND_ALONE += [behind_a_pooler, on_a_sessionmaker, on_a_sessionmaker_of_psycopg]
STRIDE = 1 if is_long() else 7
"""Of the awaits of a runner and its tasks every so many are taken."""
ONCE_OR_TWICE = pytest.mark.parametrize("twice", [False, True] if is_long() else [False])


OTHERS = {
    "snapshots": SNAPSHOTS,
    "keys": KEYS,
    "subscriptions": SUBSCRIPTIONS,
    "typed": TYPED,
    "aggregates": AGGREGATES,
    "deciders": DECIDERS,
}


@pytest.mark.parametrize("calls", [EVENTS, INBOX, *OTHERS.values()])
def test_every_public_method_has_a_case(calls):
    assert calls.differences() == set()


async def cancel_everywhere(case, world, called, pool, **options):
    """Run a case once for each of its suspensions and moments."""
    for interruption in interruptions(**options):
        world.begin_anew()
        steps = case(world, called)
        call = await anext(steps)
        async with nothing_left_behind():
            await interruption.run(call)
            await until(lambda: pool.checkedout() == 0, f"a connection is not given back {interruption}")
        with suppress(StopAsyncIteration):
            await anext(steps)
        assert pool.checkedout() == 0, f"afterwards a connection is not given back {interruption}"


async def nothing_is_open(sql):
    """No connection to the test's database waits inside a transaction."""
    await until(
        lambda: sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND state LIKE 'idle in transaction%%'") == [(0,)],
        "a transaction is left open",
    )  # fmt: skip


ALONE = EVENTS.named("lock")


@one_in(2)
@pytest.mark.parametrize("kind", STAND_ALONE)
@pytest.mark.parametrize("name", ALONE)
async def test_a_call_that_is_cancelled_anywhere_does_all_or_nothing(world, sql, kind, name):
    async with kind(world.config) as (called, bind):
        await cancel_everywhere(ALONE[name], world, called, bind.pool)
    await nothing_is_open(sql)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", ALONE if is_long() else ["append-2", "load-1", "import_batch-1"])
async def test_one_of_a_tenant_leaves_no_transaction_on_a_connection(
    world_of_a_tenant, tenants_owner_dsn, name, twice
):
    world = world_of_a_tenant
    async with alone(world.config) as (called, bind):
        await cancel_everywhere(ALONE[name], world, called, bind.pool, twice=twice)
    with psycopg.connect(tenants_owner_dsn, autocommit=True) as connection:
        await nothing_is_open(lambda statement: connection.execute(statement.replace("%%", "%")).fetchall())


@pytest.mark.parametrize("kind", STAND_ALONE if is_long() else [alone, on_psycopg])
@pytest.mark.parametrize("name", ALONE if is_long() else ["append-2", "import_batch-1", "read_all-1"])
async def test_a_second_cancellation_while_it_cleans_up_changes_nothing_of_that(world, sql, kind, name):
    async with kind(world.config) as (called, bind):
        await cancel_everywhere(ALONE[name], world, called, bind.pool, twice=True)
    await nothing_is_open(sql)


@one_in(2)
@pytest.mark.parametrize(
    ("attribute", "name"),
    [(attribute, name) for attribute, calls in OTHERS.items() for name in calls.named()],
)
async def test_so_does_one_of_what_works_with_the_store(world, sql, attribute, name):
    case = OTHERS[attribute].named()[name]
    await cancel_everywhere(case, world, getattr(world, attribute), world.store.bind.pool)
    await nothing_is_open(sql)


async def project(event, session):
    await session.execute(text("INSERT INTO ledger VALUES (:n)"), {"n": event.version})


@ONCE_OR_TWICE
async def test_a_runner_that_is_cancelled_anywhere_leaves_nothing_and_has_every_effect_once(
    world, sql, twice
):
    sql("CREATE TABLE ledger (number integer)")
    await world.store.append(StreamId("seen", "1"), new_events(StreamId("seen", "1"), 5))
    for interruption in interruptions(STRIDE, in_all=True, twice=twice):
        world.begin_anew()
        sql("TRUNCATE ledger")
        projection = Projection(world.stream.aggregate_id, project, aggregate_types=["seen"])
        runner = SubscriptionRunner(world.store, world.subscriptions, [projection], poll=(0.001, 0.02))
        async with nothing_left_behind():
            await interruption.run(runner.run_until_caught_up())
        assert world.store.bind.pool.checkedout() == 0
        await asyncio.wait_for(runner.run_until_caught_up(), SECONDS)
        assert sorted(sql("SELECT number FROM ledger")) == [(n,) for n in range(1, 6)]
    await nothing_is_open(sql)


async def end(session, number):
    """Commit where the transaction says that it is usable; it then has all that was done in it before."""
    try:
        await session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        await session.rollback()
        expected = 0
    else:
        await session.commit()
        expected = 1
    rows = await session.execute(text("SELECT count(*) FROM ledger WHERE number = :n"), {"n": number})
    assert rows.scalar() == expected
    await session.rollback()


WITHIN = {
    **{f"events-{name}": (PostgresEventStore, case) for name, case in EVENTS.named("close").items()},
    **{f"snapshots-{name}": (PostgresSnapshotStore, case) for name, case in SNAPSHOTS.named("close").items()},
    **{f"keys-{name}": (PostgresKeyStore, case) for name, case in KEYS.named("close").items()},
    **{f"inbox-{name}": (None, case) for name, case in INBOX.named().items()},
}


@one_in(2)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("name", WITHIN)
@ONCE_OR_TWICE
async def test_a_callers_transaction_is_whole_or_says_that_it_is_not(world, sql, driver, name, twice):
    kind, case = WITHIN[name]
    sql("CREATE TABLE ledger (number integer)")
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(app_engine(world.config, driver))
        options = {"wrapping": WRAPPING} if kind is PostgresKeyStore else {}
        for number, interruption in enumerate(interruptions(twice=twice)):
            world.begin_anew()
            async with AsyncSession(engine) as session:
                world.session = session
                called = (
                    PostgresInbox("billing") if kind is None else kind(bind=engine, **options).within(session)
                )
                steps = case(world, called)
                call = await anext(steps)
                await session.execute(text("INSERT INTO ledger VALUES (:n)"), {"n": number})
                async with nothing_left_behind():
                    await interruption.run(call)
                await end(session, number)
                with suppress(StopAsyncIteration):
                    await anext(steps)
                await session.commit()
            assert engine.pool.checkedout() == 0, f"a connection is not given back {interruption}"
    await nothing_is_open(sql)
