"""The hash chain: on every way into the table the trigger makes the links that Python makes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql as names
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    ChainBrokenError,
    ConfigurationError,
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    SchemaError,
    StreamId,
)
from k1s0_event_store.chain import BEGINNING, Content, link
from k1s0_event_store.postgres import operations
from k1s0_event_store.postgres.chain import add_chain, remove_chain
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.plugin import cloned_database

from ..chained import add, chained_template, tamper

ORDER, CART = StreamId("order", "o-1"), StreamId("cart", "c-1")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENTS = """
SELECT aggregate_type, aggregate_id, version, event_id, event_type, occurred_at, recorded_at,
       payload::text, metadata::text, chain FROM eventstore.events
ORDER BY aggregate_type, aggregate_id, version"""

STREAM = """
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload, metadata,
                               occurred_at)
SELECT 'order', 'long', n, gen_random_uuid(), 'Counted', '{}', '{}', now()
FROM generate_series(%s::int, %s::int) AS n"""


@pytest.fixture(scope="module")
def chained(event_store_server, event_store_template):
    with chained_template(event_store_server, event_store_template) as name:
        yield name


def microseconds(time):
    return (time - EPOCH) // timedelta(microseconds=1)


def expected(rows):
    """The links of rows, as Python makes them."""
    made, previous, stream = [], BEGINNING, None
    for *place, version, event_id, event_type, occurred, recorded, payload, metadata, _ in rows:
        if place != stream:
            previous, stream = BEGINNING, place
        content = Content(
            *place, version, str(event_id), event_type, microseconds(occurred), microseconds(recorded),
            payload, metadata,
        )  # fmt: skip
        previous = link(previous, content)
        made.append(previous)
    return made


def check(sql, count):
    """All events are there, and each has the link that Python makes."""
    rows = sql(EVENTS)
    assert len(rows) == count
    assert [row[-1] for row in rows] == expected(rows)


async def waiting_for_a_lock(sql):
    for _ in range(6_000):
        if sql("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'eventstore.events'::regclass"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def append_all_ways(store, monkeypatch):
    """By one event, by several, in sessions, together with others, by COPY, and by an import: 41 events."""
    await store.append(ORDER, new_events(ORDER, 1))
    await store.append(ORDER, new_events(ORDER, 1), 1)
    await store.append(ORDER, new_events(ORDER, 5), 2)
    await store.append(CART, new_events(CART, 3), 0)
    async with AsyncSession(store.bind) as session, session.begin():
        joined = store.within(session)
        await joined.append(ORDER, new_events(ORDER, 2))
        await joined.append(CART, new_events(CART, 2))
        await joined.append(ORDER, new_events(ORDER, 1))
    async with PostgresEventStore(store.config, bind=store.bind, coalesce=True) as together:
        streams = [StreamId("together", str(number % 4)) for number in range(16)]
        await asyncio.gather(*(together.append(each, new_events(each, 1)) for each in streams))
    with monkeypatch.context() as patched:
        patched.setattr(operations, "BY_COPY", 1)
        await store.append(CART, new_events(CART, 4))
    imported = StreamId("imported", "1")
    await store.import_batch(
        [EventEnvelope(imported, "Counted", {}, version=version, event_id=uuid4()) for version in range(1, 7)]
    )


class TestOnChainedTables:
    @pytest.fixture
    def event_store_dsn(self, event_store_server, chained):
        with cloned_database(event_store_server, chained) as dsn:
            yield dsn

    async def test_every_way_into_the_table_makes_the_links_that_python_makes(
        self, event_store, sql, monkeypatch
    ):
        await append_all_ways(event_store, monkeypatch)
        check(sql, 41)

    async def test_writers_that_race_make_one_chain(self, event_store, sql):
        async def write(writer):
            for number in range(10):
                await event_store.append(ORDER, new_events(ORDER, 1 + (writer + number) % 3))

        await asyncio.gather(*map(write, range(8)))
        check(sql, sum(1 + (writer + number) % 3 for writer in range(8) for number in range(10)))

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    async def test_a_chain_goes_on_at_every_isolation_level(self, event_store, sql, isolation):
        await event_store.append(ORDER, new_events(ORDER, 2))
        async with event_store.bind.connect() as connection:
            await connection.execution_options(isolation_level=isolation)
            joined = event_store.within(connection)
            for count in (1, 3, 150):
                await joined.append(ORDER, new_events(ORDER, count))
            await connection.commit()
        check(sql, 156)

    @pytest.mark.parametrize("count", [1, 5, 500])
    async def test_an_append_after_a_missing_event_is_refused_and_stores_nothing(
        self, event_store, event_store_dsn, sql, count
    ):
        await event_store.append(ORDER, new_events(ORDER, 3))
        tamper(event_store_dsn, "DELETE FROM events WHERE version = 3")
        with pytest.raises(ChainBrokenError, match="version 4 of order o-1 has no event before it"):
            await event_store.append(ORDER, new_events(ORDER, count))
        assert await event_store.current_version(ORDER) == 3
        check(sql, 2)

    async def test_nobody_chooses_a_link(self, event_store, sql):
        sql(
            "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,"
            " payload, metadata, occurred_at, chain) VALUES ('order', 'o-1', 1, gen_random_uuid(), 'Forged',"
            " '{}', '{}', now(), '\\x00')"
        )
        check(sql, 1)

    @pytest.mark.parametrize("analyzed", [False, True])
    async def test_a_plan_made_for_a_small_table_never_reads_a_large_one(self, event_store, sql, analyzed):
        """Also where PostgreSQL knows, by its statistics, that there are a few events."""
        await event_store.append(CART, new_events(CART, 3))
        sql("VACUUM ANALYZE eventstore.events" if analyzed else "SELECT 1")
        sql("BEGIN")
        for first, last in ((1, 1), (2, 20), (21, 1_000)):
            sql(STREAM, first, last)
        used = sql(
            "SELECT pg_stat_get_xact_numscans('eventstore.events'::regclass),"
            " pg_stat_get_xact_numscans('eventstore.uq_events_version'::regclass)"
        )
        sql("COMMIT")
        assert used == [(0, 999)]
        check(sql, 1_003)

    async def test_the_chain_is_there_once(self, event_store, event_store_dsn, sql):
        await event_store.append(ORDER, new_events(ORDER, 3))
        assert add(event_store_dsn) is None
        check(sql, 3)

    async def test_removing_leaves_the_events_and_nothing_of_the_chain(
        self, event_store, event_store_config, event_store_dsn, sql
    ):
        await event_store.append(ORDER, new_events(ORDER, 3))
        assert await in_transaction(event_store_config, remove_chain)
        assert not await in_transaction(event_store_config, remove_chain)
        await event_store.append(ORDER, new_events(ORDER, 1), 3)
        await event_store.validate()
        assert sql("SELECT count(*) FROM pg_proc WHERE proname = 'events_chain'") == [(0,)]
        with pytest.raises(psycopg.errors.UndefinedColumn):
            sql("SELECT chain FROM eventstore.events")
        assert add(event_store_dsn) == 4
        check(sql, 4)

    @pytest.mark.parametrize(
        "damage",
        [
            "ALTER TABLE eventstore.events DISABLE TRIGGER trigger_events_chain",
            "ALTER TABLE eventstore.events ENABLE REPLICA TRIGGER trigger_events_chain",
            "DROP TRIGGER trigger_events_chain ON eventstore.events",
        ],
    )
    async def test_a_chain_without_its_trigger_is_not_valid(self, event_store, sql, damage):
        await event_store.validate()
        sql(damage)
        with pytest.raises(SchemaError, match="trigger trigger_events_chain on events is missing or disab"):
            await event_store.validate()

    async def test_half_a_chain_is_not_added_to_but_removed(self, event_store_config, event_store_dsn, sql):
        sql("DROP TRIGGER trigger_events_chain ON eventstore.events")
        with pytest.raises(SchemaError, match="half a chain"):
            add(event_store_dsn)
        assert await in_transaction(event_store_config, remove_chain)
        assert add(event_store_dsn) == 0

    async def test_a_downgrade_is_refused_until_the_chain_is_removed(self, event_store_config, sql):
        def downgrade(connection):
            downgrade_database(connection, to="0004")

        with pytest.raises(ConfigurationError, match="k1s0-event-store chain remove"):
            await in_transaction(event_store_config, downgrade)
        assert sql("SELECT version_num FROM eventstore.k1s0_event_store_version") == [("0005",)]
        await in_transaction(event_store_config, remove_chain)
        await in_transaction(event_store_config, downgrade)
        with pytest.raises(SchemaError, match="at revision 0004, below 0005"):
            await in_transaction(event_store_config, add_chain)

    async def test_events_stay_append_only(self, event_store, sql):
        await event_store.append(ORDER, new_events(ORDER, 1))
        for change in ("UPDATE eventstore.events SET chain = ''", "DELETE FROM eventstore.events"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                sql(change)


async def test_what_was_there_before_has_the_links_that_it_would_have_had(
    event_store, event_store_dsn, sql, monkeypatch
):
    await append_all_ways(event_store, monkeypatch)
    assert add(event_store_dsn) == 41
    check(sql, 41)
    await event_store.append(ORDER, new_events(ORDER, 2))
    check(sql, 43)
    await event_store.validate()


async def test_events_with_a_gap_are_not_chained(event_store, event_store_dsn, sql):
    await event_store.append(ORDER, new_events(ORDER, 3))
    tamper(event_store_dsn, "DELETE FROM events WHERE version = 2")
    with pytest.raises(ChainBrokenError, match="version 3 of order o-1"):
        add(event_store_dsn)
    await event_store.validate()
    with pytest.raises(psycopg.errors.UndefinedColumn):
        sql("SELECT chain FROM eventstore.events")


async def test_appends_wait_while_the_chain_is_added_and_are_chained_then(
    event_store, event_store_config, sql
):
    """One that has begun before is waited for, one that has read before goes on after it."""
    await event_store.append(ORDER, new_events(ORDER, 2))
    async with event_store.bind.connect() as connection:
        joined = event_store.within(connection)
        await joined.append(ORDER, new_events(ORDER, 1))
        adding = asyncio.create_task(in_transaction(event_store_config, add_chain))
        await waiting_for_a_lock(sql)
        others = [
            asyncio.create_task(event_store.append(each, new_events(each, 2)))
            for each in (CART, StreamId("cart", "c-2"))
        ]
        await joined.append(ORDER, new_events(ORDER, 1))
        await connection.commit()
        assert await adding == 4
    await asyncio.gather(*others)
    check(sql, 8)


async def test_a_schema_of_any_name_is_chained(event_store_dsn, sql):
    schema = 'a\'b "c" %d {x} $$ \\ :y'
    config = EventStoreConfig(dsn=event_store_dsn, schema=schema)
    await in_transaction(config, lambda connection: upgrade_database(connection, schema))
    async with PostgresEventStore(config) as store:
        await store.append(ORDER, new_events(ORDER, 2))
        assert add(event_store_dsn, schema) == 2
        assert await in_transaction(config, lambda connection: add_chain(connection, schema)) is None
        await store.append(ORDER, new_events(ORDER, 150))
        await store.validate()
        rows = sql(names.SQL(EVENTS.replace("eventstore", "{}")).format(names.Identifier(schema)))
        assert [row[-1] for row in rows] == expected(rows)
        assert await in_transaction(config, lambda connection: remove_chain(connection, schema))


async def test_a_column_of_the_apps_is_no_chain(event_store, event_store_config, sql):
    sql("ALTER TABLE eventstore.events ADD chain text")
    await event_store.validate()
    assert not await in_transaction(event_store_config, remove_chain)


@pytest.mark.parametrize("work", [add_chain, remove_chain])
async def test_without_tables_there_is_nothing_to_chain(event_store_config, work):
    if work is add_chain:
        with pytest.raises(SchemaError, match="at revision base, below 0005"):
            await in_transaction(event_store_config, lambda connection: work(connection, "other"))
    else:
        assert not await in_transaction(event_store_config, lambda connection: work(connection, "other"))


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
ODD = st.text(st.sampled_from('\x01\b\t\n\f\r\x1f "\\/\x7f\x80\u2028\ufeff\U0001f600é{}[],:'), max_size=20)
NUMBERS = st.one_of(
    st.integers(), st.integers(10**300, 10**310), st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    TEXTS | ODD | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | ODD, inner, max_size=3),
    max_leaves=8,
)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(UTC))
TRIGGERED = """
INSERT INTO {schema}.events (aggregate_type, aggregate_id, version, event_id, event_type, payload, metadata,
    occurred_at, recorded_at) VALUES (%s, %s, %s, %s, %s, %s::text::json, %s::text::json, %s, %s)
