"""What a page of the feed costs: it reads what it gives, however large the table is."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg.sql import SQL, Literal

from k1s0_event_store import EventFilter, EventStoreConfig, SyncPostgresEventStore
from k1s0_event_store.feed import EVERYTHING
from k1s0_event_store.postgres.feed import Place, TxSnapshot, parse
from k1s0_event_store.testing.plugin import cloned_database

PAGE = 100
TRANSACTIONS, EACH, LARGE = 18_000, 10, 20_000
END = TRANSACTIONS * EACH + LARGE
EARLY, IN_LARGE = END // 10, END // 2
"""Positions in an early transaction, and in the large one."""
MANY = range(END - 8_000, END - 4_000, 2 * EACH)
NOTHING = EventFilter(event_types=("Lost",))

# Transactions one after the other, each with some events.
FILL = """
DO $$ BEGIN FOR number IN {first}..{last} LOOP
    INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                                   metadata, occurred_at)
    SELECT 'order', number, n, gen_random_uuid(), 'Counted', jsonb_build_object('n', n), '{{}}', now()
    FROM generate_series(1, {each}) AS n;
    COMMIT;
END LOOP; END $$"""


def fill(connection, first, last, each=EACH):
    connection.execute(FILL.format(first=first, last=last, each=each))


@pytest.fixture(scope="module")
def filled(event_store_server, event_store_template):
    """A database that was never analyzed; in the middle of its events lies a large transaction."""
    with cloned_database(event_store_server, event_store_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE eventstore.events SET (autovacuum_enabled = off)")
            fill(connection, 1, TRANSACTIONS // 2)
            fill(connection, 0, 0, LARGE)
            fill(connection, TRANSACTIONS // 2 + 1, TRANSACTIONS)
            name = connection.info.dbname
        yield name


@pytest.fixture(scope="module", params=["without statistics", "with statistics"])
def database(request, event_store_server, filled):
    """A copy of it."""
    with cloned_database(event_store_server, filled) as dsn, watched(dsn) as database:
        if request.param == "with statistics":
            database.connection.execute("ANALYZE eventstore.events")
        yield database


@pytest.fixture
def copied(event_store_server, filled):
    """A copy for one test that writes."""
    with cloned_database(event_store_server, filled) as dsn, watched(dsn) as database:
        yield database


@contextmanager
def watched(dsn):
    with (
        SyncPostgresEventStore(EventStoreConfig(dsn=dsn)) as store,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        yield Watched(dsn, store, connection)


class Watched:
    """A database whose store notes the queries that it sends."""

    def __init__(self, dsn, store, connection):
        self.dsn, self.store, self.connection = dsn, store, connection
        self.queries = []
        fetch = store._runner.fetch

        def noted(query):
            self.queries.append(query)
            return fetch(query)

        store._runner.fetch = noted

    def place(self, position, running=()):
        """The place after the event at `position`, while the writers of those at `running` were not done."""
        cluster = parse(self.store.read_page(limit=1).cursor).cluster
        find = "SELECT tx::text::bigint FROM eventstore.events WHERE position = ANY (%s) ORDER BY tx"
        (last,), *_ = self.connection.execute(find, ([max(position, 1)],))
        xmax = last + 1 if position else last
        ids = tuple(tx for (tx,) in self.connection.execute(find, (list(running),)))
        return Place(cluster, TxSnapshot(min((*ids, xmax)), xmax, ids)).cursor()

    def read(self, after, only=EVERYTHING):
        """A page and the plans of the statements that it took, by their names."""
        self.queries.clear()
        page = self.store.read_page(after, PAGE, only=only)
        names = {statement: name for name, statement in vars(self.store._sql).items()}
        plans = []
        for mode in ("force_generic_plan", "force_custom_plan"):
            self.connection.execute(f"SET plan_cache_mode = {mode}")
            plans += [Plan(names[query.statement], self._explain(query)) for query in self.queries]
        return page, plans

    def _explain(self, query):
        self.connection.execute(b"PREPARE page AS " + query.statement.dollar.encode())
        args = SQL("({})").format(SQL(", ").join(map(Literal, query.args))) if query.args else SQL("")
        explain = SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page") + args
        ((plan,),) = self.connection.execute(explain).fetchall()
        self.connection.execute("DEALLOCATE page")
        return plan[0]["Plan"]


@dataclass(frozen=True)
class Plan:
    """What the execution of a statement did."""

    name: str
    root: dict = field(repr=False)

    def nodes(self):
        def walk(node):
            yield node
            for child in node.get("Plans", ()):
                yield from walk(child)

        return list(walk(self.root))

    @property
    def buffers(self):
        return self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"]

    @property
    def on_events(self):
        return [node for node in self.nodes() if node.get("Relation Name") == "events"]

    @property
    def rows_read(self):
        """Rows that were taken from the table of events, wanted or not."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.on_events
        )

    @property
    def rows_sorted(self):
        sorted_by = [node["Plans"][0] for node in self.nodes() if node["Node Type"].endswith("Sort")]
        return sum(node["Actual Rows"] * node["Actual Loops"] for node in sorted_by)


