"""Tenants in one set of tables, on pooled connections one after the other: each reaches its own rows only."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import (
    STREAM_EXISTS,
    CloudEvents,
    ConfigurationError,
    DuplicateEventError,
    EventEnvelope,
    InMemoryPublisher,
    PostgresEventStore,
    PostgresInbox,
    PostgresKeyStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    Relay,
    StreamId,
    SubscriptionRunner,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
    TenantRequiredError,
    WrappingKeys,
)
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.schema import TENANT_TABLES
from k1s0_event_store.postgres.statistics import PostgresStatistics
from k1s0_event_store.postgres.verification import PostgresVerifier
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.web import event_browser

from ..conftest import login_dsn
from ..pooler import pooled_dsn, running_pooler
from ..web.conftest import looking_at
from .test_plans import Explaining, nodes

ORDER = StreamId("order", "o-1")
TENANTS = ("acme", "beta", "Ünï 'quoted\" %s :x \\")
WRAPPING = WrappingKeys({"2026": b"w" * 32}, current="2026")
ROUNDS = 3


def event(stream_id, tenant, event_type="Placed"):
    return EventEnvelope(stream_id, event_type, {"whose": tenant})


def whose(events):
    return {each.payload["whose"] for each in events}


@pytest.fixture(scope="module")
def tenants_pooler(event_store_server, tenants_login):
    """A PgBouncer with one connection to each database, as the app's role."""
    with running_pooler(login_dsn(event_store_server, tenants_login), default_pool_size=1) as folder:
        yield folder


@pytest.fixture(params=["asyncpg", "psycopg", "PgBouncer"])
def shared(request, acme):
    """Settings, and the driver, with one connection that all tenants share."""
    config = replace(acme, pool_size=1, max_overflow=0)
    if request.param != "PgBouncer":
        return config, request.param
    folder = request.getfixturevalue("tenants_pooler")
    return replace(config, dsn=pooled_dsn(folder, acme.dsn), transaction_pooler=True, pool_size=5), "asyncpg"


@pytest.fixture
async def bind(shared):
    """An engine of the app's."""
    config, driver = shared
    if driver == "asyncpg":
        engine = create_async_store_engine(config)
    else:
        engine = create_async_engine(
            config.dsn.replace("postgresql://", f"postgresql+{driver}://"),
            pool_size=config.pool_size,
            max_overflow=0,
        )
    yield engine
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture
def configs(shared):
    return {name: replace(shared[0], tenant=name) for name in TENANTS}


@pytest.fixture
def stores(configs, bind):
    return {name: PostgresEventStore(config, bind=bind) for name, config in configs.items()}


async def fill(stores):
    """The same streams for all, one after the other on the same connection."""
    for number in range(ROUNDS):
        for tenant, store in stores.items():
            assert await store.append(ORDER, [event(ORDER, tenant)], number) == number + 1
            other = StreamId("order", f"o-{number + 2}")
            assert await store.append(other, [event(other, tenant)], 0) == 1


async def test_tenants_append_to_the_same_streams_and_load_their_own(stores):
    await fill(stores)
    for tenant, store in stores.items():
        assert whose(await store.load(ORDER)) == {tenant}
        assert [each.version async for each in store.stream(ORDER)] == [1, 2, 3]
        assert await store.current_version(ORDER) == ROUNDS
        async with store.bind.begin() as connection:
            joined = store.within(connection)
            assert whose(await joined.load(ORDER)) == {tenant}
            assert await joined.lock(ORDER) == ROUNDS


async def test_each_tenant_has_a_feed_of_its_own(stores):
    await fill(stores)
    ends = {tenant: await store.latest_cursor() for tenant, store in stores.items()}
    for tenant, store in stores.items():
        everything = [each async for each in store.read_all()]
        assert whose(everything) == {tenant}
        assert len(everything) == 2 * ROUNDS
        after = (await store.read_page(limit=2)).cursor
        rest = [each async for each in store.read_all(after)]
        assert [each.event_id for each in rest] == [each.event_id for each in everything[2:]]
    for tenant, store in stores.items():
        await store.append(ORDER, [event(ORDER, tenant, "Shipped")])
        page = await store.read_page(ends[tenant])
        assert [(each.event_type, each.payload["whose"]) for each in page.events] == [("Shipped", tenant)]


