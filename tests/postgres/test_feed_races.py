"""The feed while others write: nothing lost, nothing twice, in order, and nothing stalls."""

import asyncio
import copy
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import psycopg
import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, InvalidInputError, PostgresEventStore
from k1s0_event_store.testing.contract import events_of, new_events, read_pages

from .racing import (
    STEPS,
    WRITERS,
    Interrupted,
    Reader,
    Transaction,
    Writer,
    faults,
    follow,
    ids,
    mutated,
    stream,
)


@pytest.fixture
async def store(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=WRITERS + 8, max_overflow=0)
    async with PostgresEventStore(config) as store:
        yield store


class PositionReader(Reader):
    """What a feed must not be: the next events are those with a higher position."""

    async def read(self):
        async with self.store.bind.connect() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT position, aggregate_id, version, event_id FROM eventstore.events "
                "WHERE position > $1 ORDER BY position",
                (self.cursor or 0,),
            )
            for self.cursor, name, version, event_id in rows.all():
                event = EventEnvelope(stream(name), "Counted", {}, event_id=event_id)
                self.events.append(replace(event, version=version))


class Stage:
    """Where a scene plays: writers that do what the scene says, and one reader."""

    def __init__(self, store, stack, limit, statements, reader):
        self._store, self._stack = store, stack
        self.stalled = False
        watching = PostgresEventStore(store.config, bind=store.bind)
        watching._sql = statements or store._sql
        watching._runner = self._runner = Interrupted(watching._runner, watching._sql.feed_now)
        self.reader = reader(watching, limit)

    async def begin(self):
        connection = await self._stack.enter_async_context(self._store.bind.connect())
        return Transaction(self._store, connection)

    async def append(self, name, count=1):
        await self._store.append(stream(name), new_events(stream(name), count))

    async def read(self, at_least=0):
        """Read; `at_least` so many events must have come by then."""
        await self.reader.read()
        self.stalled |= len(self.reader.events) < at_least

    def after_look(self, call):
        """Do this between the next look at the server and the page that follows."""
        self._runner.call = call


async def play(scene, store, sql, limit, statements=None, reader=Reader):
    """Play the scene; what the reader did wrong."""
    async with AsyncExitStack() as stack:
        stage = Stage(store, stack, limit, statements, reader)
        await scene(stage)
    await stage.read()
    return faults(ids(sql), stage.reader.events) | ({"stalled"} if stage.stalled else set())


async def the_lower_position_is_committed_later(stage):
    slow = await stage.begin()
    await slow.append("a")
    await stage.append("b")
    await stage.read(at_least=1)
    await slow.commit()
    await stage.append("b")


async def the_lower_position_is_committed_first(stage):
    first, second = await stage.begin(), await stage.begin()
    await first.append("a")
    await second.append("b")
    await first.commit()
    await stage.read(at_least=1)
    await second.commit()


async def one_transaction_ends_between_the_look_and_the_page(stage):
    await stage.append("a")
    await stage.read(at_least=1)
    slow = await stage.begin()
    await slow.append("b")
    await stage.append("a")
    stage.after_look(slow.commit)
    await stage.read(at_least=2)


async def an_id_that_was_not_yet_counted_has_a_low_position(stage):
    """The id of `slow` is the xmax of the snapshot that is read first, and no part of its list."""
    early, slow = await stage.begin(), await stage.begin()
    await early.draw_id()
    await slow.append("a")
    await early.append("b")
    await early.commit()
    await stage.read(at_least=1)
    await stage.append("c", 9)
    await slow.commit()


async def a_large_transaction_lies_over_page_borders(stage):
    large = await stage.begin()
    for _ in range(6):
        await large.append("a", 4)
        await stage.append("b")
    await stage.read(at_least=6)
    await large.commit()


async def a_large_transaction_is_late_among_much_that_is_new(stage):
    large = await stage.begin()
    await large.append("a", 9)
    await stage.append("b")
    await stage.read(at_least=1)
    for _ in range(6):
        await large.append("a", 2)
        await stage.append("b", 2)
    await large.commit()


async def an_early_id_appends_after_a_later_one(stage):
    """No snapshot cut at an id has this right: `idle` lies between the two."""
    early, idle = await stage.begin(), await stage.begin()
    await early.draw_id()
    await idle.append("b")
    await stage.append("a", 2)
    await early.append("a", 2)
    await early.commit()
    await stage.read(at_least=4)
    await idle.commit()


