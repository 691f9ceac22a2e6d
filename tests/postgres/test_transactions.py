"""Inside the caller's transaction: one commit, one rollback, and nothing left behind."""

import asyncio
import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from k1s0_event_store import (
    ConcurrencyError,
    ConfigurationError,
    DeadlockError,
    DuplicateEventError,
    LockTimeoutError,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
    TransactionRequiredError,
)
from k1s0_event_store.testing.contract import new_events, outcomes

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")
PLACE = text("INSERT INTO orders VALUES ('o-1', 'placed')")


@pytest.fixture
def store(app_engine):
    return PostgresEventStore(bind=app_engine)


@pytest.fixture
def sync_store(sync_app_engine):
    return SyncPostgresEventStore(bind=sync_app_engine)


def orders(sql):
    return sql("SELECT count(*) FROM orders")[0][0]


async def test_events_snapshots_and_the_apps_rows_are_one_commit(store, app_engine, sql):
    snapshots = PostgresSnapshotStore(bind=app_engine)
    async with AsyncSession(app_engine) as session:
        async with session.begin():
            await session.execute(PLACE)
            await store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
            await snapshots.within(session).save(ORDER, 2, {"n": 2})
            assert not await store.exists(ORDER)
            assert await store.within(session).exists(ORDER)
        assert not session.identity_map.values()
    assert await store.current_version(ORDER) == 2
    assert await snapshots.load_latest(ORDER) is not None
    assert orders(sql) == 1


async def test_a_rollback_takes_everything_back(store, app_engine, sql):
    async with AsyncSession(app_engine) as session:
        await session.execute(PLACE)
        await store.within(session).append(ORDER, new_events(ORDER, 2))
        await session.rollback()
    assert not await store.exists(ORDER)
    assert sql("SELECT count(*) FROM eventstore.streams") == [(0,)]
    assert orders(sql) == 0


async def test_an_append_as_the_first_statement_of_a_session_is_in_its_transaction(store, app_engine):
    async with AsyncSession(app_engine) as session:
        await store.within(session).append(ORDER, new_events(ORDER, 2))
        await session.rollback()
    assert not await store.exists(ORDER)


async def test_a_savepoint_takes_back_only_what_came_after_it(store, app_engine, sql):
    async with AsyncSession(app_engine) as session, session.begin():
        bound = store.within(session)
        await bound.append(ORDER, new_events(ORDER, 1), expected_version=0)
        async with session.begin_nested() as savepoint:
            await session.execute(PLACE)
            await bound.append(ORDER, new_events(ORDER, 2), expected_version=1)
            await savepoint.rollback()
        assert await bound.append(ORDER, new_events(ORDER, 1), expected_version=1) == 2
    assert await store.current_version(ORDER) == 2
    assert orders(sql) == 0


async def test_a_conflict_leaves_the_transaction_usable(store, app_engine, sql):
    await store.append(ORDER, new_events(ORDER, 3))
    async with AsyncSession(app_engine) as session, session.begin():
        await session.execute(PLACE)
        for expected in (0, 2, 4):
            with pytest.raises(ConcurrencyError) as refused:
                await store.within(session).append(ORDER, new_events(ORDER, 1), expected_version=expected)
            assert refused.value.actual_version == 3
        assert await store.within(session).append(ORDER, new_events(ORDER, 1), expected_version=3) == 4
    assert orders(sql) == 1
    assert await store.current_version(ORDER) == 4


async def test_a_duplicate_leaves_the_transaction_usable(store, app_engine, sql):
    batch = new_events(ORDER, 2)
    await store.append(ORDER, batch)
    async with AsyncSession(app_engine) as session, session.begin():
        for expected in (None, 0, 2):
            with pytest.raises(DuplicateEventError):
                await store.within(session).append(ORDER, batch[::-1], expected_version=expected)
        await session.execute(PLACE)
    assert orders(sql) == 1


