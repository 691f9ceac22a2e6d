"""The server's limits: no connection left, statements and locks that take too long, deadlocks."""

import asyncio
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from k1s0_event_store import (
    DatabaseError,
    DeadlockError,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    StoreUnavailableError,
    StreamId,
    SubscriptionRunner,
    SyncPostgresEventStore,
)
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import new_events, outcomes

from .interruption import SECONDS, until
from .servers import migrate, own_server

ORDER = StreamId("order", "o-1")
CONNECTIONS = 12


@asynccontextmanager
async def async_store(config):
    async with PostgresEventStore(config) as store:
        yield store


@asynccontextmanager
async def coalescing_store(config):
    async with PostgresEventStore(config, coalesce=True) as store:
        yield store


@asynccontextmanager
async def blocking_store(config):
    with SyncPostgresEventStore(config) as store:
        yield ThreadedEventStore(store)


STORES = pytest.mark.parametrize("open_store", [async_store, coalescing_store, blocking_store])


@pytest.fixture(scope="module")
def small_server():
    with own_server(max_connections=CONNECTIONS, fsync="off") as server:
        migrate(server.dsn)
        yield server


@contextmanager
def all_connections_taken(dsn):
    taken = []
    try:
        while True:
            try:
                taken.append(psycopg.connect(dsn))
            except psycopg.OperationalError:
                break
            assert len(taken) <= CONNECTIONS
        yield
    finally:
        for connection in taken:
            connection.close()


async def eventually_appends(store, stream_id, batch):
    """The places of connections that were closed are free a moment later."""

    async def appended():
        try:
            await store.append(stream_id, batch, 0)
        except StoreUnavailableError:
            return False
        return True

    await until(appended, "there is no room")


@STORES
async def test_a_server_without_room_for_a_connection_is_unavailable_until_there_is_room(
    small_server, open_store
):
    stream_id = StreamId("order", open_store.__name__)
    batch = new_events(stream_id, 2)
    async with open_store(EventStoreConfig(dsn=small_server.dsn)) as store:
        with all_connections_taken(small_server.dsn):
            for call in (store.append(stream_id, batch, 0), store.load(stream_id), store.latest_cursor()):
                with pytest.raises(StoreUnavailableError, match=r"too many|remaining connection") as refused:
                    await call
                assert refused.value.retryable
        await eventually_appends(store, stream_id, batch)
        assert await store.current_version(stream_id) == 2


async def test_a_projection_waits_for_room_and_goes_on(small_server):
    handled = []

    async def handle(event, _session):
        handled.append(event.version)

    stream_id = StreamId("order", "projected")
    config = EventStoreConfig(dsn=small_server.dsn)
    projection = Projection("orders", handle, aggregate_types=["order"], version=1)
    async with PostgresEventStore(config) as store, PostgresSubscriptionStore(config) as storage:
        runner = SubscriptionRunner(store, storage, [projection], lease_seconds=0.3, poll=(0.001, 0.02))
        failed = []
        runner._observe = lambda notice: failed.append(notice) if notice.error else None
        with all_connections_taken(small_server.dsn):
            task = asyncio.create_task(runner.run())
            await until(lambda: failed, "it did not meet the limit")
        await eventually_appends(store, stream_id, new_events(stream_id, 3))
        await until(lambda: handled[-3:] == [1, 2, 3], "it does not go on")
        runner.stop()
        await asyncio.wait_for(task, SECONDS)


@contextmanager
def held(dsn):
    """Somebody holds the heads of all streams."""
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
        yield
        holder.rollback()


def limited(dsn, setting):
    """As the user's own connections would be, with `options` in the DSN."""
    return EventStoreConfig(dsn=f"{dsn}{'&' if '?' in dsn else '?'}options=-c%20{setting}%3D200ms")


LIMITS = pytest.mark.parametrize(
    ("setting", "state", "retryable"),
    [("statement_timeout", "57014", False), ("lock_timeout", "55P03", True)],
)