async def test_each_tenant_has_snapshots_of_its_own(stores, configs, bind):
    await fill(stores)
    snapshots = {tenant: PostgresSnapshotStore(config, bind=bind) for tenant, config in configs.items()}
    for tenant, each in snapshots.items():
        assert await each.load_latest(ORDER) is None
        await each.save(ORDER, 2, {"whose": tenant})
    for tenant, each in snapshots.items():
        assert (await each.load_latest(ORDER)).state == {"whose": tenant}
        for other, store in stores.items():
            snapshot, events = await store.load_since_snapshot(ORDER, each)
            assert snapshot.state == {"whose": tenant}
            assert whose(events) == {other}


async def test_large_appends_imports_and_coalesced_appends_stay_with_their_tenant(configs, bind):
    for tenant, config in configs.items():
        store = PostgresEventStore(config, bind=bind, coalesce=True)
        streams = [StreamId("cart", f"c-{number}") for number in range(20)]
        await asyncio.gather(*(store.append(each, [event(each, tenant)]) for each in streams))
        many = [event(ORDER, tenant) for _ in range(1_500)]
        assert await store.append(ORDER, many, 0) == 1_500
        imported = [
            EventEnvelope(StreamId("ledger", tenant), "Booked", {"whose": tenant}, version=number + 1)
            for number in range(2_100)
        ]
        assert await store.import_batch(imported) == 2_100
        assert await store.import_batch(imported) == 0
    for tenant, config in configs.items():
        store = PostgresEventStore(config, bind=bind)
        everything = [each async for each in store.read_all()]
        assert whose(everything) == {tenant}
        assert len(everything) == 20 + 1_500 + 2_100


async def test_an_event_id_is_taken_for_one_tenant_only(stores):
    placed = event(ORDER, "all")
    for store in stores.values():
        assert await store.append(ORDER, [placed]) == 1
        assert await store.append(ORDER, [placed]) == 1
        assert await store.append(ORDER, [placed], 0) == 1


async def test_tenants_do_not_wait_for_each_other(acme, tenants_dsn):
    async with PostgresEventStore(acme) as store:
        beta = PostgresEventStore(replace(acme, tenant="beta"), bind=store.bind)
        async with AsyncSession(store.bind) as session, session.begin():
            await store.within(session).append(ORDER, [event(ORDER, "acme")])
            async with asyncio.timeout(60):
                assert await beta.append(ORDER, [event(ORDER, "beta")]) == 1


async def test_tenants_in_one_transaction_with_savepoints_stay_apart(stores, bind):
    acme, beta, _ = stores.values()
    async with AsyncSession(bind) as session, session.begin():
        await acme.within(session).append(ORDER, [event(ORDER, "acme")])
        async with session.begin_nested() as savepoint:
            await beta.within(session).append(ORDER, [event(ORDER, "beta")])
            await savepoint.rollback()
        assert await beta.within(session).load(ORDER) == []
        assert whose(await acme.within(session).load(ORDER)) == {"acme"}
        await beta.within(session).append(ORDER, [event(ORDER, "beta", "Again")])
    assert [each.event_type for each in await beta.load(ORDER)] == ["Again"]


async def test_no_tenant_is_left_on_a_pooled_connection(stores, bind):
    await fill(stores)
    async with bind.connect() as connection:
        for table in TENANT_TABLES:
            with pytest.raises(DBAPIError, match="no tenant is set"):
                await connection.execute(text(f"SELECT * FROM eventstore.{table}"))
            await connection.rollback()


async def test_a_failed_and_a_cancelled_call_leave_no_tenant_behind(acme):
    async with PostgresEventStore(replace(acme, pool_size=1, max_overflow=0)) as store:
        async with store.bind.connect() as connection:
            await store.within(connection).load(ORDER)
            with pytest.raises(DBAPIError, match="division by zero"):
                await connection.execute(text("SELECT 1 / 0"))
        task = asyncio.create_task(store.append(ORDER, [event(ORDER, "acme")]))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        forgetful = PostgresEventStore(replace(acme, tenant=None), bind=store.bind)
        with pytest.raises(TenantRequiredError):
            await forgetful.load(ORDER)


async def is_first(config, bind):
    """Whether a message is new to an inbox."""
    inbox = PostgresInbox("billing", config)
    async with async_sessionmaker(bind).begin() as session, inbox.once(session, "m-1") as answer:
        return answer