async def many_slow_transactions_end_in_another_order(stage):
    slow = [await stage.begin() for _ in range(5)]
    for number, transaction in enumerate(slow):
        await transaction.append(f"s{number}")
        await transaction.undo(f"s{number}")
        await stage.append("b")
    await stage.read(at_least=5)
    await slow[0].draw_id()
    for number in (3, 1, 4):
        await slow[number].append(f"s{number}", 2)
        await stage.append("b", 3)
        await (slow[number].rollback() if number == 1 else slow[number].commit())
        await stage.read()
    await slow[2].append("s2", 8)
    await slow[2].commit()
    await stage.append("b", 7)
    await stage.read(at_least=32)
    await slow[0].commit()


SCENES = (
    the_lower_position_is_committed_later,
    the_lower_position_is_committed_first,
    one_transaction_ends_between_the_look_and_the_page,
    an_id_that_was_not_yet_counted_has_a_low_position,
    a_large_transaction_lies_over_page_borders,
    a_large_transaction_is_late_among_much_that_is_new,
    an_early_id_appends_after_a_later_one,
    many_slow_transactions_end_in_another_order,
)


@pytest.mark.parametrize("limit", [1, 5, 1_000])
@pytest.mark.parametrize("scene", SCENES)
async def test_each_event_is_read_once_and_in_order(store, sql, scene, limit):
    assert await play(scene, store, sql, limit) == set()


@pytest.mark.parametrize("scene", SCENES)
async def test_each_event_is_read_once_and_in_order_with_the_look_of_a_standby(store, sql, scene):
    assert await play(scene, store, sql, 2, as_standby(store._sql)) == set()


# What is changed in which statements, a scene that the changed feed must fail in, and how.
MUTANTS = {
    "the running transactions of a snapshot are left out": (
        ("feed_now",),
        "pg_current_snapshot()::text",
        "regexp_replace(pg_current_snapshot()::text, '[0-9,]*$', '')",
        the_lower_position_is_committed_later,
        "lost",
    ),
    "reading waits for the oldest transaction": (
        ("feed_now",),
        "pg_current_snapshot()::text",
        "concat(pg_snapshot_xmin(pg_current_snapshot()), ':', pg_snapshot_xmin(pg_current_snapshot()), ':')",
        the_lower_position_is_committed_later,
        "stalled",
    ),
    "what lies below the oldest transaction is read": (
        ("feed_now",),
        "pg_current_snapshot()::text",
        "concat(pg_snapshot_xmin(pg_current_snapshot()), ':', pg_snapshot_xmin(pg_current_snapshot()), ':')",
        an_early_id_appends_after_a_later_one,
        "out of order",
    ),
    "what is late is left out": (
        ("feed_fresh", "feed_walk"),
        "unnest((SELECT $7::text[]))",
        "unnest(($7::text[])[:0])",
        the_lower_position_is_committed_later,
        "lost",
    ),
    "everything that is committed is read": (
        ("feed_fresh", "feed_walk"),
        "pg_visible_in_snapshot(tx, (SELECT $6::text::pg_snapshot))",
        "$6::text IS NOT NULL",
        one_transaction_ends_between_the_look_and_the_page,
        "twice",
    ),
    "the walk begins after what was read": (
        ("feed_floor",),
        "SELECT min(position)",
        "SELECT (SELECT max(position) + 1 FROM {events} WHERE tx < $1::text::xid8) + 0 * min(position)",
        an_id_that_was_not_yet_counted_has_a_low_position,
        "lost",
    ),
    "the walk reads again what was read": (
        ("feed_walk",),
        "NOT pg_visible_in_snapshot(tx, (SELECT $10::text::pg_snapshot))",
        "$10::text IS NOT NULL",
        an_id_that_was_not_yet_counted_has_a_low_position,
        "twice",
    ),
    "what is late is merged in where the walk finds it too": (
        ("feed_walk",),
        "e.position <= (SELECT $9::bigint)",
        "$9::bigint IS NOT NULL",
        a_large_transaction_is_late_among_much_that_is_new,
        "twice",
    ),
}


def as_standby(statements):
    """Statements that take the server for a standby, whose snapshot lists no running transactions."""
    listless = mutated(
        statements, ("feed_now",), "pg_current_snapshot()::text",
        "regexp_replace(pg_current_snapshot()::text, '[0-9,]*$', '')",
    )  # fmt: skip
    return mutated(listless, ("feed_now",), "pg_is_in_recovery()", "true")


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_feed_with_less_care_is_found_out(store, sql, mutant):
    names, old, new, scene, fault = MUTANTS[mutant]
    statements = mutated(store._sql, names, old, new)
    assert fault in await play(scene, store, sql, 5, statements)


async def test_a_feed_by_position_is_found_out(store, sql):
    scene = the_lower_position_is_committed_later
    assert "lost" in await play(scene, store, sql, 5, reader=PositionReader)


