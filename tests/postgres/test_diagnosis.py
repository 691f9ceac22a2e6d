"""Diagnosing a database: each finding with its real cause, and none without one."""

import asyncio
import itertools
import os
from contextlib import ExitStack
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.postgres import diagnosis
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.diagnosis import PostgresDoctor, Severity
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database

from .test_feed_standby import own_servers  # noqa: F401 - a fixture: a primary and a standby

OK, WARNING, PROBLEM = Severity
ORDER = StreamId("order", "1")
HIDDEN = "hunter2-not-to-be-seen"
CHECKS = [
    *(
        "connection",
        "server",
        "durability",
        "connections",
        "schema",
        "rights",
        "cluster",
        "open transactions",
    ),
    *("prepared transactions", "replication", "replication slots", "dead rows", "transaction ids"),
]
_numbers = itertools.count(1)


@pytest.fixture
def diagnose(event_store_dsn):
    """All findings by check, of the test's database or another one."""

    async def findings(dsn=event_store_dsn, **settings):
        async with PostgresDoctor(EventStoreConfig(dsn=dsn, **settings)) as doctor:
            found = [finding async for finding in doctor.findings()]
        return {check: list(group) for check, group in itertools.groupby(found, lambda f: f.check)}

    return findings


@pytest.fixture
async def primary(own_servers):  # noqa: F811
    """DSN of a server of its own that is as it should be, with our tables."""
    dsn = own_servers[0]
    await in_transaction(EventStoreConfig(dsn=dsn), upgrade_database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting in ("fsync = on", "autovacuum = on"):
            connection.execute(f"ALTER SYSTEM SET {setting}")
        connection.execute("SELECT pg_reload_conf()")
        await until(
            connection,
            "SELECT bool_and(setting = 'on') FROM pg_settings WHERE name IN ('fsync', 'autovacuum')",
        )
        yield dsn
        connection.execute("DROP SCHEMA eventstore CASCADE")


async def until(connection, question):
    """Wait until the server says yes."""
    for _ in range(2_000):
        if connection.execute(question).fetchone() == (True,):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"it stays false: {question}")


@pytest.fixture
def make_role(event_store_dsn):
    """Roles with some rights and a login: their DSNs."""
    made = []

    def make(grants):
        role = f"k1s0_doctor_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(event_store_dsn) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{HIDDEN}'")
            connection.execute(grants.replace("{role}", role))
        made.append(role)
        split = urlsplit(event_store_dsn)
        return urlunsplit(split._replace(netloc=f"{role}:{HIDDEN}@{split.netloc.rpartition('@')[2]}"))

    yield make
    with psycopg.connect(event_store_dsn) as connection:
        for role in made:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def texts(findings):
    return [finding.text for finding in findings]


def only(findings, severity):
    """The one finding of a check, of this severity; one that is not ok says what to do."""
    (finding,) = findings
    assert finding.severity is severity, finding
    assert severity is OK or len(finding.advice) > 10
    return finding


@pytest.fixture
def patient(monkeypatch):
    """A busy machine is not slow, and its standby not far behind."""
    monkeypatch.setattr(diagnosis, "_SLOW", 600.0)
    monkeypatch.setattr(diagnosis, "_FAR_BEHIND", 600.0)


async def test_it_looks_through_an_engine_of_the_apps_on_psycopg_too(event_store_dsn):
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
    found = {finding.check async for finding in PostgresDoctor(bind=engine).findings()}
    await engine.dispose()
    assert found == set(CHECKS)


async def test_on_a_server_as_it_should_be_all_is_well(diagnose, primary, patient):
    found = await diagnose(primary)
    assert list(found) == CHECKS
    for findings in found.values():
        only(findings, OK)


async def test_the_database_of_a_test_has_no_problem(diagnose):
    found = await diagnose()
    assert list(found) == CHECKS
    assert not any(finding.severity is PROBLEM for findings in found.values() for finding in findings)


async def test_a_server_that_does_not_answer_is_the_only_finding_and_no_password_is_told(diagnose):
    found = await diagnose(f"postgresql://u:{HIDDEN}@127.0.0.1:1/x")
    assert list(found) == ["connection"]
    assert "cannot be reached" in only(found["connection"], PROBLEM).text
    assert HIDDEN not in str(found)


async def test_a_database_that_does_not_exist_is_the_only_finding(diagnose, event_store_dsn):
    found = await diagnose(urlunsplit(urlsplit(event_store_dsn)._replace(path="/no_such_database")))
    assert list(found) == ["connection"]
    assert "no_such_database" in only(found["connection"], PROBLEM).text


async def test_a_slow_round_trip_is_told(diagnose, monkeypatch):
    monkeypatch.setattr(diagnosis, "_SLOW", 0.0)
    assert "a round trip takes" in only((await diagnose())["connection"], WARNING).text


