"""Appends of one process in one statement: an answer for each, and none touches another."""

import asyncio
import contextvars
import gc
import random
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import (
    STREAM_EXISTS,
    ConcurrencyError,
    ConfigurationError,
    DatabaseError,
    DuplicateEventError,
    EventEnvelope,
    EventStoreConfig,
    EventVersion,
    InvalidEventError,
    OutcomeUnknownError,
    PostgresEventStore,
    StoreClosedError,
    StoreUnavailableError,
    StreamId,
    StreamNotFoundError,
)
from k1s0_event_store.postgres import coalescing
from k1s0_event_store.testing.contract import new_events, outcomes, versions

NOBODY = contextvars.ContextVar("tenant", default="nobody")


def stream(name):
    return StreamId("order", str(name))


def appends(store, names, count=1, expected=None):
    return [store.append(stream(name), new_events(stream(name), count), expected) for name in names]


def on_insert(sql, body):
    """Have the database do something with each event that is inserted."""
    sql(f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$")
    sql("CREATE TRIGGER meddle BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION meddle()")


@pytest.fixture(autouse=True)
async def unseen():
    """Errors of tasks that nobody took: what fails unseen behind an append that went alone then."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    yield errors
    gc.collect()
    assert errors == []


async def until(sql, question):
    """Wait until the answer has a row."""
    while not sql(question):  # noqa: ASYNC110 - the database tells nobody
        await asyncio.sleep(0.01)


class Watched:
    """Around a runner: what was sent; while `gate` is shut, nothing gets its answer."""

    def __init__(self, runner):
        self.runner = runner
        self.sent = []
        self.transactions = 0
        self.contexts = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, query):
        self.sent.append(query)
        self.contexts.append(NOBODY.get())
        rows = await self.runner.fetch(query)
        await self.gate.wait()
        return rows

    def transaction(self):
        self.transactions += 1
        return self.runner.transaction()

    async def has_sent(self, number):
        while len(self.sent) < number:  # noqa: ASYNC110 - a few rounds of the loop
            await asyncio.sleep(0)


def always_together(store):
    """The store as it is while an append is under way alone: each call goes into a batch."""
    store._coalescer._first = object()
    return store


@pytest.fixture
async def idle_store(event_store_config):
    async with PostgresEventStore(event_store_config, coalesce=True) as store:
        yield store


@pytest.fixture
def store(idle_store):
    return always_together(idle_store)


def watch(store):
    store._runner = Watched(store._runner)
    return store._runner


@pytest.fixture
def watched(store):
    return watch(store)


async def together(*calls):
    """The outcomes of calls that are made at the same time, so that their appends are one batch."""
    return await asyncio.gather(*calls, return_exceptions=True)


@asynccontextmanager
async def batch_under_way(store, watched):
    """Inside the block a batch is under way; what is called there waits until it ends."""
    watched.gate.clear()
    under_way = asyncio.gather(*appends(store, ["under way", "with it"]))
    await watched.has_sent(1)
    yield
    watched.gate.set()
    assert await under_way == [1, 1]


async def test_an_append_that_finds_nothing_under_way_goes_alone_and_at_once(idle_store):
    store, watched, sql = idle_store, watch(idle_store), idle_store._sql
    for expected in (0, 1, None, STREAM_EXISTS):
        await store.append(stream(1), new_events(stream(1), 1), expected)
    assert [query.statement for query in watched.sent] == [
        sql.append_one.new, sql.append_one.at, sql.append_one.any, sql.append_one.existing,
    ]  # fmt: skip
    # Its caller's first step sends it, not even a turn of the event loop later.
    task = asyncio.create_task(store.append(stream(2), new_events(stream(2), 1)))
    await asyncio.sleep(0)
    assert len(watched.sent) == 5
    assert await task == 1


async def test_of_appends_called_at_the_same_time_those_after_the_first_are_one_statement(idle_store):
    watched = watch(idle_store)
    assert await asyncio.gather(*appends(idle_store, range(100), 2)) == [2] * 100
    assert [q.statement for q in watched.sent] == [
        idle_store._sql.append.any,
        idle_store._sql.append_together,
    ]
    for name in range(100):
        assert versions(await idle_store.load(stream(name))) == [1, 2]


async def test_while_one_is_under_way_the_next_gather_and_wait_for_nothing_else(idle_store):
    store, watched = idle_store, watch(idle_store)
    watched.gate.clear()
    first = asyncio.gather(*appends(store, ["a"]))
    await watched.has_sent(1)
    second = asyncio.gather(*appends(store, ["b"]))
    await watched.has_sent(2)  # not held up by the first
    gathered = []
    for name in range(20):
        gathered += map(asyncio.create_task, appends(store, [name]))
        await asyncio.sleep(0)
    assert len(watched.sent) == 2
    watched.gate.set()
    assert await asyncio.gather(first, second, *gathered) == [[1], [1], *[1] * 20]
    assert [len(query.args[0]) for query in watched.sent[1:]] == [1, 20]


async def test_who_was_alone_and_comes_again_gathers_while_a_batch_is_under_way(idle_store):
    class BatchesWait(Watched):
        async def fetch(self, query):
            if query.statement is idle_store._sql.append_together:
                return await super().fetch(query)
            self.sent.append(query)
            return await self.runner.fetch(query)

    watched = idle_store._runner = BatchesWait(idle_store._runner)
    watched.gate.clear()
    alone, *batch = (asyncio.create_task(call) for call in appends(idle_store, "abc"))
    assert await alone == 1
    again = asyncio.gather(*appends(idle_store, "ad"))
    await asyncio.sleep(0)
    watched.gate.set()
    assert await asyncio.gather(again, *batch) == [[2, 1], 1, 1]
    assert [len(q.args[0]) for q in watched.sent if q.statement is idle_store._sql.append_together] == [2, 2]


async def test_who_comes_again_with_the_answer_in_hand_is_in_the_next_batch(store, watched):
    async def twice(name):
        await store.append(stream(name), new_events(stream(name), 1))
        return await store.append(stream(name), new_events(stream(name), 1))

    watched.gate.clear()
    again = [asyncio.create_task(twice(name)) for name in "abc"]
    await watched.has_sent(1)
    gathered = asyncio.gather(*appends(store, ["d"]))
    await asyncio.sleep(0)
    watched.gate.set()
    assert await asyncio.gather(*again) == [2, 2, 2]
    assert await gathered == [1]
    assert [len(query.args[0]) for query in watched.sent] == [3, 4]


async def test_each_append_of_a_batch_has_its_own_expectation_and_its_own_answer(store, watched):
    await together(*appends(store, ["at 3", "any", "existing", "beside"], 3))
    odd = [EventEnvelope(stream("odd"), "Odd", {"n": 1}), EventEnvelope(stream("odd"), "O", [], {"by": "é"})]
    answers = await together(
        *appends(store, ["at 3"], 1, 3),
        *appends(store, ["any"], 2),
        *appends(store, ["existing"], 3, STREAM_EXISTS),
        *appends(store, ["new"], 4, 0),
        *appends(store, ["new too"], 5),
        store.append(stream("odd"), odd, 0),
    )
    assert answers == [4, 5, 6, 4, 5, 2]
    assert len(watched.sent) == 2
    for name, version in {"at 3": 4, "any": 5, "existing": 6, "new": 4, "new too": 5, "beside": 3}.items():
        assert versions(await store.load(stream(name))) == list(range(1, version + 1))
    stored = await store.load(stream("odd"))
    assert [(e.event_id, e.event_type, e.payload, e.metadata) for e in stored] == [
        (e.event_id, e.event_type, e.payload, e.metadata) for e in odd
    ]
    assert [e.position for e in stored] == [stored[0].position, stored[0].position + 1]


async def test_what_is_wrong_with_one_append_does_not_touch_another(store, watched):
    await together(*appends(store, ["old", "repeated", "repeated any"], 2))
    old = [await store.load(stream(name)) for name in ("old", "repeated", "repeated any")]
    ids = [[event.event_id for event in events] for events in old]

    def again(name, ids, expected):
        batch = [EventEnvelope(stream(name), "Counted", {}, event_id=event_id) for event_id in ids]
        return store.append(stream(name), batch, expected)

    good = appends(store, range(10), 2)
    bad = [
        *appends(store, ["missing"], 1, 7),
        *appends(store, ["missing too"], 1, STREAM_EXISTS),
        store.append(stream("no JSON"), [EventEnvelope(stream("no JSON"), "Odd", float("nan"))]),
    ]
    repeated = [again("repeated", ids[1], 0), again("repeated any", ids[2], None)]
    conflicting = appends(store, ["old"], 1, 1)
    answers = await together(*good, *bad, *repeated, *conflicting)
    assert answers[:10] == [2] * 10
    assert [type(answer) for answer in answers[10:13]] == [
        ConcurrencyError, StreamNotFoundError, InvalidEventError,
    ]  # fmt: skip
    assert answers[13:15] == [2, 2]
    assert (type(answers[15]), answers[15].actual_version) == (ConcurrencyError, 2)
    answers = await together(
        *appends(store, range(10)), again("old", ids[0][::-1], None), again("new", ids[0], 0)
    )
    assert answers[:10] == [3] * 10
    assert type(answers[10]) is DuplicateEventError
    assert answers[11] == 2  # another aggregate id
    for name, version in [*((n, 3) for n in range(10)), ("old", 2), ("repeated", 2), ("repeated any", 2)]:
        assert versions(await store.load(stream(name))) == list(range(1, version + 1))


async def test_a_repeated_append_has_its_first_answer_and_the_others_are_not_sent_again(store, watched):
    batch = new_events(stream("repeated"), 2)
    await store.append(stream("repeated"), batch)
    for attempt, expected in enumerate((0, None, STREAM_EXISTS)):
        watched.sent.clear()
        answers = await together(
            store.append(stream("repeated"), batch, expected),
            *appends(store, [f"{attempt}-{n}" for n in "abc"]),
        )
        assert answers == [2, 1, 1, 1]
        # The batch, and for the repeated one what a store sends that does not coalesce.
        assert len(watched.sent) == 3


async def test_streams_are_created_in_one_order_whatever_that_of_the_calls(store, sql):
    names = ["b", "Z", "é", "a", "10", "9", "a-b", "ab"]
    await together(*appends(store, names))
    stored = [name for (name,) in sql("SELECT aggregate_id FROM eventstore.streams ORDER BY ctid")]
    assert stored == sorted(names)


async def test_a_batch_leaves_the_settings_of_its_session_as_they_were(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=1, max_overflow=0)
    async with PostgresEventStore(config, coalesce=True) as store:
        await together(*appends(store, range(3)))
        async with store.bind.connect() as connection:
            assert (await connection.exec_driver_sql("SHOW lock_timeout")).scalar_one() == "0"


async def test_an_append_without_events_is_no_part_of_a_batch_and_writes_nothing(store, watched, sql):
    empty = [store.append(stream(name), [], expected) for name, expected in (("a", 0), ("b", None))]
    assert await together(*empty, *appends(store, range(3))) == [0, 0, 1, 1, 1]
    assert [len(q.args[0]) for q in watched.sent if q.statement is store._sql.append_together] == [3]
    assert sql("SELECT count(*) FROM eventstore.streams") == [(3,)]


async def test_a_stream_that_was_only_locked_is_new_to_a_batch(store):
    async with AsyncSession(store.bind) as session:
        for expected in (0, None, STREAM_EXISTS):
            await store.within(session).lock(stream(expected))
        await session.commit()
    new, any_version, missing = await together(
        *(appends(store, [e], 1, e)[0] for e in (0, None, STREAM_EXISTS))
    )
    assert (new, any_version, type(missing)) == (1, 1, StreamNotFoundError)


async def test_an_id_that_is_taken_under_another_type_refuses_its_own_append_only(store):
    first = new_events(stream("shared"), 1)
    await store.append(stream("shared"), first)
    other = StreamId("invoice", "shared")
    duplicate = [EventEnvelope(other, "Counted", {}, event_id=first[0].event_id)]
    for expected in (0, None):
        good, bad = await together(*appends(store, [expected]), store.append(other, duplicate, expected))
        assert (good, type(bad)) == (1, DuplicateEventError)


async def test_two_appends_with_one_id_in_one_batch_are_told_apart(store):
    first = new_events(stream("shared"), 1)
    other = StreamId("invoice", "shared")
    duplicate = [EventEnvelope(other, "Counted", {}, event_id=first[0].event_id)]
    answers = await together(
        store.append(stream("shared"), first), store.append(other, duplicate), *appends(store, [1])
    )
    assert sorted(str(type(answer).__name__) for answer in answers) == [
        "DuplicateEventError",
        "EventVersion",
        "EventVersion",
    ]


async def test_what_the_database_refuses_or_drops_fails_its_own_append_only(store, sql):
    on_insert(sql, "IF NEW.aggregate_id = 'dropped' THEN RETURN NULL; END IF; "
                   "IF NEW.aggregate_id = 'refused' THEN RAISE check_violation; END IF;")  # fmt: skip
    for name, sqlstate in (("dropped", "22012"), ("refused", "23514")):
        *good, bad = await together(*appends(store, range(5)), *appends(store, [name]))
        assert good == [1 if name == "dropped" else 2] * 5
        assert isinstance(bad, DatabaseError)
        assert bad.sqlstate == sqlstate
        assert not await store.exists(stream(name))


async def test_an_error_that_nobody_thought_of_is_reported_and_each_append_goes_alone(store, watched, unseen):
    class Broken(Watched):
        async def fetch(self, query):
            rows = await super().fetch(query)
            if query.statement is store._sql.append_together:
                raise RuntimeError("a fault of ours")
            return rows

    broken = store._runner = Broken(watched)
    broken.gate.clear()
    batch = asyncio.gather(*appends(store, range(5)))
    await broken.has_sent(1)
    gathered = asyncio.gather(*appends(store, range(5)), *appends(store, ["other"]))
    await asyncio.sleep(0)
    broken.gate.set()
    # Stored although nobody could tell, and not a second time.
    assert await batch == [1] * 5
    assert await gathered == [*[2] * 5, 1]
    gc.collect()
    assert {str(error["exception"]) for error in unseen} == {"a fault of ours"}
    unseen.clear()


async def test_appends_to_one_stream_are_stored_in_the_order_of_their_calls(store):
    async def append(number):
        # Some are too large for a batch, and keep their place nevertheless.
        size = 100_000 if number % 7 == 0 else 1
        event = EventEnvelope(stream("one"), "Counted", {"n": number, "x": "x" * size})
        return await store.append(stream("one"), [event])

    others = appends(store, range(30))
    answers = await together(*(call for n in range(30) for call in (append(n), others[n])))
    assert answers[::2] == list(range(1, 31))
    assert [event.payload["n"] for event in await store.load(stream("one"))] == list(range(30))


async def test_a_batch_is_bounded_and_what_is_large_goes_alone(store, watched):
    text = "x" * (coalescing.LARGE - 1_000)
    calls = [
        *(store.append(stream(n), [EventEnvelope(stream(n), "Large", text)]) for n in range(20)),
        *appends(store, range(100, 100 + 2 * coalescing.BATCH_APPENDS)),
        store.append(stream("larger"), [EventEnvelope(stream("larger"), "Large", text + text)]),
        *appends(store, ["many"], 1_000),
    ]
    assert await together(*calls) == [*[1] * (20 + 2 * coalescing.BATCH_APPENDS), 1, 1_000]
    batches = [query for query in watched.sent if query.statement is store._sql.append_together]
    assert len(batches) > 4
    assert max(len(query.args[0]) for query in batches) <= coalescing.BATCH_APPENDS
    assert max(sum(map(len, query.args[7])) for query in batches) <= coalescing.BATCH_SIZE
    assert (len(watched.sent), watched.transactions) == (len(batches) + 1, 1)


async def test_no_more_than_so_many_are_taken_in_and_the_others_wait_for_a_place(
    event_store_config, monkeypatch
):
    monkeypatch.setattr(coalescing, "PLACES", 4)
    async with PostgresEventStore(event_store_config, coalesce=True) as store:
        watched = watch(always_together(store))
        assert await together(*appends(store, range(30))) == [1] * 30
    sizes = [len(q.args[0]) for q in watched.sent if q.statement is store._sql.append_together]
    assert max(sizes) == 4
    assert sum(sizes) <= 30


async def test_an_append_cancelled_while_it_waits_stores_nothing(store, watched):
    async with batch_under_way(store, watched):
        calls = [*appends(store, ["a", "b", "c"]), *appends(store, ["a", "a", "b"])]
        waiting = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        for cancelled in (0, 1, 4):  # the first of two streams, and one that stands behind it
            waiting[cancelled].cancel()
        assert [type(e) for e in await together(waiting[0], waiting[1], waiting[4])] == [
            asyncio.CancelledError
        ] * 3
    assert await asyncio.gather(waiting[2], waiting[3], waiting[5]) == [1, 1, 1]
    assert await store.append(stream("a"), new_events(stream("a"), 1)) == 2
    assert not store._coalescer._behind


async def test_an_append_cancelled_while_its_batch_is_under_way_is_settled_by_repeating_it(store, watched):
    watched.gate.clear()
    batch = new_events(stream("a"), 2)
    cancelled = asyncio.create_task(store.append(stream("a"), batch))
    others = [asyncio.create_task(call) for call in appends(store, range(5))]
    await watched.has_sent(1)
    behind = asyncio.create_task(store.append(stream("a"), new_events(stream("a"), 1)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    watched.gate.set()
    assert await asyncio.gather(*others) == [1] * 5
    assert await behind == 3  # its batch was not cancelled
    assert await store.append(stream("a"), batch) == 2
    assert await store.current_version(stream("a")) == 3
    assert store.bind.pool.checkedout() == 0


async def test_large_appends_cancelled_one_behind_the_other_let_the_next_one_go(store, watched):
    def large():
        return store.append(stream("one"), [EventEnvelope(stream("one"), "Large", "x" * 100_000)])

    watched.gate.clear()
    first, second, third = (asyncio.create_task(c) for c in (large(), large(), *appends(store, ["one"])))
    await watched.has_sent(1)
    first.cancel()
    second.cancel()
    watched.gate.set()
    assert [type(error) for error in await together(first, second)] == [asyncio.CancelledError] * 2
    assert await third == await store.current_version(stream("one"))


async def test_callers_that_all_go_away_leave_a_store_that_works(store, watched):
    async with batch_under_way(store, watched):
        calls = [*appends(store, range(50)), *appends(store, ["one"] * 50)]
        waiting = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await together(*waiting)
        assert not any(store._coalescer._behind.values())  # nor is anything of them kept
    assert await together(*appends(store, [1, 2, "one", "one"])) == [1, 1, 1, 2]
    assert not store._coalescer._behind


async def test_closing_waits_for_what_was_called_before_and_refuses_what_comes_after(store, watched):
    async with batch_under_way(store, watched):
        waiting = [asyncio.create_task(call) for call in appends(store, ["a", "b", "a"])]
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        with pytest.raises(StoreClosedError):
            await store.append(stream("late"), new_events(stream("late"), 1))
        assert not closing.done()
    assert await asyncio.gather(*waiting) == [1, 1, 2]
    await closing
    with pytest.raises(StoreClosedError):
        await store.load(stream("a"))


async def test_closing_waits_for_what_is_under_way_alone(idle_store):
    watched = watch(idle_store)
    watched.gate.clear()
    alone = asyncio.gather(*appends(idle_store, ["a"]))
    await watched.has_sent(1)
    await closes_when_opened(idle_store, watched)
    assert await alone == [1]


async def test_closing_waits_for_a_batch_whose_callers_were_cancelled(store, watched, sql):
    watched.gate.clear()
    callers = [asyncio.create_task(call) for call in appends(store, range(3))]
    await watched.has_sent(1)
    for task in callers:
        task.cancel()
    await together(*callers)
    await closes_when_opened(store, watched)
    assert sql("SELECT count(*) FROM eventstore.events") == [(3,)]


async def closes_when_opened(store, watched):
    """Close the store while nothing gets its answer, then give the answers."""
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    assert store._runner is watched
    watched.gate.set()
    await closing
    assert store._runner is not watched


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT FROM eventstore.streams WHERE aggregate_id = 'locked' FOR UPDATE",
        "UPDATE eventstore.streams SET version = version WHERE aggregate_id = 'locked'",
    ],
    ids=["locked", "being appended to"],
)
async def test_a_locked_stream_holds_up_nobody_but_its_own_append(store, watched, lock):
    await together(*appends(store, ["locked", *range(5)]))
    with psycopg.connect(store.config.dsn) as holder:
        holder.execute(lock)
        held = [asyncio.create_task(call) for call in appends(store, ["locked", "locked"])]
        assert await together(*appends(store, range(10))) == [2] * 5 + [1] * 5
        assert await together(*appends(store, range(10))) == [3] * 5 + [2] * 5
        assert not any(task.done() for task in held)
        # The batches did not wait, and were not sent again: three of them, and the one that waits.
        sql = store._sql
        assert [query.statement for query in watched.sent].count(sql.append_together) == 3
        assert len(watched.sent) == 4
    assert await asyncio.gather(*held) == [2, 3]


async def test_a_stream_that_a_transaction_is_creating_holds_up_nobody_but_its_own_append(store):
    async with AsyncSession(store.bind) as session:
        await store.within(session).append(stream("new"), new_events(stream("new"), 1))
        held = [asyncio.create_task(call) for call in appends(store, ["new", "new"])]
        assert await together(*appends(store, range(10))) == [1] * 10
        assert not any(task.done() for task in held)
        await session.commit()
    assert await asyncio.gather(*held) == [2, 3]


async def test_streams_that_moved_while_a_batch_waited_are_taken_as_they_are_then(store, event_store, sql):
    names = ["any", "existing", "at 1", "at 2"]
    await together(*appends(store, names))
    async with AsyncSession(event_store.bind) as session:
        await event_store.within(session).append(stream("new"), new_events(stream("new"), 1))
        batch = asyncio.gather(
            *appends(store, ["new", "any"]),
            *appends(store, ["existing"], 1, STREAM_EXISTS),
            *appends(store, ["at 1"], 1, 1),
            *appends(store, ["at 2"], 1, 2),
            return_exceptions=True,
        )
        await until(sql, "SELECT pid FROM pg_stat_activity "
                         "WHERE datname = current_database() AND wait_event_type = 'Lock'")  # fmt: skip
        moved = await together(*appends(event_store, names))
        await session.commit()
    new, *answers = await batch
    assert new == 2
    # On a slow machine the batch gives up waiting, and its appends come before those of the other store.
    for name, *both in zip(names, moved, answers, strict=True):
        stored = versions(await store.load(stream(name)))
        assert stored == list(range(1, 2 + sum(isinstance(answer, int) for answer in both)))
        assert {type(answer) for answer in both} <= {EventVersion, ConcurrencyError}


async def test_a_transaction_that_locks_in_another_order_is_never_ended_by_a_deadlock(store, sql):
    names = list("abcdef")
    await together(*appends(store, names))

    async def backwards():
        async with AsyncSession(store.bind) as session:
            for name in reversed(names):
                await store.within(session).append(stream(name), new_events(stream(name), 1))
            await session.commit()

    for _ in range(10):
        answers = await together(*(backwards() for _ in range(3)), *appends(store, names * 5))
        assert [a for a in answers if isinstance(a, BaseException)] == []
    for name in names:
        assert versions(await store.load(stream(name))) == list(range(1, 82))


async def test_stores_that_race_on_the_same_streams_never_wait_for_each_other_in_a_circle(
    store, event_store, event_store_config, sql
):
    async with PostgresEventStore(event_store_config, coalesce=True) as other:
        for attempt in range(10):
            names = [f"{attempt}-{n}" for n in range(20)]
            # In opposite orders, creating and adding, and a plain one between.
            answers = await together(
                *appends(store, names), *appends(other, names[::-1]), *appends(event_store, names, 2),
                *appends(store, names[::-1]), *appends(other, names),
            )  # fmt: skip
            assert [a for a in answers if isinstance(a, BaseException)] == []
            for name in names:
                assert versions(await store.load(stream(name))) == [1, 2, 3, 4, 5, 6]
    assert sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


async def test_of_two_stores_with_the_same_expected_version_one_wins_each_stream(store, event_store_config):
    async with PostgresEventStore(event_store_config, coalesce=True) as other:
        names = range(20)
        for expected in range(10):
            won, refused = await outcomes(
                [*appends(store, names, 1, expected), *appends(other, names[::-1], 1, expected)]
            )
            assert won == [expected + 1] * 20
            assert {(type(e), e.actual_version) for e in refused} == {(ConcurrencyError, expected + 1)}


class Caller:
    """Appends to a few shared streams, as a seed wants; some of its calls are cancelled."""

    def __init__(self, store, number):
        self.store = store
        self.chooser = random.Random(number)
        self.answered = []
        self.cancelled = []

    async def run(self, steps=30):
        for _ in range(steps):
            stream_id = stream(self.chooser.choice("abcdefgh"))
            size = self.chooser.choice((1, 1, 1, 100_000))
            events = [
                EventEnvelope(stream_id, "Called", "x" * size) for _ in range(self.chooser.randint(1, 3))
            ]
            await self.append(stream_id, events)

    async def append(self, stream_id, events):
        expected = self.chooser.choice((None, None, STREAM_EXISTS, 0, 1 + self.chooser.randrange(200)))
        call = asyncio.create_task(self.store.append(stream_id, events, expected))
        if self.chooser.random() < 0.2:
            await asyncio.sleep(self.chooser.random() * 0.005)
            call.cancel()
        try:
            self.answered.append((stream_id, events, await call))
        except ConcurrencyError:
            pass
        except asyncio.CancelledError:
            self.cancelled.append((stream_id, events))


async def test_whatever_is_answered_is_stored_and_what_was_cancelled_is_settled_by_repeating_it(
    idle_store, event_store, event_store_config
):
    async with PostgresEventStore(event_store_config, coalesce=True) as other:
        callers = [Caller((idle_store, other, event_store)[n % 3], n) for n in range(30)]
        await asyncio.gather(*(caller.run() for caller in callers))
        answered = [answer for caller in callers for answer in caller.answered]
        cancelled = [call for caller in callers for call in caller.cancelled]
        assert len(answered) > 100
        assert len(cancelled) > 10
        settled = await asyncio.gather(*(other.append(*call) for call in cancelled))
    answered += [(*call, version) for call, version in zip(cancelled, settled, strict=True)]
    stored = {name: await idle_store.load(stream(name)) for name in "abcdefgh"}
    assert all(versions(events) == list(range(1, len(events) + 1)) for events in stored.values())
    for stream_id, events, version in answered:
        there = stored[stream_id.aggregate_id][version - len(events) : version]
        assert [event.event_id for event in there] == [event.event_id for event in events]
    assert sum(map(len, stored.values())) == sum(len(events) for _, events, _ in answered)


async def test_a_lost_answer_is_an_unknown_outcome_for_each_and_settled_by_repeating(proxy):
    async with PostgresEventStore(EventStoreConfig(dsn=proxy.dsn), coalesce=True) as store:
        always_together(store)
        await together(*appends(store, ["warm", "warmer"]))
        batches = {stream(name): new_events(stream(name), 2) for name in range(10)}
        proxy.lose_next_answer = True
        lost = await together(*(store.append(*batch) for batch in batches.items()))
        assert [type(error) for error in lost] == [OutcomeUnknownError] * 10
        assert all(str(stream_id) in str(error) for stream_id, error in zip(batches, lost, strict=True))
        assert all(error.__cause__ is not None for error in lost)
        assert await together(*(store.append(*batch) for batch in batches.items())) == [2] * 10


async def test_a_connection_killed_with_a_batch_under_way_stores_nothing_of_it(store, sql):
    on_insert(sql, "IF NEW.aggregate_id = 'slow' THEN PERFORM pg_sleep(60); END IF;")
    batch = asyncio.gather(*appends(store, [*range(10), "slow"]), return_exceptions=True)
    await until(
        sql,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event = 'PgSleep'",
    )
    assert [type(error) for error in await batch] == [OutcomeUnknownError] * 11
    assert sql("SELECT count(*) FROM eventstore.events") == [(0,)]
    assert await together(*appends(store, range(10))) == [1] * 10


async def test_a_server_that_cannot_be_reached_is_told_to_each(proxy):
    async with PostgresEventStore(EventStoreConfig(dsn=proxy.dsn), coalesce=True) as store:
        always_together(store)
        proxy.refuse = True
        refused = await together(*appends(store, range(10)))
        assert [type(error) for error in refused] == [StoreUnavailableError] * 10
        assert len({id(error) for error in refused}) == 10
        proxy.refuse = False
        assert await together(*appends(store, range(10))) == [1] * 10


async def test_an_append_in_a_callers_transaction_goes_its_own_way(store, watched):
    async with AsyncSession(store.bind) as session:
        async with batch_under_way(store, watched):
            bound = store.within(session)
            assert await bound.append(stream("mine"), new_events(stream("mine"), 1)) == 1
            await bound.close()
        await session.rollback()
    assert not await store.exists(stream("mine"))
    assert await together(*appends(store, range(3))) == [1] * 3


async def test_a_statement_of_many_has_nothing_of_one_callers_context(idle_store):
    watched = watch(idle_store)
    NOBODY.set("somebody")
    await together(*appends(idle_store, range(3)))
    assert watched.contexts == ["somebody", "nobody"]


async def test_batches_go_through_every_kind_of_bind(event_store_dsn):
    psycopg_engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
    config = EventStoreConfig(dsn=event_store_dsn, transaction_pooler=True, notify=True)
    stores = [
        PostgresEventStore(config, coalesce=True),
        PostgresEventStore(bind=psycopg_engine, coalesce=True),
        PostgresEventStore(bind=async_sessionmaker(psycopg_engine), coalesce=True),
    ]
    for number, store in enumerate(map(always_together, stores)):
        for version in (1, 2):
            expected = version - 1
            answers = await together(
                *appends(store, ["a", number], 1), *appends(store, [f"{number}!"], 1, expected)
            )
            assert answers == [2 * number + version, version, version]
    for store in stores:
        await store.close()
    await psycopg_engine.dispose()


async def test_a_batch_wakes_up_who_listens(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, notify=True)
    with psycopg.connect(event_store_dsn, autocommit=True) as listener:
        listener.execute("LISTEN eventstore")
        async with PostgresEventStore(config, coalesce=True) as store:
            assert await together(*appends(always_together(store), range(3))) == [1, 1, 1]
        assert [note.channel for note in listener.notifies(timeout=10, stop_after=1)] == ["eventstore"]


async def test_what_is_neither_true_nor_false_is_refused(event_store_config):
    with pytest.raises(ConfigurationError, match="coalesce must be True or False"):
        PostgresEventStore(event_store_config, coalesce="yes")