async def test_a_refused_append_burns_no_position(store, app_engine, sql):
    await store.append(ORDER, new_events(ORDER, 1))
    for expected in (0, 5):
        await outcomes([store.append(ORDER, new_events(ORDER, 3), expected_version=expected)])
    await store.append(ORDER, new_events(ORDER, 1))
    assert sql("SELECT position FROM eventstore.events ORDER BY 1") == [(1,), (2,)]


async def test_two_streams_in_one_transaction_are_atomic(store, app_engine):
    async with AsyncSession(app_engine) as session:
        bound = store.within(session)
        await bound.append(ORDER, new_events(ORDER, 1), expected_version=0)
        with pytest.raises(ConcurrencyError):
            await bound.append(OTHER, new_events(OTHER, 1), expected_version=7)
        await session.rollback()
    assert not await store.exists(ORDER)
    assert not await store.exists(OTHER)


async def test_opposite_orders_end_in_a_retryable_error_not_in_a_hang(store, app_engine, sql):
    sql("ALTER SYSTEM SET deadlock_timeout = '50ms'")
    sql("SELECT pg_reload_conf()")
    await asyncio.gather(*(store.append(s, new_events(s, 1)) for s in (ORDER, OTHER)))
    both_hold_one = asyncio.Barrier(2)

    async def move(first, second):
        async with AsyncSession(app_engine) as session, session.begin():
            await store.within(session).append(first, new_events(first, 1))
            await both_hold_one.wait()
            await store.within(session).append(second, new_events(second, 1))
        return "committed"

    won, lost = await asyncio.wait_for(outcomes([move(ORDER, OTHER), move(OTHER, ORDER)]), 30)
    sql("ALTER SYSTEM RESET deadlock_timeout")
    assert won == ["committed"]
    assert [type(error) for error in lost] == [DeadlockError]
    assert lost[0].retryable
    assert await store.current_version(ORDER) == await store.current_version(OTHER) == 2


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_a_race_is_lost_by_one_at_every_isolation_level(store, app_engine, level):
    await store.append(ORDER, new_events(ORDER, 1))
    engine = app_engine.execution_options(isolation_level=level)
    both_have_loaded = asyncio.Barrier(2)

    async def decide():
        async with AsyncSession(engine) as session, session.begin():
            bound = store.within(session)
            version = len(await bound.load(ORDER))
            await both_have_loaded.wait()
            return await bound.append(ORDER, new_events(ORDER, 1), expected_version=version)

    won, lost = await outcomes([decide(), decide()])
    assert won == [2]
    assert [type(error) for error in lost] == [ConcurrencyError]
    assert lost[0].expected_version == 1
    # Above READ COMMITTED the transaction cannot see what the other one wrote.
    assert lost[0].actual_version == (2 if level == "READ COMMITTED" else None)
    assert await store.current_version(ORDER) == 2


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_of_two_creators_one_wins_at_every_isolation_level(store, app_engine, level):
    engine = app_engine.execution_options(isolation_level=level)
    both_have_looked = asyncio.Barrier(2)

    async def create():
        async with AsyncSession(engine) as session, session.begin():
            bound = store.within(session)
            assert not await bound.exists(ORDER)
            await both_have_looked.wait()
            return await bound.append(ORDER, new_events(ORDER, 1), expected_version=0)

    won, lost = await outcomes([create(), create()])
    assert won == [1]
    assert [type(error) for error in lost] == [ConcurrencyError]
    assert lost[0].retryable


async def test_a_batch_repeated_in_two_open_transactions_is_stored_once(store, app_engine):
    batch = new_events(ORDER, 2)
    async with AsyncSession(app_engine) as first, AsyncSession(app_engine) as second:
        await store.within(first).append(ORDER, batch)
        waiting = asyncio.create_task(store.within(second).append(ORDER, batch))
        await asyncio.sleep(0.1)
        await first.commit()
        # It waited on the head row, so its ids were looked up too early: the unique key decides.
        with pytest.raises(DuplicateEventError):
            await waiting
        await second.rollback()
        assert await store.within(second).append(ORDER, batch) == 2
    assert await store.current_version(ORDER) == 2


