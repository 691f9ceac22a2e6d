"""Random schedules of transactions and readers: each reader gets each event once and in order."""

from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from k1s0_event_store import Cursor, EventStoreConfig, StreamId, SyncPostgresEventStore
from k1s0_event_store.postgres.feed import parse
from k1s0_event_store.testing.contract import new_events

from .racing import faults

READERS = 3
SLOTS = st.integers(0, 2)
runs = count(1)

FIND = "SELECT event_id, tx::text::bigint, position FROM eventstore.events WHERE aggregate_type = %s"


def step(action, **parts):
    return st.tuples(st.just(action), st.fixed_dictionaries(parts))


APPEND = step("append", slot=st.none() | SLOTS, name=st.sampled_from("abcdef"), size=st.integers(1, 6))
READ = step("read", reader=st.integers(0, READERS - 1), limit=st.sampled_from((1, 2, 3, 4, 100)))
SCHEDULES = st.lists(
    st.one_of(
        step("begin", slot=SLOTS, early=st.booleans()),
        step("savepoint", slot=SLOTS, back=st.booleans()),
        step("end", slot=SLOTS, commit=st.sampled_from((True, True, False))),
        step("read_within", slot=SLOTS, reader=st.integers(0, READERS - 1)),
        step("draw_an_id_elsewhere"),
        APPEND,
        APPEND,
        APPEND,
        READ,
        READ,
    ),
    min_size=40,
    max_size=60,
)


class Work:
    """An open transaction; it keeps others from the streams that it has appended to."""

    def __init__(self, store):
        self.connection = store.bind.connect()
        self.store = store.within(self.connection)
        self.savepoints = []
        self.names = set()


class Schedule:
    """Transactions and readers, and the steps that they take one after the other."""

    def __init__(self, store, start):
        self.store = store
        self.type = f"run-{next(runs)}"  # streams of its own: the database is not emptied between
        self.open: dict[int, Work] = {}
        self.cursors = [start] * READERS
        self.given = [[] for _ in range(READERS)]

    def begin(self, slot, early):
        if slot not in self.open:
            work = self.open[slot] = Work(self.store)
            if early:
                work.connection.execute(text("SELECT pg_current_xact_id()"))

    def append(self, slot, name, size):
        work = self.open.get(slot)
        if all(other is work or name not in other.names for other in self.open.values()):
            stream_id = StreamId(self.type, name)
            (work.store if work else self.store).append(stream_id, new_events(stream_id, size))
            if work:
                work.names.add(name)

    def savepoint(self, slot, back):
        work = self.open.get(slot)
        if work and back and work.savepoints:
            work.savepoints.pop().rollback()
        elif work:
            work.savepoints.append(work.connection.begin_nested())

    def end(self, slot, commit):
        work = self.open.pop(slot, None)
        if work:
            work.connection.commit() if commit else work.connection.rollback()
            work.connection.close()

    def draw_an_id_elsewhere(self):
        with self.store.bind.begin() as connection:
            connection.execute(text("SELECT pg_current_xact_id()"))

    def read(self, reader, limit):
        """Read, a few pages or all there is."""
        for _ in range(2 if limit < 100 else 1_000):
            if not self.turn_page(self.store, reader, limit):
                break

    def read_within(self, slot, reader):
        if slot in self.open:
            self.turn_page(self.open[slot].store, reader, 3)

    def turn_page(self, store, reader, limit):
        """Read a page; what its cursor says was read is what was read. True if there is more."""
        page = store.read_page(self.cursors[reader], limit)
        assert len(page.events) <= limit
        self.cursors[reader] = Cursor(str(page.cursor))
        self.given[reader] += page.events
        committed = self.committed()
        place, given = parse(page.cursor), {event.event_id for event in self.given[reader]}
        assert given == {event_id for event_id, tx, position in committed if place.has_read(tx, position)}
        if not page.more:
            assert given == {event_id for event_id, *_ in committed}
        return page.more

    def committed(self):
        with self.store.bind.connect() as connection:
            return connection.exec_driver_sql(FIND, (self.type,)).all()

    def finish(self):
        """End what is open, and let every reader come to the end; what they did wrong."""
        for slot in list(self.open):
            self.end(slot, slot % 2 == 0)
        for reader in range(READERS):
            while self.turn_page(self.store, reader, 2 + 3 * reader):
                pass
        committed = {event_id for event_id, *_ in self.committed()}
        return [faults(committed, events) for events in self.given]


@pytest.fixture
def store(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=8)
    with SyncPostgresEventStore(config) as store:
        yield store


def check(store, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEDULES)
    def run(steps):
        schedule = Schedule(store, store.read_page(limit=100_000).cursor)
        try:
            for action, parts in steps:
                getattr(schedule, action)(**parts)
        finally:
            wrong = schedule.finish()
        assert wrong == [set()] * READERS

    run()


def test_every_reader_of_a_random_schedule_gets_each_event_once_and_in_order(store):
    check(store, 60)
