"""Tables are given tenants, and lose them again, whatever is in them and whoever owns them."""

import asyncio

import psycopg
import pytest

from k1s0_event_store import (
    ConfigurationError,
    EventEnvelope,
    EventStoreConfig,
    SchemaError,
    StreamId,
    SyncPostgresEventStore,
    TenantRequiredError,
)
from k1s0_event_store.config import split_url
from k1s0_event_store.postgres.chain import add_chain
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.rebase import rebase
from k1s0_event_store.postgres.rights import Role, grant
from k1s0_event_store.postgres.schema import (
    TENANT_TABLES,
    current_revision,
    downgrade_database,
    head_revision,
    upgrade_database,
)
from k1s0_event_store.postgres.tenants import add_tenants, remove_tenants

from .test_schema_names import NAMES

ORDER = StreamId("order", "o-1")
ODD = "Ünï 'quoted\" %s :x $1 {table} \\"
APP = [role for role in Role if role is not Role.OWNER]


def fill(config):
    with SyncPostgresEventStore(config) as store:
        store.append(ORDER, [EventEnvelope(ORDER, "Placed", {})])


def loaded(config):
    with SyncPostgresEventStore(config) as store:
        return [event.event_type for event in store.load(ORDER)]


@pytest.mark.parametrize("schema", NAMES)
def test_tables_are_as_they_were_when_tenants_are_taken_from_them(empty_dsn, make_engine, catalog, schema):
    engine = make_engine(empty_dsn)
    with engine.begin() as connection:
        upgrade_database(connection, schema)
    before = catalog(empty_dsn, schema)
    with engine.begin() as connection:
        assert add_tenants(connection, schema)
        assert not add_tenants(connection, schema)
    assert catalog(empty_dsn, schema) != before
    with engine.begin() as connection:
        assert remove_tenants(connection, schema)
        assert not remove_tenants(connection, schema)
    after = catalog(empty_dsn, schema)
    dropped = {entry for entry in after if entry[0] == "column" and "pg.dropped" in entry[2]}
    assert after - dropped == before


def test_rows_that_are_there_become_those_of_the_tenant_that_is_named(
    event_store_dsn, make_engine, make_role
):
    config = EventStoreConfig(dsn=event_store_dsn)
    fill(config)
    engine = make_engine(event_store_dsn)
    with engine.begin() as connection, pytest.raises(ConfigurationError, match="whose they are"):
        add_tenants(connection)
    with engine.begin() as connection, pytest.raises(ConfigurationError, match="not empty"):
        add_tenants(connection, existing="")
    with engine.begin() as connection:
        add_tenants(connection, existing=ODD)
    app = make_role(event_store_dsn, APP)
    assert loaded(EventStoreConfig(dsn=app, tenant=ODD)) == ["Placed"]
    assert loaded(EventStoreConfig(dsn=app, tenant="another")) == []
    fill(EventStoreConfig(dsn=app, tenant="another"))
    with engine.begin() as connection, pytest.raises(ConfigurationError, match="several tenants"):
        remove_tenants(connection)
    assert loaded(EventStoreConfig(dsn=app, tenant=ODD)) == ["Placed"]


def test_the_rows_of_one_tenant_stay_when_tenants_are_taken_away(event_store_dsn, make_engine, make_role):
    owner = make_role(event_store_dsn, [Role.OWNER])
    with make_engine(owner).begin() as connection:
        add_tenants(connection)
    fill(EventStoreConfig(dsn=owner, tenant="acme"))
    with make_engine(owner).begin() as connection:
        remove_tenants(connection)
    assert loaded(EventStoreConfig(dsn=event_store_dsn)) == ["Placed"]


def test_older_tables_have_to_be_upgraded_first(empty_engine):
    with empty_engine.begin() as connection:
        upgrade_database(connection, to="0001")
    with empty_engine.begin() as connection, pytest.raises(SchemaError, match="at revision 0001"):
        add_tenants(connection)