async def test_a_lock_keeps_other_writers_waiting_until_the_commit(store, app_engine):
    for stream_id in (ORDER, OTHER):  # one with events, one without
        if stream_id is ORDER:
            await store.append(stream_id, new_events(stream_id, 1))
        async with AsyncSession(app_engine) as session, session.begin():
            version = await store.within(session).lock(stream_id)
            rival = asyncio.create_task(store.append(stream_id, new_events(stream_id, 1)))
            await asyncio.sleep(0.1)
            assert not rival.done()
            mine = await store.within(session).append(stream_id, new_events(stream_id, 1), version)
            assert mine == version + 1
        assert await rival == version + 2


async def test_load_decide_append_under_a_lock_never_loses(store, app_engine):
    async def decide():
        async with AsyncSession(app_engine) as session, session.begin():
            bound = store.within(session)
            await bound.lock(ORDER)
            version = await bound.current_version(ORDER)
            await bound.append(ORDER, new_events(ORDER, 1), expected_version=version)

    await asyncio.gather(*(decide() for _ in range(12)))
    assert await store.current_version(ORDER) == 12


@pytest.mark.parametrize("existing", [0, 1])
async def test_a_lock_with_a_limit_ends_in_a_typed_error_and_a_usable_transaction(
    store, app_engine, sql, existing
):
    await store.append(ORDER, new_events(ORDER, existing))
    async with AsyncSession(app_engine) as holder, holder.begin():
        await store.within(holder).lock(ORDER)
        async with AsyncSession(app_engine) as session, session.begin():
            await session.execute(PLACE)
            for wait in (0, 0.05):
                with pytest.raises(LockTimeoutError) as refused:
                    await store.within(session).lock(ORDER, wait=wait)
                assert refused.value.retryable
                assert (refused.value.stream_id, refused.value.wait) == (ORDER, wait)
            assert await store.within(session).lock(OTHER, wait=5) == 0
            assert (await session.execute(text("SHOW lock_timeout"))).scalar() == "0"
    assert orders(sql) == 1


async def test_a_lock_honours_the_servers_own_limit(store, app_engine):
    await store.append(ORDER, new_events(ORDER, 1))
    async with AsyncSession(app_engine) as holder, holder.begin():
        await store.within(holder).lock(ORDER)
        async with AsyncSession(app_engine) as session:
            await session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            with pytest.raises(LockTimeoutError, match="the server's lock_timeout"):
                await store.within(session).lock(ORDER)


async def test_a_lock_on_a_stream_that_moved_is_a_conflict_above_read_committed(store, app_engine):
    await store.append(ORDER, new_events(ORDER, 1))
    engine = app_engine.execution_options(isolation_level="REPEATABLE READ")
    async with AsyncSession(engine) as session:
        await store.within(session).load(ORDER)
        await store.append(ORDER, new_events(ORDER, 1))
        with pytest.raises(ConcurrencyError):
            await store.within(session).lock(ORDER)


async def test_a_locked_stream_without_events_does_not_exist(store, app_engine):
    async with AsyncSession(app_engine) as session, session.begin():
        assert await store.within(session).lock(ORDER) == 0
    assert not await store.exists(ORDER)
    with pytest.raises(ConcurrencyError):
        await store.append(ORDER, new_events(ORDER, 1), expected_version=1)
    assert await store.append(ORDER, new_events(ORDER, 1), expected_version=0) == 1


async def test_a_lock_outside_a_transaction_is_refused(store):
    with pytest.raises(TransactionRequiredError, match="within"):
        await store.lock(ORDER)


async def test_a_store_joins_connections_and_scoped_sessions(store, app_engine):
    async with app_engine.connect() as connection:
        await store.within(connection).append(ORDER, new_events(ORDER, 1))
        await connection.rollback()
        await store.within(connection).append(ORDER, new_events(ORDER, 2))
        await connection.commit()
    scoped = async_scoped_session(async_sessionmaker(app_engine), scopefunc=asyncio.current_task)
    await store.within(scoped).append(ORDER, new_events(ORDER, 1), expected_version=2)
    await scoped.commit()
    await scoped.remove()
    assert await store.current_version(ORDER) == 3


