"""Whoever may create functions in a schema of the search path is never called by us.

PostgreSQL looks into all schemas of the path for the function or operator that fits the parameters best:
`public.unnest(text[])` goes before its own `unnest(anyarray)` (CVE-2018-1058). Here such traps are
laid for what the library calls, and the contract suites run in between.
"""

import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.postgres.chain import add_chain, remove_chain
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.connection import create_sync_store_engine
from k1s0_event_store.postgres.diagnosis import PostgresDoctor, Severity
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.postgres.rebase import rebase
from k1s0_event_store.postgres.rights import grant
from k1s0_event_store.postgres.schema import BASE, downgrade_database, upgrade_database
from k1s0_event_store.postgres.statistics import PostgresStatistics
from k1s0_event_store.postgres.verification import PostgresVerifier
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.key_contract import KeyStoreContract
from k1s0_event_store.testing.plugin import cloned_database
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract
from tests.contract.stores import WRAPPING, EventsAlone, Postgres

from ..long_form import one_in

ORDER = StreamId("order", "o-1")

# Functions of one and two parameters, and operators, that fit exactly what is more general in pg_catalog.
TRAPS = """
CREATE FUNCTION public.trap() RETURNS text LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'a trap was called' USING ERRCODE = 'TRAPS'; END $$;
GRANT USAGE, CREATE ON SCHEMA public TO public;
DO $traps$
DECLARE
    body text := 'BEGIN RETURN public.trap(); END';
    kinds text[] := '{text,text[],integer,bigint,xid8,xid8[],json,boolean,interval,timestamptz}';
    called record; one text; other text;
BEGIN
    FOR called IN
        SELECT proname AS name, max(pronargs) > 1 OR bool_or(provariadic > 0) AS takes_two
        FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ({called}) GROUP BY 1
    LOOP
        FOREACH one IN ARRAY kinds LOOP
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS text LANGUAGE plpgsql AS %L',
                           called.name, one, body);
            CONTINUE WHEN NOT called.takes_two;
            FOREACH other IN ARRAY kinds LOOP
                EXECUTE format('CREATE FUNCTION public.%I(%s, %s) RETURNS text LANGUAGE plpgsql AS %L',
                               called.name, one, other, body);
            END LOOP;
        END LOOP;
    END LOOP;
    FOREACH one IN ARRAY kinds LOOP
        FOREACH other IN ARRAY kinds LOOP
            EXECUTE format('CREATE FUNCTION public.between(%s, %s) RETURNS boolean LANGUAGE plpgsql AS %L',
                           one, other, 'BEGIN PERFORM public.trap(); END');
            FOREACH called.name IN ARRAY '{->>,*,||,+,-,/,=,<>,<,>,<=,>=,~}'::text[] LOOP
                EXECUTE format(
                    'CREATE OPERATOR public.%s (FUNCTION = public.between, LEFTARG = %s, RIGHTARG = %s)',
                    called.name, one, other);
            END LOOP;
        END LOOP;
    END LOOP;
END $traps$
"""
# Not array_agg, which asyncpg calls as well, when it asks for types that it does not know yet.
CALLED = [
    "abs", "bool_and", "bool_or", "count", "current_setting", "format_type", "generate_series",
    "hashtextextended", "lag", "left", "length", "max", "min", "mod", "num_nonnulls", "pg_get_userbyid",
    "pg_table_size", "pg_visible_in_snapshot", "set_config", "strpos", "sum", "timestamptz_send", "unnest",
    "width_bucket", "has_table_privilege", "pg_notify", "pg_snapshot_xmin", "pg_advisory_xact_lock",
]  # fmt: skip


@pytest.fixture(scope="module")
def event_store_template(event_store_server, event_store_template):
    """The migrated database with a trap for each call of ours."""
    with cloned_database(event_store_server, event_store_template) as dsn:
        with psycopg.connect(dsn) as connection:
            connection.execute(TRAPS.replace("{called}", f"'{{{','.join(CALLED)}}}'").encode())
        yield dsn.partition("?")[0].rpartition("/")[2]