def forgotten(config, bind):
    """Every way to read and to write, of stores that were given no tenant."""
    config = replace(config, tenant=None)
    store = PostgresEventStore(config, bind=bind)
    coalescing = PostgresEventStore(config, bind=bind, coalesce=True)
    snapshots = PostgresSnapshotStore(config, bind=bind)
    subscriptions = PostgresSubscriptionStore(config, bind=bind)
    keys = PostgresKeyStore(config, bind=bind, wrapping=WRAPPING)
    inspector = PostgresInspector(config, bind=bind)
    many = [event(ORDER, "nobody") for _ in range(500)]
    numbered = [EventEnvelope(ORDER, "Placed", {"whose": "nobody"}, version=1)]

    async def feed():
        return [each async for each in store.read_all()]

    return {
        "append": lambda: store.append(ORDER, many[:1]),
        "append to a new stream": lambda: store.append(ORDER, many[:2], 0),
        "append at a version": lambda: store.append(ORDER, many[:2], 3),
        "append to a stream that exists": lambda: store.append(ORDER, many[:1], STREAM_EXISTS),
        "append many": lambda: store.append(ORDER, many),
        "append coalesced": lambda: coalescing.append(ORDER, many[:1]),
        "append nothing": lambda: store.append(ORDER, []),
        "import": lambda: store.import_batch(numbered),
        "load": lambda: store.load(ORDER),
        "version": lambda: store.current_version(ORDER),
        "existence": lambda: store.exists(ORDER),
        "feed": feed,
        "latest cursor": store.latest_cursor,
        "snapshot": lambda: snapshots.load_latest(ORDER),
        "save a snapshot": lambda: snapshots.save(ORDER, 1, {}),
        "load since a snapshot": lambda: store.load_since_snapshot(ORDER, snapshots),
        "register": lambda: subscriptions.register("totals", 1, 2),
        "beat": lambda: subscriptions.beat("totals", 1, "me", 10.0),
        "statuses": subscriptions.statuses,
        "parked": subscriptions.parked,
        "make a key": lambda: keys.for_subjects(["ada"]),
        "find a key": lambda: keys.find(["0190b5e8-0000-7000-8000-000000000000"]),
        "forget": lambda: keys.forget("ada"),
        "rotate": keys.rotate,
        "mark a message": lambda: is_first(config, bind),
        "look at types": inspector.aggregate_types,
        "count": lambda: PostgresStatistics(config, bind=bind).counts(datetime.now(UTC)),
    }


async def test_who_forgets_the_tenant_sees_nothing_and_writes_nothing(stores, acme, bind, tenants_owner_dsn):
    await fill(stores)
    before = rows(tenants_owner_dsn)
    for name, call in forgotten(stores["acme"].config, bind).items():
        with pytest.raises(TenantRequiredError) as refused:
            print(name, await call())
        assert "tenant=" in str(refused.value)
    assert rows(tenants_owner_dsn) == before


def rows(dsn):
    with psycopg.connect(dsn) as connection:
        return {
            table: sorted(connection.execute(f"SELECT t::text FROM eventstore.{table} AS t").fetchall())
            for table in TENANT_TABLES
        }


async def fill_every_table(configs, bind):
    """A row of each tenant in each table."""
    for tenant, config in configs.items():
        store = PostgresEventStore(config, bind=bind)
        await store.append(ORDER, [event(ORDER, tenant)])
        await PostgresSnapshotStore(config, bind=bind).save(ORDER, 1, {"whose": tenant})
        await PostgresKeyStore(config, bind=bind, wrapping=WRAPPING).for_subjects(["ada"])
        assert await is_first(config, bind)
        storage = PostgresSubscriptionStore(config, bind=bind)
        await storage.register("totals", 1, 1)
        (lease,) = await storage.beat("totals", 1, "me", 1e6)
        await storage.park(lease, await store.load(ORDER), "it failed", 1)