async def test_joining_anything_else_is_refused(store, sync_app_engine):
    with Session(sync_app_engine) as session:
        for wrong in (session, sync_app_engine, None, "session"):
            with pytest.raises(ConfigurationError, match="AsyncSession"):
                store.within(wrong)


async def test_a_session_given_is_neither_committed_nor_closed_by_closing_the_store(store, app_engine):
    async with AsyncSession(app_engine) as session:
        bound = store.within(session)
        await bound.append(ORDER, new_events(ORDER, 1))
        await bound.close()
        assert session.in_transaction()
        await session.commit()
    await store.close()
    async with app_engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM eventstore.events"))).scalar() == 1


async def test_errors_of_the_session_itself_pass_through(store, app_engine):
    async with AsyncSession(app_engine) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1/0"))
        await session.rollback()
        assert await store.within(session).append(ORDER, new_events(ORDER, 1)) == 1


def test_blocking_events_snapshots_and_the_apps_rows_are_one_commit(sync_store, sync_app_engine, sql):
    snapshots = SyncPostgresSnapshotStore(bind=sync_app_engine)
    with Session(sync_app_engine) as session, session.begin():
        session.execute(PLACE)
        sync_store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
        snapshots.within(session).save(ORDER, 2, {"n": 2})
        with pytest.raises(ConcurrencyError):
            sync_store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
        assert not sync_store.exists(ORDER)
    assert sync_store.current_version(ORDER) == 2
    assert snapshots.load_latest(ORDER).state == {"n": 2}
    assert orders(sql) == 1


def test_a_blocking_rollback_and_savepoint_take_back_what_they_cover(sync_store, sync_app_engine, sql):
    with Session(sync_app_engine) as session:
        bound = sync_store.within(session)
        bound.append(ORDER, new_events(ORDER, 1))
        with session.begin_nested() as savepoint:
            bound.append(ORDER, new_events(ORDER, 1))
            savepoint.rollback()
        session.execute(PLACE)
        assert bound.append(ORDER, new_events(ORDER, 1), expected_version=1) == 2
        session.rollback()
    assert not sync_store.exists(ORDER)
    assert orders(sql) == 0


def test_a_blocking_store_joins_connections_and_scoped_sessions(sync_store, sync_app_engine):
    with sync_app_engine.begin() as connection:
        sync_store.within(connection).append(ORDER, new_events(ORDER, 1))
    scoped = scoped_session(sessionmaker(sync_app_engine))
    sync_store.within(scoped).append(ORDER, new_events(ORDER, 1), expected_version=1)
    scoped.commit()
    scoped.remove()
    assert sync_store.current_version(ORDER) == 2


def test_a_blocking_sessionmaker_gives_each_call_a_session_of_its_own(sync_app_engine):
    store = SyncPostgresEventStore(bind=sessionmaker(sync_app_engine))
    assert store.append(ORDER, new_events(ORDER, 2)) == 2
    with pytest.raises(ConcurrencyError):
        store.append(ORDER, new_events(ORDER, 2), expected_version=0)
    assert [event.version for event in store.stream(ORDER)] == [1, 2]


def test_joining_anything_else_is_refused_by_the_blocking_store(sync_store):
    for wrong in (None, "session", object()):
        with pytest.raises(ConfigurationError, match="Session or Connection"):
            sync_store.within(wrong)


def test_a_blocking_lock_with_a_limit_ends_in_a_typed_error(sync_store, sync_app_engine):
    sync_store.append(ORDER, new_events(ORDER, 1))
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Session(sync_app_engine) as session, session.begin():
            sync_store.within(session).lock(ORDER)
            locked.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(10)
    with Session(sync_app_engine) as session, session.begin():
        with pytest.raises(LockTimeoutError):
            sync_store.within(session).lock(ORDER, wait=0.05)
        assert sync_store.within(session).current_version(ORDER) == 1
    done.set()
    holder.join()