@pytest.mark.parametrize(
    ("limits", "severity"), [((99, 99), PROBLEM), ((1, 14), WARNING)], ids=["too old", "too new"]
)
async def test_a_server_of_another_version_is_told(diagnose, monkeypatch, limits, severity):
    monkeypatch.setattr(diagnosis, "_OLDEST_SERVER", limits[0])
    monkeypatch.setattr(diagnosis, "_NEWEST_SERVER", limits[1])
    assert "PostgreSQL" in only((await diagnose())["server"], severity).text


async def test_settings_that_lose_data_are_told(diagnose, primary):
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("ALTER DATABASE postgres SET synchronous_commit = off")
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
        await until(connection, "SELECT current_setting('fsync') = 'off'")
        found = (await diagnose(primary))["durability"]
        connection.execute("ALTER DATABASE postgres RESET synchronous_commit")
    assert [finding.severity for finding in found] == [WARNING, WARNING]
    assert [text.split()[0] for text in texts(found)] == ["fsync", "synchronous_commit"]


async def test_few_connections_that_are_left_are_told(diagnose, primary, monkeypatch):
    monkeypatch.setattr(diagnosis, "_FEW_CONNECTIONS", 0.85)
    only((await diagnose(primary))["connections"], OK)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(psycopg.connect(primary))
        assert "connections are in use" in only((await diagnose(primary))["connections"], WARNING).text


async def test_tables_of_an_older_revision_are_told(diagnose, event_store_dsn, event_store_config):
    await in_transaction(event_store_config, lambda connection: downgrade_database(connection, to="0003"))
    text = only((await diagnose())["schema"], PROBLEM).text
    assert text.startswith("revision 0003: ")
    assert "; table inbox is missing; " in text
    await in_transaction(event_store_config, downgrade_database)
    found = await diagnose()
    assert only(found["schema"], PROBLEM).text.startswith("revision base: table cluster is missing; ")
    assert only(found["cluster"], PROBLEM).text == "the tables are not as expected"


async def test_tables_that_a_newer_library_made_are_told(diagnose, sql):
    sql("UPDATE eventstore.k1s0_event_store_version SET version_num = '9999'")
    assert "revision 9999, but this version" in only((await diagnose())["schema"], PROBLEM).text


async def test_a_schema_that_is_not_there_is_told(diagnose):
    found = await diagnose(schema='an "other" one')
    assert "revision base" in only(found["schema"], PROBLEM).text
    assert only(found["rights"], PROBLEM).text == 'there is no schema an "other" one'


READER = (
    "GRANT USAGE ON SCHEMA eventstore TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA eventstore TO {role};"
)
WRITER = """
GRANT USAGE ON SCHEMA eventstore TO {role};
GRANT SELECT, INSERT ON eventstore.events TO {role};
GRANT SELECT, INSERT, UPDATE (version) ON eventstore.streams TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON eventstore.snapshots TO {role};
GRANT SELECT ON eventstore.cluster TO {role};
"""
SUBSCRIBER = "".join(
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON eventstore.{table} TO {{role}};"
    for table in ("subscriptions", "subscription_workers", "dead_letters")
)


@pytest.mark.parametrize(
    ("grants", "severity", "may"),
    [
        ("", PROBLEM, "may do nothing; it may not read, append, save snapshots, run subscriptions"),
        (READER, OK, "may read; it may not append, save snapshots, run subscriptions"),
        (WRITER, OK, "may read, append, save snapshots; it may not run subscriptions"),
        (WRITER + SUBSCRIBER, OK, "may read, append, save snapshots, run subscriptions"),
        (WRITER + "REVOKE INSERT ON eventstore.streams FROM {role}", OK, "snapshots; it may not append, run"),
        (WRITER + "REVOKE USAGE ON SCHEMA eventstore FROM {role}", PROBLEM, "may do nothing"),
    ],
    ids=["nothing", "reader", "writer", "subscriber", "no insert", "no schema"],
)  # fmt: skip
async def test_what_the_role_may_is_told(diagnose, make_role, grants, severity, may):
    found = await diagnose(make_role(grants))
    assert may in only(found["rights"], severity).text
    assert HIDDEN not in str(found)


async def test_a_role_that_cannot_see_others_is_told_so(diagnose, make_role):
    unseeing = await diagnose(make_role(WRITER))
    for check in ("open transactions", "replication"):
        assert "cannot see what others do" in only(unseeing[check], WARNING).text
    seeing = await diagnose(make_role(f"{WRITER}; GRANT pg_monitor TO {{role}}"))
    assert "cannot see" not in str(seeing)


async def test_a_table_that_the_role_may_not_read_is_told(diagnose, make_role):
    found = await diagnose(make_role("GRANT USAGE ON SCHEMA eventstore TO {role}"))
    assert "may not look at it" in only(found["cluster"], WARNING).text
    assert "may not read: the tables are as expected" in only(found["schema"], OK).text