def check(plans, late=()):
    """No plan reads more than a page, and of what is late (so many rows each) a page each."""
    rows = PAGE + 1 + sum(min(PAGE + 1, rows) for rows in late)
    for plan in plans:
        assert "Seq Scan" not in [node["Node Type"] for node in plan.on_events]
        assert plan.rows_read <= rows
        assert plan.rows_sorted <= rows
        assert plan.buffers <= 20 + 6 * len(late)


# Where the reader stands (after which event, with whose writers late, how many pages on), what it gets.
PLACES = {
    "caught up": (END, [], 0, 0),
    "slightly behind": (END - 30, [], 0, 30),
    "in the middle of a long batch": (END // 4, [], 3, PAGE),
    "on, having begun at an empty store": (0, [], 1, PAGE),
    "caught up but for a late transaction": (END, [EARLY], 0, EACH),
    "slightly behind, with a late transaction": (END - 30, [EARLY], 0, 30 + EACH),
    "in a large late transaction": (END - 30, [IN_LARGE], 1, PAGE),
    "far behind and in a large late transaction": (END - 20_000, [EARLY, IN_LARGE], 1, PAGE),
    "far behind and beyond what is late": (END - 20_000, [EARLY], 1, PAGE),
}


@pytest.mark.parametrize("where", PLACES)
def test_a_page_reads_what_it_gives(database, where):
    position, running, pages, count = PLACES[where]
    cursor = database.place(position, running)
    for _ in range(pages):
        cursor = database.store.read_page(cursor, PAGE).cursor
    page, plans = database.read(cursor)
    assert len(page.events) == count
    assert "feed_floor" not in [plan.name for plan in plans]
    check(plans, [LARGE if number == IN_LARGE else EACH for number in running])


def test_a_page_from_the_beginning_reads_what_it_gives(database):
    page, plans = database.read(None)
    assert len(page.events) == PAGE
    check(plans)
    page, plans = database.read(page.cursor)
    assert (len(page.events), len(plans)) == (PAGE, 2)
    check(plans)


def test_a_page_in_which_nothing_is_wanted_looks_no_further(database):
    for position in (END // 4, END - 30):
        first = database.store.read_page(database.place(position), PAGE, only=NOTHING)
        page, plans = database.read(first.cursor, NOTHING)
        assert page.events == []
        check(plans)


@pytest.mark.parametrize("position", [0, END // 4])
def test_only_the_first_page_of_a_long_batch_looks_at_all_of_it(database, position):
    _, plans = database.read(database.place(position))
    assert [plan.name for plan in plans] == ["feed_now", "feed_fresh", "feed_floor", "feed_walk"] * 2
    check([plan for plan in plans if plan.name != "feed_floor"])
    for plan in plans:
        assert plan.rows_sorted == 0
        assert plan.rows_read <= END


def test_the_beginning_of_a_short_batch_is_found_in_the_index(database):
    _, plans = database.read(database.place(END - 2 * PAGE))
    floors = [plan for plan in plans if plan.name == "feed_floor"]
    assert len(floors) == 2
    assert all(plan.rows_read == 2 * PAGE and plan.buffers < 20 for plan in floors)


def test_each_of_many_late_transactions_is_one_look_into_the_index(database):
    page, plans = database.read(database.place(END - 30, MANY))
    assert len(page.events) == PAGE
    check(plans, [EACH] * len(MANY))


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_poll_reads_only_what_is_new_however_long_a_writer_is_open(copied, analyzed):
    connection, store = copied.connection, copied.store
    cursor = copied.place(END)
    with psycopg.connect(copied.dsn) as other:
        other.execute("SELECT pg_current_xact_id()")
        for number in range(2):
            fill(connection, TRANSACTIONS + 1 + 1_000 * number, TRANSACTIONS + 1_000 * (number + 1))
            if analyzed:
                connection.execute("ANALYZE eventstore.events")
            page = store.read_page(cursor, 100_000)
            assert len(page.events) == 10_000
            cursor = page.cursor
        fill(connection, 2 * TRANSACTIONS, 2 * TRANSACTIONS + 2)
        page, plans = copied.read(cursor)
        assert len(page.events) == 3 * EACH
        check(plans)
        assert sum(plan.rows_read for plan in plans if plan.name == "feed_fresh") == 2 * 3 * EACH
        other.rollback()
    page, plans = copied.read(page.cursor)
    assert page.events == []
    check(plans, [0])