@pytest.mark.parametrize(
    "careless",
    [
        "SELECT hashtextextended('a'::text, 0)",
        "SELECT * FROM unnest('{a}'::text[])",
        "SELECT generate_series(0, 3::bigint)",
        "SELECT num_nonnulls('a'::text, 'b'::text)",
        "SELECT '{}'::json ->> '1'",
        "SELECT 3 * interval '1 s'",
    ],
)
def test_who_is_less_careful_is_trapped(event_store_dsn, careless):
    with psycopg.connect(event_store_dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as trapped:
            connection.execute(careless.encode())
        assert trapped.value.sqlstate == "TRAPS" or "not an aggregate" in str(trapped.value)


@one_in(3)
class TestAnEventStoreAmongTraps(Postgres, EventsAlone):
    pass


@one_in(3)
class TestSubscriptionsAmongTraps(Postgres, SubscriptionStoreContract):
    test_partitions_are_shared_out_evenly = None  # it takes long, and calls nothing that others do not


@one_in(3)
class TestKeysAmongTraps(Postgres, KeyStoreContract):
    pass


# What whoever used a session before can leave in it. Types and relations are looked for there first.
TEMPORARY = """
DO $traps$
DECLARE one text;
BEGIN
    FOREACH one IN ARRAY '{
        streams,events,snapshots,cluster,subscriptions,subscription_workers,dead_letters,personal_keys,inbox,
        pg_class,pg_attribute,pg_namespace,pg_index,pg_indexes,pg_trigger,pg_proc,pg_roles,pg_settings,
        pg_database,pg_stat_activity,pg_stat_user_tables}'::text[] LOOP
        EXECUTE format('CREATE TEMPORARY TABLE %I (trap int CHECK (false))', one);
    END LOOP;
    CREATE FUNCTION pg_temp.now() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN public.trap(); END';
    CREATE FUNCTION pg_temp.unnest(text[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN public.trap(); END';
    FOREACH one IN ARRAY '{
        date,bytea,float8,json,name,oid,pg_snapshot,regclass,regnamespace,timestamptz,uuid,xid8,int4,int8,bool,
        interval,text}'::text[] LOOP
        EXECUTE format('CREATE DOMAIN pg_temp.%I AS pg_catalog.int4 CHECK (false)', one);
    END LOOP;
END $traps$
"""


@pytest.fixture
async def left_behind(event_store_dsn):
    """An engine with such traps in each session.

    On psycopg: asyncpg itself asks for types that it does not know in tables whose schema it does not say.
    """
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))

    @event.listens_for(engine.sync_engine, "connect")
    def lay(connection, _record):
        connection.cursor().execute(TEMPORARY)
        connection.commit()

    yield engine
    await engine.dispose()


class AmongTemporaryTraps(Postgres):
    @pytest.fixture
    def event_store(self, left_behind):
        return PostgresEventStore(bind=left_behind)

    @pytest.fixture
    def snapshots(self, event_store):
        return PostgresSnapshotStore(bind=event_store.bind)

    @pytest.fixture
    def keys(self, event_store):
        return PostgresKeyStore(bind=event_store.bind, wrapping=WRAPPING)


@one_in(3)
class TestAnEventStoreAmongTemporaryTraps(AmongTemporaryTraps, EventsAlone):
    pass


@one_in(3)
class TestSubscriptionsAmongTemporaryTraps(AmongTemporaryTraps, SubscriptionStoreContract):
    test_partitions_are_shared_out_evenly = None  # as above


@one_in(3)
class TestKeysAmongTemporaryTraps(AmongTemporaryTraps, KeyStoreContract):
    pass


async def test_appends_that_wake_listeners_or_travel_together_among_traps(event_store_config):
    config = EventStoreConfig(dsn=event_store_config.dsn, notify=True)
    async with PostgresEventStore(config, coalesce=True) as store:
        store._coalescer._first = object()  # as if another append were under way
        for expected in (0, 2, None):
            await store.append(ORDER, new_events(ORDER, 2), expected)
        assert await store.current_version(ORDER) == 6


async def test_messages_are_handled_among_traps(event_store):
    inbox = PostgresInbox("billing")
    async with event_store.bind.begin() as connection:
        for expected in (True, False):
            async with inbox.once(connection, "m-1") as is_new:
                assert is_new is expected
        assert await inbox.forget(connection, datetime.now(UTC) + timedelta(days=1)) == 1


@pytest.fixture(params=["in the path", "temporary"])
def trapped_store(request, event_store, left_behind):
    return event_store if request.param == "in the path" else PostgresEventStore(bind=left_behind)