def test_tables_that_keep_tenants_apart_are_not_taken_down(tenants_owner_dsn, make_engine):
    engine = make_engine(tenants_owner_dsn)
    for target in ("0004", "base"):
        with engine.begin() as connection, pytest.raises(ConfigurationError, match="tenants remove"):
            downgrade_database(connection, to=target)
    with engine.begin() as connection:
        downgrade_database(connection, to="head")
        assert current_revision(connection) == head_revision()
        remove_tenants(connection)
        downgrade_database(connection)


def test_who_adds_tenants_may_own_the_tables_and_nothing_else(event_store_dsn, make_engine, make_role):
    owner = make_role(event_store_dsn, [Role.OWNER])
    with make_engine(owner).begin() as connection:
        add_tenants(connection)
    with SyncPostgresEventStore(EventStoreConfig(dsn=owner, tenant="acme")) as store:
        store.validate()


def test_grants_stay_and_a_new_owner_gets_all_of_it(tenants_owner_dsn, tenants_dsn, make_engine, make_role):
    fill(EventStoreConfig(dsn=tenants_dsn, tenant="acme"))
    make_role(tenants_owner_dsn, [Role.OWNER])
    second = make_role(tenants_owner_dsn, [Role.OWNER])
    with psycopg.connect(tenants_owner_dsn) as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE pronamespace = 'eventstore'::regnamespace"
        ).fetchall()
    assert owners == [(split_url(second).netloc.partition(":")[0],)]
    with make_engine(second).begin() as connection:
        remove_tenants(connection)
    assert loaded(EventStoreConfig(dsn=tenants_dsn)) == ["Placed"]


ATTEMPTS = (
    "INSERT INTO eventstore.events (tenant_id, aggregate_type) VALUES ('beta', 'x')",
    "INSERT INTO eventstore.streams (tenant_id, aggregate_type) VALUES ('beta', 'x')",
    "UPDATE eventstore.streams SET tenant_id = 'beta'",
    "ALTER TABLE eventstore.events DISABLE ROW LEVEL SECURITY",
    "DROP POLICY tenants ON eventstore.events",
    "ALTER POLICY tenants ON eventstore.events USING (true)",
    "CREATE OR REPLACE FUNCTION eventstore.tenant_required() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "SET row_security = off; SELECT 1 FROM eventstore.events",
)