@contextmanager
def open_elsewhere(dsn):
    """A transaction that writes in another database of the cluster."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        yield
        connection.rollback()


async def test_readers_keep_up_with_sixteen_racing_writers(store, sql, event_store_server):
    readers = [Reader(store, limit) for limit in (5, 50, 1_000)]
    readers[1].store = copy.copy(store)
    readers[1].store._sql = as_standby(store._sql)
    by_position = PositionReader(store, 0)
    done = False
    async with AsyncExitStack() as stack:
        stack.enter_context(open_elsewhere(event_store_server))
        connection = await stack.enter_async_context(store.bind.connect())
        long = Transaction(store, connection)
        await long.append("long")
        following = [asyncio.create_task(follow(reader, lambda: done)) for reader in (*readers, by_position)]
        await asyncio.gather(*(Writer(store, number).run() for number in range(WRITERS)))
        done = True
        await asyncio.gather(*following)
        for reader in readers:
            await reader.read()
            # The long transaction and the one elsewhere are still open.
            assert faults(ids(sql), reader.events) == set()
        assert len(readers[0].events) > WRITERS * STEPS
        await long.append("long", 30)
        await long.commit()
    for reader in (*readers, by_position):
        await reader.read()
    committed = ids(sql)
    assert [faults(committed, reader.events) for reader in readers] == [set()] * 3
    assert "lost" in faults(committed, by_position.events)


async def test_a_transaction_reads_its_own_events_only_after_its_commit(store, sql):
    await store.append(stream("a"), new_events(stream("a"), 3))
    async with store.bind.connect() as connection:
        own = Transaction(store, connection)
        await own.append("b")
        await store.append(stream("a"), new_events(stream("a"), 1))
        reader = Reader(own.store, 2)
        reader._begin_anew = lambda: None
        for _ in range(2):
            await own.append("b", 4)
            await store.append(stream("a"), new_events(stream("a"), 2))
            await reader.read()
            assert {event.stream_id for event in reader.events} == {stream("a")}
        assert len(reader.events) == 8
        await connection.commit()
        reader.store = store
        await reader.read()
    assert len(reader.events) == 17
    assert faults(ids(sql), reader.events) == set()


async def test_events_that_are_rolled_back_after_their_own_transaction_read_on_are_never_given(store, sql):
    async with store.bind.connect() as connection:
        own = Transaction(store, connection)
        await own.append("b", 3)
        await store.append(stream("a"), new_events(stream("a"), 3))
        reader = Reader(own.store, 2)
        reader._begin_anew = lambda: None
        await reader.read()
        await own.rollback()
    reader.store = store
    await store.append(stream("a"), new_events(stream("a"), 1))
    await reader.read()
    assert len(reader.events) == 4
    assert faults(ids(sql), reader.events) == set()


async def test_a_transaction_that_sees_only_the_past_waits_at_a_newer_place(store, sql):
    async with store.bind.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        past = store.within(connection)
        await store.append(stream("a"), new_events(stream("a"), 3))
        assert len(events_of(await read_pages(past))) == 3
        await store.append(stream("a"), new_events(stream("a"), 3))
        end = (await store.read_page()).cursor
        await store.append(stream("a"), new_events(stream("a"), 3))
        page = await past.read_page(end)
        assert (page.events, page.cursor, page.more) == ([], end, False)
        page = await past.read_page(None, until=end)
        assert (page.events, page.more) == ([], False)
    assert len(events_of(await read_pages(store, end))) == 3
    assert len(events_of(await read_pages(store, page.cursor))) == 9


async def test_a_reading_can_end_inside_the_part_that_another_one_has_begun(store):
    await store.append(stream("a"), new_events(stream("a"), 4))
    middle = (await store.read_page()).cursor
    await store.append(stream("a"), new_events(stream("a"), 4))
    begun = (await store.read_page(None, 2)).cursor
    pages = await read_pages(store, begun, 1, until=middle)
    assert [event.version for event in events_of(pages)] == [3, 4]
    assert pages[-1].cursor == middle
    whole = await store.read_page()
    begun = whole.cursor_after(whole.events[1])
    pages = await read_pages(store, begun, 100, until=whole.cursor_after(whole.events[5]))
    assert [event.version for event in events_of(pages)] == [3, 4, 5, 6]


async def test_a_reading_cannot_end_where_two_parts_overlap(store):
    await store.append(stream("a"), new_events(stream("a"), 4))
    first = await store.read_page()
    await store.append(stream("a"), new_events(stream("a"), 4))
    second = await store.read_page(first.cursor)
    begun = (await store.read_page(None, 2)).cursor
    with pytest.raises(InvalidInputError, match="not on the way"):
        await store.read_page(begun, until=second.cursor_after(second.events[1]))