async def test_plain_sql_of_the_app_reaches_the_rows_of_its_tenant_only(
    configs, bind, tenants_dsn, tenants_owner_dsn
):
    await fill_every_table(configs, bind)
    before = rows(tenants_owner_dsn)
    assert {len(found) for found in before.values()} == {len(TENANTS)}
    with psycopg.connect(tenants_dsn) as connection:
        for tenant in TENANTS:
            connection.execute("SELECT set_config('k1s0_event_store.tenant', %s, true)", (tenant,))
            for table in TENANT_TABLES:
                found = connection.execute(f"SELECT tenant_id FROM eventstore.{table}").fetchall()
                assert found == [(tenant,)]
        connection.commit()
        for table in TENANT_TABLES:
            with pytest.raises(psycopg.DatabaseError) as refused:
                connection.execute(f"SELECT 1 FROM eventstore.{table}")
            assert refused.value.sqlstate == "K1T01"
            connection.rollback()


CHANGES = {
    "events": "UPDATE eventstore.events SET tenant_id = 'beta'",
    "streams": "UPDATE eventstore.streams SET version = version + 1 WHERE tenant_id = 'beta'",
    "snapshots": "DELETE FROM eventstore.snapshots WHERE tenant_id = 'beta'",
    "subscriptions": "UPDATE eventstore.subscriptions SET token = token + 1 WHERE tenant_id = 'beta'",
    "subscription_workers": "DELETE FROM eventstore.subscription_workers WHERE tenant_id = 'beta'",
    "dead_letters": "DELETE FROM eventstore.dead_letters WHERE tenant_id = 'beta'",
    "personal_keys": "DELETE FROM eventstore.personal_keys WHERE tenant_id = 'beta'",
    "inbox": "DELETE FROM eventstore.inbox WHERE tenant_id = 'beta'",
}
# Whatever its columns: the row of this tenant once more, as that of another.
INTO_ANOTHER = """
INSERT INTO eventstore.{table} OVERRIDING SYSTEM VALUE
SELECT (jsonb_populate_record(t, '{{"tenant_id": "beta"}}')).* FROM eventstore.{table} AS t"""


async def test_also_the_owner_reaches_the_rows_of_one_tenant_only(
    configs, bind, tenants_owner_dsn, own_tables
):
    await fill_every_table(configs, bind)
    before = rows(tenants_owner_dsn)
    with psycopg.connect(own_tables) as connection:
        for table in TENANT_TABLES:
            connection.execute("SELECT set_config('k1s0_event_store.tenant', 'acme', true)")
            assert connection.execute(f"SELECT tenant_id FROM eventstore.{table}").fetchall() == [("acme",)]
            if table != "events":  # there a trigger refuses every change
                assert connection.execute(CHANGES[table]).rowcount == 0
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                connection.execute(INTO_ANOTHER.format(table=table))
            connection.rollback()
    assert rows(tenants_owner_dsn) == before


@pytest.fixture
def own_tables(tenants_owner_dsn, make_role):
    """DSN of the tables' owner, who is nobody else."""
    return make_role(tenants_owner_dsn, ["owner"])


async def test_a_role_that_sees_all_tenants_is_refused_before_anything_is_read_or_written(
    acme, tenants_owner_dsn, event_store_config, event_store
):
    for config in (replace(acme, dsn=tenants_owner_dsn), replace(event_store_config, tenant="acme")):
        async with PostgresEventStore(config) as store:
            for call in (
                store.append(ORDER, [event(ORDER, "acme")]),
                store.load(ORDER),
                store.latest_cursor(),
            ):
                with pytest.raises(ConfigurationError, match="would not be kept apart"):
                    await call
            async with AsyncSession(store.bind) as session:
                with pytest.raises(ConfigurationError, match="would not be kept apart"):
                    await store.within(session).append(ORDER, [event(ORDER, "acme")])
    assert await event_store.load(ORDER) == []
    assert {len(found) for found in rows(tenants_owner_dsn).values()} == {0}


def test_blocking_stores_keep_tenants_apart(acme, tenants_dsn):
    engine = create_engine(
        tenants_dsn.replace("postgresql://", "postgresql+psycopg://"),
        pool_size=1,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
    )
    configs = [replace(acme, tenant=tenant) for tenant in TENANTS]
    for config in configs:
        store = SyncPostgresEventStore(config, bind=engine)
        store.append(ORDER, [event(ORDER, config.tenant) for _ in range(500)])
        SyncPostgresSnapshotStore(config, bind=engine).save(ORDER, 1, config.tenant)
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            store.within(connection).append(ORDER, [event(ORDER, config.tenant)])
    for config in configs:
        store = SyncPostgresEventStore(config, bind=engine)
        assert whose(store.load(ORDER)) == {config.tenant}
        assert len(list(store.read_all())) == 501
        assert SyncPostgresSnapshotStore(config, bind=engine).load_latest(ORDER).state == config.tenant
    with pytest.raises(TenantRequiredError):
        SyncPostgresEventStore(replace(acme, tenant=None), bind=engine).load(ORDER)
    assert engine.pool.checkedout() == 0
    engine.dispose()