@STORES
@LIMITS
async def test_an_append_that_waits_too_long_ends_in_a_typed_error_and_stores_nothing(
    event_store, event_store_dsn, open_store, setting, state, retryable
):
    await event_store.append(ORDER, new_events(ORDER, 1))
    (first,) = await event_store.load(ORDER)
    async with open_store(limited(event_store_dsn, setting)) as store:
        for batch in (new_events(ORDER, 2), new_events(ORDER, 500)):
            with held(event_store_dsn), pytest.raises(DatabaseError) as refused:
                await store.append(ORDER, batch)
            assert (refused.value.sqlstate, refused.value.retryable) == (state, retryable)
            version = await event_store.current_version(ORDER)
            assert await event_store.append(ORDER, batch) == version + len(batch)
        assert await store.load(ORDER, limit=1) == [first]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@LIMITS
async def test_a_callers_transaction_that_met_a_limit_says_so_until_it_is_rolled_back(
    event_store, event_store_dsn, driver, setting, state, retryable
):
    await event_store.append(ORDER, new_events(ORDER, 1))
    engine = create_async_engine(event_store_dsn.replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        bound = PostgresEventStore(bind=engine).within(session)
        other = StreamId("order", "other")
        await bound.append(other, new_events(other, 1))
        await session.execute(text(f"SET LOCAL {setting} = '200ms'"))
        with held(event_store_dsn), pytest.raises(DatabaseError) as refused:
            await bound.append(ORDER, new_events(ORDER, 1))
        assert (refused.value.sqlstate, refused.value.retryable) == (state, retryable)
        with pytest.raises(DatabaseError) as over:
            await bound.load(ORDER)
        assert over.value.sqlstate == "25P02"
        with pytest.raises(SQLAlchemyError):
            await session.execute(text("SELECT 1"))
        await session.rollback()
        assert await bound.append(ORDER, new_events(ORDER, 1)) == 2
        await session.commit()
    assert not await event_store.exists(other)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_transaction_that_was_idle_too_long_is_over(event_store, event_store_dsn, driver, sql):
    engine = create_async_engine(event_store_dsn.replace("postgresql://", f"postgresql+{driver}://"))
    async with AsyncSession(engine) as session:
        bound = PostgresEventStore(bind=engine).within(session)
        await bound.append(ORDER, new_events(ORDER, 1))
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
        left = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        await until(lambda: not sql(left), "the server does not end it")
        with pytest.raises(StoreUnavailableError, match="broke") as refused:
            await bound.append(ORDER, new_events(ORDER, 1))
        assert refused.value.retryable
    assert not await event_store.exists(ORDER)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_of_two_transactions_in_a_deadlock_one_ends_with_nothing_done_and_can_be_run_again(
    event_store, event_store_dsn, driver
):
    engine = create_async_engine(event_store_dsn.replace("postgresql://", f"postgresql+{driver}://"))
    store = PostgresEventStore(bind=engine)
    streams = StreamId("order", "a"), StreamId("order", "b")
    barrier = asyncio.Barrier(2)

    async def work(first, second, meets=True):
        async with AsyncSession(engine) as session:
            bound = store.within(session)
            await bound.append(first, new_events(first, 1))
            if meets:
                await barrier.wait()
            await bound.append(second, new_events(second, 1))
            await session.commit()

    _, (lost,) = await outcomes([work(*streams), work(*streams[::-1])])
    assert isinstance(lost, DeadlockError)
    assert lost.retryable
    assert [await store.current_version(stream_id) for stream_id in streams] == [1, 1]
    await work(*streams, meets=False)
    assert [await store.current_version(stream_id) for stream_id in streams] == [2, 2]
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@STORES
async def test_a_store_whose_appends_met_a_limit_has_its_whole_pool(event_store, event_store_dsn, open_store):
    await event_store.append(ORDER, new_events(ORDER, 1))
    async with open_store(limited(event_store_dsn, "lock_timeout")) as store:
        with held(event_store_dsn):
            stored, refused = await outcomes(store.append(ORDER, new_events(ORDER, 1)) for _ in range(8))
        assert {error.sqlstate for error in refused} == {"55P03"}
        assert getattr(store, "_store", store).bind.pool.checkedout() == 0
        assert stored == []
        assert await store.append(ORDER, new_events(ORDER, 1)) == 2


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError("no space left on device"),
        psycopg.errors.DiskFull("no space left on device"),
        asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction"),
        asyncpg.OutOfMemoryError("out of memory"),
    ],
)
async def test_what_somebody_has_to_make_room_for_parks_no_event(event_store_config, error):
    async with PostgresSubscriptionStore(event_store_config) as storage:
        assert storage.is_transient(error)