@pytest.mark.parametrize("role", APP, ids=lambda role: role.value)
def test_no_role_chooses_the_tenant_of_a_row_or_opens_the_tables(tenants_owner_dsn, make_role, role):
    with psycopg.connect(make_role(tenants_owner_dsn, [role])) as connection:
        for attempt in ATTEMPTS:
            connection.execute("SELECT set_config('k1s0_event_store.tenant', 'acme', true)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(attempt)
            connection.rollback()


DAMAGES = {
    "ALTER TABLE eventstore.events DISABLE ROW LEVEL SECURITY": "row-level security on events",
    "ALTER TABLE eventstore.snapshots NO FORCE ROW LEVEL SECURITY": "row-level security on snapshots",
    "DROP POLICY tenants ON eventstore.inbox": "row-level security on inbox",
    "DROP POLICY tenants ON eventstore.dead_letters; ALTER TABLE eventstore.dead_letters DROP tenant_id": (
        "column dead_letters.tenant_id is missing"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_validate_finds_tables_that_are_open(tenants_owner_dsn, tenants_dsn, damage):
    with SyncPostgresEventStore(EventStoreConfig(dsn=tenants_dsn, tenant="acme")) as store:
        store.validate()
        with psycopg.connect(tenants_owner_dsn) as connection:
            connection.execute(damage)
        with pytest.raises(SchemaError, match=DAMAGES[damage]):
            store.validate()


def test_validate_tells_stores_and_tables_that_do_not_fit(tenants_dsn, event_store_dsn):
    with (
        SyncPostgresEventStore(EventStoreConfig(dsn=tenants_dsn)) as store,
        pytest.raises(TenantRequiredError),
    ):
        store.validate()
    config = EventStoreConfig(dsn=event_store_dsn, tenant="acme")
    with SyncPostgresEventStore(config) as store, pytest.raises(SchemaError, match="do not know tenants"):
        store.validate()


@pytest.mark.parametrize("as_owner", [True, False])
def test_a_restored_database_is_rebased_for_all_tenants(
    tenants_owner_dsn, tenants_dsn, make_engine, make_role, as_owner
):
    configs = [EventStoreConfig(dsn=tenants_dsn, tenant=tenant) for tenant in ("acme", "beta")]
    for config in configs:
        fill(config)
    dsn = make_role(tenants_owner_dsn, [Role.OWNER]) if as_owner else tenants_owner_dsn
    with psycopg.connect(tenants_owner_dsn) as connection:
        connection.execute("UPDATE eventstore.cluster SET system_identifier = 1")
    with make_engine(dsn).begin() as connection:
        done = rebase(connection)
    assert (done.origin, done.events) == (1, 2)
    for config in configs:
        with SyncPostgresEventStore(config) as store:
            assert [event.event_type for event in store.read_all()] == ["Placed"]
    with psycopg.connect(tenants_owner_dsn) as connection:
        forced = connection.execute(
            "SELECT count(*) FROM pg_class"
            " WHERE relnamespace = 'eventstore'::regnamespace AND relforcerowsecurity"
        ).fetchone()
    assert forced == (len(TENANT_TABLES),)


def test_roles_are_granted_on_tables_with_tenants_as_on_others(tenants_owner_dsn, make_engine, make_role):
    app = make_role(tenants_owner_dsn, [Role.READER])
    with pytest.raises(Exception, match="right"):
        fill(EventStoreConfig(dsn=app, tenant="acme"))
    with make_engine(tenants_owner_dsn).begin() as connection:
        grant(connection, ["writer"], split_url(app).netloc.partition(":")[0])
    fill(EventStoreConfig(dsn=app, tenant="acme"))


@pytest.mark.parametrize("first", ["tenants", "chain"])
def test_tenants_and_the_chain_are_given_in_any_order(event_store_dsn, make_engine, make_role, first):
    owner = make_role(event_store_dsn, [Role.OWNER])
    app = make_role(event_store_dsn, APP)
    acme, beta = (EventStoreConfig(dsn=app, tenant=tenant) for tenant in ("acme", "beta"))
    fill(EventStoreConfig(dsn=event_store_dsn))
    with make_engine(owner).begin() as connection:
        if first == "chain":
            add_chain(connection)
        add_tenants(connection, existing="acme")
    for config in (acme, beta):
        fill(config)
        fill(config)
    if first == "tenants":
        with make_engine(owner).begin() as connection:
            assert add_chain(connection) == 5
    for config in (acme, beta):
        fill(config)
        assert broken(config) == []
    with psycopg.connect(event_store_dsn) as connection:
        connection.execute("DELETE FROM eventstore.streams WHERE tenant_id = 'beta'")
        connection.execute("ALTER TABLE eventstore.events DISABLE TRIGGER trigger_events_append_only")
        connection.execute("DELETE FROM eventstore.events WHERE tenant_id = 'beta'")
        connection.execute("ALTER TABLE eventstore.events ENABLE TRIGGER trigger_events_append_only")
    with make_engine(owner).begin() as connection:
        remove_tenants(connection)
    fill(EventStoreConfig(dsn=event_store_dsn))
    assert broken(EventStoreConfig(dsn=event_store_dsn)) == []
    assert len(loaded(EventStoreConfig(dsn=event_store_dsn))) == 5


def broken(config):
    async def faults():
        async with PostgresChain(config) as chain:
            return [fault async for fault in chain.faults()]

    return asyncio.run(faults())