async def test_projections_of_several_tenants_share_a_name_and_meet_their_own_events(stores, configs, bind):
    await fill(stores)
    async with bind.begin() as connection:
        await connection.execute(text(READ_MODEL))
    for tenant, store in stores.items():
        storage = PostgresSubscriptionStore(configs[tenant], bind=bind)
        runner = SubscriptionRunner(store, storage, [Projection("totals", count_orders)], poll=(0.001, 0.05))
        await runner.run_until_caught_up()
        await runner.run_until_caught_up()
        (status,) = await storage.statuses()
        assert (status.name, status.behind) == ("totals", 0)
    for tenant, store in stores.items():
        async with bind.begin() as connection:
            await store.within(connection).exists(ORDER)  # its tenant stays until the transaction ends
            assert (await connection.execute(text("SELECT tenant_id, events FROM totals"))).all() == [
                (tenant, 2 * ROUNDS)
            ]


# A table of the app's, kept apart by the same setting.
READ_MODEL = """
DO $$ BEGIN
    CREATE TABLE public.totals (
        tenant_id text PRIMARY KEY DEFAULT current_setting('k1s0_event_store.tenant'), events int);
    ALTER TABLE public.totals ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY tenants ON public.totals
        USING (tenant_id = current_setting('k1s0_event_store.tenant', true));
END $$"""


COUNT = """
INSERT INTO totals (events) VALUES (1) ON CONFLICT (tenant_id) DO UPDATE SET events = totals.events + 1"""


async def count_orders(event, session):
    await session.execute(text(COUNT))


async def test_a_relay_publishes_the_events_of_its_tenant(stores, configs, bind):
    await fill(stores)
    for tenant, store in stores.items():
        publisher = InMemoryPublisher()
        storage = PostgresSubscriptionStore(configs[tenant], bind=bind)
        relay = Relay(publisher, CloudEvents("/shop", topic="orders"))
        await SubscriptionRunner(store, storage, [relay], poll=(0.001, 0.05)).run_until_caught_up()
        assert len(publisher.messages) == 2 * ROUNDS
        events = [json.loads(each.body) for each in publisher.messages]
        assert {each["whose"] for each in events} == {tenant}


async def test_keys_and_marks_of_messages_belong_to_a_tenant(configs, bind):
    found = {}
    for tenant, config in configs.items():
        keys = PostgresKeyStore(config, bind=bind, wrapping=WRAPPING)
        found[tenant] = (await keys.for_subjects(["ada"]))["ada"]
        assert await is_first(config, bind)
    assert len({key.key_id for key in found.values()}) == len(TENANTS)
    first, *others = configs.values()
    assert await PostgresKeyStore(first, bind=bind, wrapping=WRAPPING).forget("ada")
    for config in others:
        keys = PostgresKeyStore(config, bind=bind, wrapping=WRAPPING)
        assert (await keys.for_subjects(["ada"]))["ada"] == found[config.tenant]