async def test_a_restore_into_another_cluster_is_told(diagnose, sql):
    sql("UPDATE eventstore.cluster SET system_identifier = 7")
    finding = only((await diagnose())["cluster"], PROBLEM)
    assert "the feed belongs to cluster 7" in finding.text
    assert "db rebase" in finding.advice


@pytest.fixture
def at_once(monkeypatch):
    """What is open is told of at once."""
    monkeypatch.setattr(diagnosis, "_LONG", 0.0)


async def test_an_open_transaction_that_writes_is_told_without_its_query(diagnose, event_store_dsn, at_once):
    config = EventStoreConfig(dsn=event_store_dsn, application_name="web-1")
    async with PostgresEventStore(config) as store, store.bind.connect() as connection:
        await store.within(connection).append(ORDER, [EventEnvelope(ORDER, "Placed", {"card": HIDDEN})])
        await connection.exec_driver_sql(f"SELECT '{HIDDEN}'")
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        finding = only((await diagnose())["open transactions"], WARNING)
        await connection.rollback()
    assert f"process {pid} (application 'web-1', user " in finding.text
    assert "idle in transaction) has had a transaction open for 0:00:0" in finding.text
    assert "its events are not in the feed until it ends" in finding.text
    assert f"pg_terminate_backend({pid})" in finding.advice
    assert HIDDEN not in str(finding)


async def test_an_open_transaction_that_reads_is_told(diagnose, event_store_dsn, at_once):
    with psycopg.connect(event_store_dsn, application_name="report") as connection:
        connection.execute("SELECT 1")
        finding = only((await diagnose())["open transactions"], WARNING)
    assert "application 'report'" in finding.text
    assert "keeps vacuum from cleaning up" in finding.text


async def test_a_transaction_that_has_just_begun_is_well(diagnose, event_store_dsn):
    with psycopg.connect(event_store_dsn) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        only((await diagnose())["open transactions"], OK)


async def test_a_prepared_transaction_is_told(diagnose, primary, at_once):
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'order-7'")
        finding = only((await diagnose(primary))["prepared transactions"], WARNING)
        connection.execute("ROLLBACK PREPARED 'order-7'")
    assert finding.text.startswith("'order-7' of postgres has been prepared for 0:00:0")


async def test_a_slot_that_nobody_uses_is_told(diagnose, primary):
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
        finding = only((await diagnose(primary))["replication slots"], WARNING)
        connection.execute("SELECT pg_drop_replication_slot('forgotten')")
    assert finding.text.startswith("slot forgotten is not in use and keeps ")


async def test_a_standby_that_is_behind_is_told(diagnose, primary, patient, monkeypatch):
    with psycopg.connect(primary, autocommit=True) as connection:
        await until(connection, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
    assert only((await diagnose(primary))["replication"], OK).text == "of 1 standbys none is far behind"
    monkeypatch.setattr(diagnosis, "_FAR_BEHIND", -1.0)
    assert "(streaming) is 0:00:0" in only((await diagnose(primary))["replication"], WARNING).text


async def test_a_standby_says_that_it_is_one(diagnose, primary, own_servers):  # noqa: F811
    found = await diagnose(own_servers[1])
    assert "a standby: it can be read" in only(found["server"], WARNING).text
    assert list(found) == CHECKS


async def test_dead_rows_are_told(diagnose, primary, monkeypatch):
    monkeypatch.setattr(diagnosis, "_MANY_DEAD", 10)
    only((await diagnose(primary))["dead rows"], OK)
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("ALTER TABLE eventstore.inbox SET (autovacuum_enabled = off)")
        connection.execute("INSERT INTO eventstore.inbox SELECT 'c', n FROM generate_series(1, 20) AS n")
        connection.execute("DELETE FROM eventstore.inbox")
        connection.execute("SELECT pg_stat_force_next_flush()")
    finding = only((await diagnose(primary))["dead rows"], WARNING)
    assert finding.text == "inbox has 20 dead rows beside 0, last vacuumed never"


@pytest.mark.parametrize(
    ("limits", "severity"), [((0, 10**12), WARNING), ((0, 0), PROBLEM)], ids=["few", "none"]
)
async def test_transaction_ids_that_run_out_are_told(diagnose, primary, monkeypatch, limits, severity):
    monkeypatch.setattr(diagnosis, "_FEW_IDS", limits[0])
    monkeypatch.setattr(diagnosis, "_NO_IDS", limits[1])
    assert "transactions old" in only((await diagnose(primary))["transaction ids"], severity).text


async def test_autovacuum_that_is_off_is_told(diagnose, primary):
    with psycopg.connect(primary, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
        await until(connection, "SELECT current_setting('autovacuum') = 'off'")
    assert only((await diagnose(primary))["transaction ids"], WARNING).text == "autovacuum is off"