async def test_what_an_operator_asks_is_answered_among_traps(trapped_store):
    event_store, bind = trapped_store, trapped_store.bind
    await event_store.validate()
    cause = EventEnvelope(ORDER, "OrderPlaced", {})
    ids = {"correlation_id": str(cause.event_id), "causation_id": str(cause.event_id)}
    await event_store.append(ORDER, [cause, EventEnvelope(ORDER, "OrderPaid", {}, ids)])
    await PostgresSnapshotStore(bind=bind).save(ORDER, 2, {})
    await PostgresSubscriptionStore(bind=bind).register("totals", 1, 2)
    inspector = PostgresInspector(bind=bind)
    assert (await inspector.streams()).streams
    assert list(await inspector.aggregate_types()) == ["order"]
    paid, placed = await inspector.latest()
    assert (await inspector.relatives(paid)).events == [placed, paid]
    assert await inspector.types()
    assert await inspector.sizes()
    assert await inspector.snapshots(ORDER)
    assert (await inspector.arrivals((await inspector.arrivals()).seen)).more == 0
    assert (
        len(await inspector.activity(datetime.now(UTC) - timedelta(hours=1), timedelta(minutes=10), 6)) == 6
    )
    assert await PostgresStatistics(bind=bind).counts(datetime.now(UTC) - timedelta(days=1))
    assert [fault async for fault in PostgresVerifier(bind=bind).faults()] == []
    findings = [finding async for finding in PostgresDoctor(bind=bind).findings()]
    assert not [finding for finding in findings if finding.severity is Severity.PROBLEM]


def test_an_owner_rebases_and_grants_among_temporary_traps(event_store_dsn):
    engine = create_sync_store_engine(
        EventStoreConfig(dsn=event_store_dsn, engine_options={"poolclass": NullPool})
    )
    SyncPostgresEventStore(bind=engine).append(ORDER, new_events(ORDER, 2))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eventstore.cluster SET system_identifier = 1")
        connection.exec_driver_sql(TEMPORARY.replace("%", "%%"))
        assert rebase(connection).events == 2
        grant(connection, ["reader"], "k1s0_trapped", create=True)
        connection.exec_driver_sql("DROP OWNED BY k1s0_trapped; DROP ROLE k1s0_trapped")


async def test_the_chain_is_added_kept_and_looked_through_among_traps(event_store):
    await event_store.append(ORDER, new_events(ORDER, 2))
    async with event_store.bind.begin() as connection:
        assert await connection.run_sync(add_chain) == 2
    await event_store.append(ORDER, new_events(ORDER, 2))
    chain = PostgresChain(bind=event_store.bind)
    assert [fault async for fault in chain.faults()] == []
    assert (await chain.stretch(None, await chain.settled(60))).events == 4
    async with event_store.bind.begin() as connection:
        functions = await connection.exec_driver_sql(
            "SELECT proconfig, prosecdef FROM pg_proc WHERE proname = 'events_chain'"
        )
        assert functions.all() == [(["search_path=pg_catalog, pg_temp", "enable_seqscan=off"], False)]
        assert await connection.run_sync(remove_chain)


def test_an_owner_migrates_grants_and_rebases_among_traps(event_store_dsn):
    engine = create_sync_store_engine(
        EventStoreConfig(dsn=event_store_dsn, engine_options={"poolclass": NullPool})
    )
    SyncPostgresEventStore(bind=engine).append(ORDER, new_events(ORDER, 2))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eventstore.subscriptions (name, version, partition) VALUES ('t', 1, 0)"
        )
        connection.exec_driver_sql("UPDATE eventstore.cluster SET system_identifier = 1")
        assert rebase(connection).events == 2
        grant(connection, ["reader"], "k1s0_trapped", create=True)
        downgrade_database(connection, to=BASE)
        upgrade_database(connection)
        connection.exec_driver_sql("DROP OWNED BY k1s0_trapped; DROP ROLE k1s0_trapped")


def test_triggers_refuse_and_touch_among_temporary_traps(event_store_dsn):
    store = SyncPostgresEventStore(EventStoreConfig(dsn=event_store_dsn))
    with store, psycopg.connect(event_store_dsn, autocommit=True) as connection:
        store.append(ORDER, new_events(ORDER, 2))
        connection.execute(TEMPORARY.encode())
        for change in (b"UPDATE eventstore.events SET event_type = 'x'", b"TRUNCATE eventstore.events"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                connection.execute(change)
        touched = connection.execute(
            b"UPDATE eventstore.streams SET version = version RETURNING updated_at > created_at"
        ).fetchall()
        assert touched == [(True,)]
        assert store.current_version(ORDER) == 2


def test_functions_of_ours_look_nowhere_but_in_pg_catalog(event_store_dsn):
    """Where the path is not fixed, because that costs each append, every name says its schema."""
    with psycopg.connect(event_store_dsn) as connection:
        functions = connection.execute(
            "SELECT proname, proconfig, prosrc, prosecdef FROM pg_proc"
            " WHERE pronamespace = 'eventstore'::regnamespace"
        ).fetchall()
    assert functions
    for name, settings, body, is_definer in functions:
        calls = re.findall(r"([\w.]+)\(", body)
        assert not is_definer, name
        assert settings == ["search_path=pg_catalog"] or (
            all(call.startswith("pg_catalog.") for call in calls) and not re.search(r"SELECT|::|\|\|", body)
        ), name