RETURNING chain"""


def test_any_event_has_the_same_link_in_python_and_in_the_server(event_store_dsn):
    """Whatever the session's settings are."""
    add(event_store_dsn)
    statement = TRIGGERED.replace("{schema}", "eventstore").encode()
    with psycopg.connect(event_store_dsn) as connection:
        connection.execute("SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German'")
        connection.execute("SET extra_float_digits = -15; SET bytea_output = 'escape'")
        connection.execute("SET search_path = public; SET standard_conforming_strings = off")

        @settings(max_examples=200, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(
            st.tuples(TEXTS | ODD, TEXTS | ODD, TEXTS | ODD), st.uuids(), JSON,
            st.dictionaries(TEXTS | ODD, JSON, max_size=2), TIMES, TIMES, st.booleans(),
        )  # fmt: skip
        def compare(texts, event_id, payload, metadata, occurred, recorded, ascii_only):
            aggregate_type, aggregate_id, event_type = texts
            written = [json.dumps(value, ensure_ascii=ascii_only) for value in (payload, metadata)]
            if "\\u0000" in "".join(written):
                return
            previous = BEGINNING
            for version in (1, 2):
                of_version = UUID(int=event_id.int ^ version)
                row = (aggregate_type, aggregate_id, version, of_version, event_type, *written)
                ((found,),) = connection.execute(statement, (*row, occurred, recorded)).fetchall()
                content = Content(
                    aggregate_type, aggregate_id, version, str(of_version), event_type,
                    microseconds(occurred), microseconds(recorded), *written,
                )  # fmt: skip
                previous = link(previous, content)
                assert found == previous
            connection.rollback()
            connection.execute("SET timezone = 'America/St_Johns'")

        compare()