async def test_the_stream_browser_shows_the_rows_of_its_tenant(acme):
    hidden = StreamId("secret-of-beta", "o-9")
    async with PostgresEventStore(acme) as store:
        beta = PostgresEventStore(replace(acme, tenant="beta"), bind=store.bind)
        await beta.append(ORDER, [event(ORDER, "of beta", "SecretOfBeta")])
        await store.append(ORDER, [event(ORDER, "of acme")])
        await beta.append(hidden, [event(hidden, "of beta", "SecretOfBeta")])
        await PostgresSubscriptionStore(beta.config, bind=store.bind).register("secret-of-beta", 1, 1)
        ids = [each.event_id for each in (await beta.read_page()).events]
    links = [f"/events/{position}" for position in (1, 2, 3)]
    links += [f"/event?{urlencode({'id': each})}" for each in ids]
    links += ["/stream?type=order&id=o-1", "/stream?type=secret-of-beta&id=o-9", "/streams?q=o-"]
    links += [
        "/",
        "/streams",
        "/events",
        "/types",
        "/subscriptions",
        "/subscription?name=secret-of-beta&version=1",
    ]
    async with looking_at(event_browser(acme), follow_redirects=True) as client:
        pages = {link: await client.get(link) for link in links}
    statuses = {link: page.status_code for link, page in pages.items()}
    found = {link for link, status in statuses.items() if status == 200}
    assert set(statuses.values()) <= {200, 404}, statuses
    assert {"/", "/streams", "/events", "/types", "/subscriptions", "/events/2"} <= found
    assert not found & {"/events/1", "/events/3", *(link for link in links if str(ids[0]) in link)}
    assert "of acme" in pages["/events/2"].text
    for link, page in pages.items():
        assert "of beta" not in page.text, link
        assert "SecretOfBeta" not in page.text, link


async def test_what_operators_ask_is_answered_for_one_tenant(stores, configs, bind):
    await fill(stores)
    for config in configs.values():
        verifier = PostgresVerifier(config, bind=bind)
        assert [fault async for fault in verifier.faults()] == []
        counts = await PostgresStatistics(config, bind=bind).counts(datetime(2020, 1, 1, tzinfo=UTC))
        assert sum(each.events for each in counts) == 2 * ROUNDS


FILL = """
INSERT INTO eventstore.events (tenant_id, aggregate_type, aggregate_id, version, event_id, event_type,
                               payload, metadata, occurred_at)
SELECT tenant, 'order', 'o-' || stream, version, gen_random_uuid(), 'Counted', '{}', '{}', now()
FROM unnest('{acme,beta}'::text[]) AS tenant, generate_series(1, 3000) AS stream,
     generate_series(1, 3) AS version;
INSERT INTO eventstore.streams (tenant_id, aggregate_type, aggregate_id, version)
SELECT DISTINCT tenant_id, aggregate_type, aggregate_id, 3 FROM eventstore.events"""


@pytest.mark.parametrize("analyzed", [True, False])
async def test_a_tenants_queries_go_along_its_keys(acme, tenants_owner_dsn, analyzed):
    with psycopg.connect(tenants_owner_dsn, autocommit=True) as connection:
        connection.execute(FILL)
        if analyzed:
            connection.execute("ANALYZE")
    async with PostgresEventStore(acme) as store:
        start = (await store.read_page(limit=1)).cursor
        raw = await store.bind.raw_connection()
        await raw.driver_connection.execute("SELECT set_config('k1s0_event_store.tenant', 'acme', false)")
        explaining = Explaining(raw.driver_connection)
        store._runner = explaining
        await store.load(ORDER)
        await store.append(ORDER, new_events(ORDER, 1))
        await store.append(ORDER, new_events(ORDER, 1), 4)
        await store.append(ORDER, new_events(ORDER, 5), STREAM_EXISTS)
        await store.read_page(start, limit=10)
        await store.read_page(limit=10)
        raw.close()
    for plan in explaining.plans:
        assert [
            node["Relation Name"]
            for node in nodes(plan)
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] != "cluster"
        ] == []
        assert sum(looked_at(node) for node in nodes(plan)) < 100, plan


def looked_at(node):
    """Rows of our tables that a node of a plan has looked at, wanted or not."""
    if "Relation Name" not in node:
        return 0
    return node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))


async def test_a_call_that_fails_leaves_its_connection_usable_for_the_next_tenant(acme):
    async with PostgresEventStore(replace(acme, pool_size=1, max_overflow=0)) as store:
        beta = PostgresEventStore(replace(acme, tenant="beta"), bind=store.bind)
        placed = event(ORDER, "acme")
        await store.append(ORDER, [placed])
        before = await store.bind.connect()
        process = await before.scalar(text("SELECT pg_backend_pid()"))
        await before.close()
        with pytest.raises(DuplicateEventError):
            await store.append(ORDER, [event(ORDER, "acme"), placed], 1)
        assert await beta.load(ORDER) == []
        async with store.bind.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) == process
            raw = (await connection.get_raw_connection()).driver_connection
            assert await raw.fetchval("SELECT current_setting('k1s0_event_store.tenant', true)") == ""
