"""The inbox on PostgreSQL: with its effect in one transaction, at every isolation level, under failures."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from k1s0_event_store import (
    DatabaseError,
    DeadlockError,
    SchemaError,
    StoreUnavailableError,
    StreamId,
    TransactionRequiredError,
)
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.inbox_contract import RACERS, HandlerError, handle, later
from k1s0_event_store.testing.runner_contract import eventually

ORDER = StreamId("order", "o-1")
INBOX = PostgresInbox("billing")
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
MARKS = "SELECT message_id FROM eventstore.inbox ORDER BY 1"
ORDERS = "SELECT id FROM orders ORDER BY 1"


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]


def place(name):
    return text(f"INSERT INTO orders VALUES ('{name}', 'placed')")


@pytest.fixture
def sessions(app_engine):
    return async_sessionmaker(app_engine)


# With the effect


async def test_mark_effect_and_events_commit_together_or_not_at_all(sessions, event_store, sql):
    for commit in (False, True):
        async with sessions() as session:
            async with INBOX.once(session, "m-1") as is_new:
                assert is_new
                session.add(Order(id="o-1", status="placed"))
                await event_store.within(session).append(ORDER, new_events(ORDER, 1), expected_version=0)
            assert (sql(MARKS), sql(ORDERS)) == ([], [])
            await (session.commit() if commit else session.rollback())
        assert len(sql(MARKS)) == len(sql(ORDERS)) == await event_store.current_version(ORDER) == commit


@pytest.mark.parametrize("autoflush", [True, False])
async def test_an_object_that_a_failed_block_has_added_is_not_committed_by_the_rest(
    app_engine, sql, autoflush
):
    async with AsyncSession(app_engine, autoflush=autoflush) as session:
        session.add(Order(id="before", status="placed"))
        with suppress(HandlerError):
            async with INBOX.once(session, "m-1"):
                session.add(Order(id="inside", status="placed"))
                raise HandlerError
        session.add(Order(id="after", status="placed"))
        await session.commit()
    assert sql(ORDERS) == [("after",), ("before",)]
    assert sql(MARKS) == []


async def test_an_effect_that_the_database_refuses_at_the_end_of_the_block_takes_the_mark_back(sessions, sql):
    sql("INSERT INTO orders VALUES ('o-1', 'placed')")
    async with sessions.begin() as session:
        with pytest.raises(exc.IntegrityError):
            async with INBOX.once(session, "m-1"):
                session.add(Order(id="o-1", status="again"))
        async with INBOX.once(session, "m-2"):
            session.add(Order(id="o-2", status="placed"))
    assert sql(MARKS) == [("m-2",)]
    assert sql("SELECT id, status FROM orders ORDER BY 1") == [("o-1", "placed"), ("o-2", "placed")]


async def test_an_effect_from_before_the_block_that_is_refused_is_the_apps_error(sessions, sql):
    sql("INSERT INTO orders VALUES ('o-1', 'placed')")
    async with sessions() as session:
        session.add(Order(id="o-1", status="again"))
        with pytest.raises(exc.IntegrityError):
            async with INBOX.once(session, "m-1"):
                raise AssertionError("it got in")
    assert sql(MARKS) == []


async def test_messages_that_are_delivered_again_and_again_to_failing_consumers_have_one_effect(
    app_engine, sql
):
    """Handlers fail in the block, after it, and at no point; what is not acknowledged comes again."""
    queue = [f"m-{number}" for number in range(40)] * 3
    random.Random(2026).shuffle(queue)
    seen = Counter()

    async def consume(number):
        chooser = random.Random(f"consumer-{number}")
        while queue:
            name = queue.pop()
            try:
                async with app_engine.begin() as connection:
                    await deliver(connection, name, chooser)
            except HandlerError:
                queue.append(name)

    async def deliver(connection, name, chooser):
        async with INBOX.once(connection, name) as is_new:
            seen[is_new] += 1
            if is_new:
                await connection.execute(place(name))
            if chooser.random() < 0.2:
                raise HandlerError
        if chooser.random() < 0.2:
            raise HandlerError

    await asyncio.gather(*map(consume, range(RACERS)))
    assert sql(MARKS) == sql(ORDERS) == sorted((f"m-{number}",) for number in range(40))
    assert seen[True] > 40
    assert seen[False] >= 80


@pytest.mark.parametrize("kind", ["session", "connection"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_block_that_ends_the_transaction_can_do_nothing_more_in_it(
    app_engine, sessions, sql, kind, end
):
    async def work():
        async with INBOX.once(session, "m-1"):
            await session.execute(place("o-1"))
            await getattr(session, end)()
            await session.execute(place("o-2"))

    async with sessions() if kind == "session" else app_engine.connect() as session:
        with pytest.raises(exc.InvalidRequestError, match="closed transaction"):
            await work()
        await session.commit()
    assert (sql(MARKS), sql(ORDERS)) == (([("m-1",)], [("o-1",)]) if end == "commit" else ([], []))


# Isolation


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_above_read_committed_who_waited_gets_an_error_and_sees_the_mark_when_run_again(
    app_engine, sql, level
):
    begin = app_engine.execution_options(isolation_level=level).begin
    async with begin() as first:
        async with INBOX.once(first, "m-1"):
            await first.execute(place("o-1"))
        second = asyncio.create_task(handle(INBOX, begin, "m-1"))
        await eventually(lambda: sql(WAITING) == [(1,)])
    with pytest.raises(DatabaseError) as refused:
        await second
    assert (refused.value.sqlstate, refused.value.retryable) == ("40001", True)
    assert await handle(INBOX, begin, "m-1") is False


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_above_read_committed_who_waited_for_a_rollback_handles_the_message(app_engine, sql, level):
    begin = app_engine.execution_options(isolation_level=level).begin
    async with app_engine.connect() as first:
        async with INBOX.once(first, "m-1"):
            pass
        second = asyncio.create_task(handle(INBOX, begin, "m-1"))
        await eventually(lambda: sql(WAITING) == [(1,)])
        await first.rollback()
    assert await second is True


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_above_read_committed_consumers_that_run_again_have_one_effect(app_engine, sql, level):
    begin = app_engine.execution_options(isolation_level=level).begin
    racers = 10  # they fit into the pool
    retried, all_have_begun = [], asyncio.Barrier(racers)

    async def work(_number):
        while True:
            try:
                async with begin() as connection:
                    if not retried:
                        await connection.execute(text("SELECT 1"))  # what it sees is settled here
                        await all_have_begun.wait()
                    async with INBOX.once(connection, "m-1") as is_new:
                        if is_new:
                            await connection.execute(place("o-1"))
            except DatabaseError as error:
                retried.append(error.retryable)
            else:
                return is_new

    assert sorted(await asyncio.gather(*map(work, range(racers)))) == [False] * (racers - 1) + [True]
    assert retried == [True] * (racers - 1)
    assert sql(ORDERS) == [("o-1",)]


@pytest.mark.parametrize("kind", ["session", "connection"])
async def test_autocommit_is_refused_because_nothing_commits_together_there(app_engine, sql, kind):
    engine = app_engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) if kind == "session" else engine.connect() as session:
        with pytest.raises(TransactionRequiredError, match="AUTOCOMMIT"):
            async with INBOX.once(session, "m-1"):
                raise AssertionError("it got in")
    assert sql(MARKS) == []


# Failures


async def test_transactions_that_take_messages_in_different_orders_may_deadlock(app_engine, sql):
    met = asyncio.Barrier(2)

    async def work(first, second):
        async with app_engine.begin() as connection:
            async with INBOX.once(connection, first):
                await met.wait()
            async with INBOX.once(connection, second):
                pass

    one, other = await asyncio.gather(work("a", "b"), work("b", "a"), return_exceptions=True)
    assert {type(one), type(other)} == {DeadlockError, type(None)}
    assert sql(MARKS) == [("a",), ("b",)]


async def test_who_waits_longer_than_the_lock_timeout_gets_an_error_that_may_be_retried(app_engine, sql):
    async with app_engine.begin() as first, INBOX.once(first, "m-1"), app_engine.begin() as second:
        await second.execute(text("SET LOCAL lock_timeout = '20ms'"))
        with pytest.raises(DatabaseError) as refused:
            async with INBOX.once(second, "m-1"):
                raise AssertionError("it got in")
        await second.execute(place("o-1"))
    assert (refused.value.sqlstate, refused.value.retryable) == ("55P03", True)
    assert sql(ORDERS) == [("o-1",)]


@pytest.mark.parametrize("kind", ["session", "connection"])
async def test_a_lost_connection_is_an_error_of_ours(app_engine, sessions, sql, kind):
    async with sessions() if kind == "session" else app_engine.connect() as session:
        (pid,) = (await session.execute(text("SELECT pg_backend_pid()"))).one()
        sql("SELECT pg_terminate_backend(%s, 5000)", pid)
        with pytest.raises(StoreUnavailableError):
            async with INBOX.once(session, "m-1"):
                raise AssertionError("it got in")
    assert await handle(INBOX, sessions.begin, "m-1") is True


async def test_a_consumer_that_dies_in_the_block_leaves_the_message_new(app_engine, sessions, sql):
    async def die():
        async with INBOX.once(connection, "m-1"):
            await connection.execute(place("o-1"))
            sql("SELECT pg_terminate_backend(%s, 5000)", pid)
            await connection.execute(place("o-2"))

    async with app_engine.connect() as connection:
        (pid,) = (await connection.execute(text("SELECT pg_backend_pid()"))).one()
        with pytest.raises(exc.DBAPIError):
            await die()
    assert sql(ORDERS) == []
    assert await handle(INBOX, sessions.begin, "m-1") is True


async def test_without_the_table_the_error_says_what_to_run(sessions, sql):
    sql("DROP TABLE eventstore.inbox")
    async with sessions() as session:
        with pytest.raises(SchemaError, match="db upgrade"):
            async with INBOX.once(session, "m-1"):
                raise AssertionError("it got in")
        with pytest.raises(SchemaError, match="db upgrade"):
            await INBOX.forget(session, later())


# What is old


async def test_forgetting_a_few_of_many_marks_uses_the_index(sql):
    sql("""INSERT INTO eventstore.inbox SELECT 'billing', 'm-' || n, now() - make_interval(mins => n)
           FROM generate_series(1, 20000) AS n""")
    sql("ANALYZE eventstore.inbox")
    delete = """EXPLAIN DELETE FROM eventstore.inbox
                WHERE consumer = 'billing' AND handled_at < now() - interval '19900 minutes'"""
    assert "idx_inbox_handled_at" in str(sql(delete))


async def test_a_hundred_thousand_marks_are_forgotten_at_once(sessions, sql):
    sql("""INSERT INTO eventstore.inbox SELECT consumer, n::text, now()
           FROM generate_series(1, 100000) AS n, (VALUES ('billing'), ('shipping')) AS c (consumer)""")
    async with sessions.begin() as session:
        assert await INBOX.forget(session, later()) == 100_000
    assert sql("SELECT DISTINCT consumer FROM eventstore.inbox") == [("shipping",)]
