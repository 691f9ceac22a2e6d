"""Each role may do what it is for, and is refused everything else: tried by logins that are it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import Connection, Engine

from k1s0_event_store import (
    ConfigurationError,
    EventEnvelope,
    PermissionDeniedError,
    SchemaError,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.postgres.chain import add_chain
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.models import metadata_for
from k1s0_event_store.postgres.rights import FUNCTIONS, OURS, RIGHTS, Role, grant, revoke, script
from k1s0_event_store.postgres.schema import VERSION_TABLE, upgrade_database

from .test_schema_names import NAMES

ORDER = StreamId("order", "o-1")
MakeRole = Callable[[str, Sequence[Role]], str]

EVENT = """INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,
           payload, metadata, occurred_at)
           VALUES ('order', 'o-1', 2, gen_random_uuid(), 'Forged', '1', '{}', now())"""
COPIED = EVENT.replace("(agg", "(position, agg").replace("VALUES (", "OVERRIDING SYSTEM VALUE VALUES (7, ")
STREAM = "INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version) VALUES ('cart', 'c-1', 0)"
SUBSCRIPTION = "INSERT INTO eventstore.subscriptions (name, version, partition) VALUES ('totals', 1, 0)"
LETTER = """INSERT INTO eventstore.dead_letters (name, version, partition, aggregate_type, aggregate_id,
            event_version, event_type, position) VALUES ('totals', 1, 0, 'order', 'o-1', 1, 'Placed', 1)"""
KEY = """INSERT INTO eventstore.personal_keys (key_id, subject, wrapping_key, secret)
         VALUES (gen_random_uuid(), 'bob', '2026', 'x')"""
SECOND = "INSERT INTO eventstore.cluster VALUES (1)"

ATTEMPTS = {
    **{f"read {table}": f"SELECT * FROM eventstore.{table}" for table in OURS},
    "append an event": EVENT,
    "choose a position": COPIED,
    "choose the time of storing": EVENT.replace("occurred_at", "occurred_at, recorded_at").replace(
        "now()", "now(), now()"
    ),
    "choose a transaction": EVENT.replace("occurred_at", "occurred_at, tx").replace(
        "now()", "now(), pg_current_xact_id()"
    ),
    "backdate a stream": "UPDATE eventstore.streams SET created_at = now()",
    "change an event": "UPDATE eventstore.events SET payload = '{}'",
    "backdate an event": "UPDATE eventstore.events SET occurred_at = now() WHERE false",
    "delete an event": "DELETE FROM eventstore.events",
    "truncate the events": "TRUNCATE eventstore.events",
    "merge into the events": "MERGE INTO eventstore.events USING (SELECT 1) AS one ON true "
    "WHEN MATCHED THEN DELETE",
    "replace an event": EVENT + " ON CONFLICT (event_id, aggregate_id) DO UPDATE SET payload = '{}'",
    "lock the events from readers": "LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE",
    "make a stream": STREAM,
    "lock a stream": "SELECT FROM eventstore.streams FOR UPDATE",
    "move a stream": "UPDATE eventstore.streams SET version = version + 1",
    "rename a stream": "UPDATE eventstore.streams SET aggregate_id = 'other'",
    "delete a stream": "DELETE FROM eventstore.streams",
    "truncate the streams": "TRUNCATE eventstore.streams",
    "save a snapshot": "INSERT INTO eventstore.snapshots VALUES ('order', 'o-1', 1, 1, '{}')",
    "delete a snapshot": "DELETE FROM eventstore.snapshots",
    "name another cluster": "UPDATE eventstore.cluster SET system_identifier = 1",
    "name a second cluster": SECOND,
    "forget the cluster": "DELETE FROM eventstore.cluster",
    "begin a subscription": SUBSCRIPTION,
    "move a checkpoint": "UPDATE eventstore.subscriptions SET cursor = 'x'",
    "take a lease": "UPDATE eventstore.subscriptions SET owner = 'me', token = token + 1",
    "remove a subscription": "DELETE FROM eventstore.subscriptions",
    "run as a worker": "INSERT INTO eventstore.subscription_workers VALUES ('totals', 1, 'me', now())",
    "send a worker away": "DELETE FROM eventstore.subscription_workers",
    "park an event": LETTER,
    "drop parked events": "DELETE FROM eventstore.dead_letters",
    "make a key": KEY,
    "wrap a key anew": "UPDATE eventstore.personal_keys SET wrapping_key = 'new', secret = 'y'",
    "give a key to another subject": "UPDATE eventstore.personal_keys SET subject = 'other'",
    "forget a subject": "DELETE FROM eventstore.personal_keys WHERE subject = 'ada'",
    "truncate the keys": "TRUNCATE eventstore.personal_keys",
    "mark a message": "INSERT INTO eventstore.inbox VALUES ('billing', 'm-2')",
    "forget marks": "DELETE FROM eventstore.inbox WHERE consumer = 'billing'",
    "change a mark": "UPDATE eventstore.inbox SET message_id = 'other'",
    "truncate the inbox": "TRUNCATE eventstore.inbox",
    "name another revision": f"UPDATE eventstore.{VERSION_TABLE} SET version_num = '0001'",
    "see where the positions are": "SELECT last_value FROM eventstore.events_position_seq",
    "burn a position": "SELECT nextval('eventstore.events_position_seq')",
    "set the positions back": "SELECT setval('eventstore.events_position_seq', 1)",
    "disable the guard": "ALTER TABLE eventstore.events DISABLE TRIGGER trigger_events_append_only",
    "drop the guard": "DROP TRIGGER trigger_events_append_only ON eventstore.events",
    "replace the guard": "CREATE OR REPLACE FUNCTION eventstore.events_refuse_change() RETURNS trigger "
    "LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "add a trigger": "CREATE TRIGGER mine BEFORE INSERT ON eventstore.events "
    "FOR EACH ROW EXECUTE FUNCTION eventstore.streams_touch()",
    "add a rule": "CREATE RULE mine AS ON INSERT TO eventstore.events DO INSTEAD NOTHING",
    "add a policy": "CREATE POLICY mine ON eventstore.events USING (false)",
    "alter a table": "ALTER TABLE eventstore.events ADD COLUMN mine text",
    "drop a constraint": "ALTER TABLE eventstore.events DROP CONSTRAINT uq_events_version",
    "drop a table": "DROP TABLE eventstore.snapshots",
    "make an index": "CREATE INDEX mine ON eventstore.events (event_type)",
    "make a table": "CREATE TABLE eventstore.mine (id int)",
    "make a function": "CREATE FUNCTION eventstore.now() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "rename the schema": "ALTER SCHEMA eventstore RENAME TO mine",
    "make a schema": "CREATE SCHEMA mine",
    "make a table in public": "CREATE TABLE public.mine (id int)",
    "read another table": "SELECT * FROM private.secrets",
    "write another table": "INSERT INTO private.secrets VALUES ('mine')",
    "make a role": "CREATE ROLE k1s0_never",
    "become a superuser": "SET ROLE postgres",
    "switch triggers off": "SET session_replication_role = replica",
    "read a file of the server": "SELECT pg_read_file('PG_VERSION')",
    "run a program": "COPY eventstore.cluster TO PROGRAM 'cat'",
    "see what others do": "SELECT pg_stat_reset()",
}  # fmt: skip

READS = {f"read {table}" for table in OURS}
KEYS = {"read personal_keys"}
READABLE = READS - KEYS - {"read inbox"}
MAY = {
    Role.WRITER: {
        "read events", "read streams", "read snapshots", "read cluster", "append an event", "make a stream",
        "lock a stream", "move a stream", "save a snapshot", "delete a snapshot",
    },
    Role.READER: READABLE,
    Role.PROJECTOR: {
        "read events", "read streams", "read cluster", "read subscriptions", "read subscription_workers",
        "read dead_letters", "begin a subscription", "move a checkpoint", "take a lease",
        "remove a subscription", "run as a worker", "send a worker away", "park an event",
        "drop parked events",
    },
    Role.CONSUMER: {"read inbox", "mark a message"},
    Role.CLEANER: {"read inbox", "forget marks"},
    Role.KEEPER: {*KEYS, "make a key"},
    Role.FORGETTER: {*KEYS, "forget a subject"},
    Role.ROTATOR: {*KEYS, "wrap a key anew"},
    # What guards against the owner are backups and another server: docs/security.md.
    Role.OWNER: ATTEMPTS.keys() - {
        "change an event", "backdate an event", "delete an event", "truncate the events",
        "merge into the events", "replace an event",
        "make a schema", "make a table in public", "rename the schema", "read another table",
        "write another table", "make a role", "become a superuser", "switch triggers off",
        "read a file of the server", "run a program", "see what others do",
    },
}  # fmt: skip


@pytest.fixture
def filled_dsn(event_store_dsn: str) -> str:
    """A database with a row in each of our tables, and a table of somebody else's."""
    store = SyncPostgresEventStore(EventStoreConfig(dsn=event_store_dsn))
    with store:
        store.append(ORDER, [EventEnvelope(ORDER, "OrderPlaced", {})])
    with psycopg.connect(event_store_dsn) as connection:
        connection.execute(SUBSCRIPTION.replace("totals", "names").encode())
        connection.execute(KEY.replace("bob", "ada").encode())
        connection.execute("INSERT INTO eventstore.inbox VALUES ('billing', 'm-1')")
        connection.execute("CREATE SCHEMA private; CREATE TABLE private.secrets (what text)")
    return event_store_dsn


def outcome(connection: psycopg.Connection[tuple[object, ...]], attempt: str) -> type[Exception] | None:
    """What the database says to an attempt, which is taken back; None: it would have succeeded."""
    try:
        connection.execute(attempt.encode())
    except psycopg.Error as error:
        return type(error)
    finally:
        connection.rollback()
    return None


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_a_role_may_do_what_it_is_for_and_nothing_else(
    filled_dsn: str, make_role: MakeRole, role: Role
) -> None:
    with psycopg.connect(make_role(filled_dsn, [role])) as connection:
        outcomes = {name: outcome(connection, attempt) for name, attempt in ATTEMPTS.items()}
    assert {name for name, error in outcomes.items() if error is None} == MAY[role]
    refusals = {errors.InsufficientPrivilege, errors.RestrictViolation}
    assert {error for error in outcomes.values() if error is not None} <= refusals
    guarded = {name for name, error in outcomes.items() if error is errors.RestrictViolation}
    assert role is Role.OWNER or guarded == set()


def test_rights_cannot_be_passed_on(filled_dsn: str, make_role: MakeRole) -> None:
    everything = [role for role in Role if role is not Role.OWNER]
    with psycopg.connect(make_role(filled_dsn, everything), autocommit=True) as connection:
        connection.execute(b"GRANT ALL ON ALL TABLES IN SCHEMA eventstore TO public")
        connection.execute(b"GRANT INSERT, UPDATE (version) ON eventstore.streams TO public")
        left = connection.execute(
            b"SELECT count(*) FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace"
            b" AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE')"
        ).fetchone()
    assert left == (0,)


def test_every_table_of_ours_is_somebodys_and_every_function_the_owners(filled_dsn: str) -> None:
    tables = {table.name for table in metadata_for().sorted_tables} | {VERSION_TABLE}
    assert set(OURS) == tables
    assert {table for rights in RIGHTS.values() for table in rights} == tables
    with psycopg.connect(filled_dsn) as connection:
        functions = connection.execute(
            b"SELECT proname FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace ORDER BY 1"
        ).fetchall()
    assert [name for (name,) in functions] == list(FUNCTIONS)


CHAINED = {
    **ATTEMPTS,
    "choose a link": EVENT.replace("occurred_at", "occurred_at, chain").replace("now()", "now(), ''"),
    "change a link": "UPDATE eventstore.events SET chain = ''",
    "disable the chain": "ALTER TABLE eventstore.events DISABLE TRIGGER trigger_events_chain",
    "drop the chain": "DROP TRIGGER trigger_events_chain ON eventstore.events",
    "replace the chain": "CREATE OR REPLACE FUNCTION eventstore.events_chain() RETURNS trigger "
    "LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "drop the links": "ALTER TABLE eventstore.events DROP COLUMN chain",
}


@pytest.mark.parametrize("role", [Role.OWNER, Role.WRITER, Role.READER, Role.PROJECTOR])
def test_the_chain_gives_nobody_another_right_and_is_the_owners_alone(
    filled_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine], role: Role
) -> None:
    with make_engine(filled_dsn).begin() as connection:
        add_chain(connection)
    with psycopg.connect(make_role(filled_dsn, [role])) as connection:
        outcomes = {name: outcome(connection, attempt) for name, attempt in CHAINED.items()}
    owners = CHAINED.keys() - ATTEMPTS.keys() - {"change a link"} if role is Role.OWNER else set()
    assert {name for name, error in outcomes.items() if error is None} == MAY[role] | owners


def test_an_owner_gets_the_function_of_the_chain_as_well(
    filled_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine], as_owner: Connection
) -> None:
    first, second = (make_role(filled_dsn, [Role.OWNER]) for _ in range(2))
    with make_engine(second).begin() as connection:
        assert add_chain(connection) == 1
    for name, statements in {name_of(first): None, "postgres": script(["owner"], "postgres")}.items():
        if statements is None:
            grant(as_owner, ["owner"], name)
        for statement in statements or ():
            as_owner.exec_driver_sql(statement)
        owners = "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'events_chain'"
        assert as_owner.exec_driver_sql(owners).scalars().all() == [name]
    as_owner.rollback()


@pytest.fixture
def as_owner(filled_dsn: str, make_engine: Callable[[str], Engine]) -> Iterator[Connection]:
    """A connection that may grant."""
    with make_engine(filled_dsn).connect() as connection:
        yield connection


def granted(connection: Connection, role: str) -> set[tuple[str, str]]:
    """What a role may do with our schema, tables, columns and sequences."""
    rows = connection.exec_driver_sql(
        """
        SELECT relname::text, privilege_type FROM pg_class, aclexplode(relacl)
        WHERE relnamespace = 'eventstore'::regnamespace AND grantee = %(role)s::regrole
        UNION ALL
        SELECT relname || '.' || attname, privilege_type
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
        WHERE relnamespace = 'eventstore'::regnamespace AND grantee = %(role)s::regrole
        UNION ALL
        SELECT nspname::text, privilege_type FROM pg_namespace, aclexplode(nspacl)
        WHERE nspname = 'eventstore' AND grantee = %(role)s::regrole""",
        {"role": role},
    )
    return {(name, right) for name, right in rows}


def name_of(dsn: str) -> str:
    return dsn.partition("://")[2].partition(":")[0]


CLEANER = {("eventstore", "USAGE"), ("inbox", "SELECT"), ("inbox", "DELETE")}


def test_granting_again_changes_nothing_and_granting_less_takes_the_rest(
    filled_dsn: str, make_role: MakeRole, as_owner: Connection
) -> None:
    role = name_of(make_role(filled_dsn, [Role.WRITER, Role.PROJECTOR]))
    before = granted(as_owner, role)
    assert ("streams.version", "UPDATE") in before
    grant(as_owner, ["projector", "writer", "writer"], role)
    assert granted(as_owner, role) == before
    as_owner.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA eventstore TO {role}")
    as_owner.exec_driver_sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA eventstore TO {role}")
    as_owner.exec_driver_sql(f"GRANT ALL ON SCHEMA eventstore TO {role}")
    as_owner.exec_driver_sql(f"GRANT UPDATE (payload) ON eventstore.events TO {role}")
    grant(as_owner, "cleaner", role)
    assert granted(as_owner, role) == CLEANER
    revoke(as_owner, role)
    assert granted(as_owner, role) == set()


def test_the_apps_own_tables_in_the_schema_are_left_alone(
    filled_dsn: str, make_role: MakeRole, as_owner: Connection
) -> None:
    role = name_of(make_role(filled_dsn, [Role.WRITER]))
    as_owner.exec_driver_sql(f"CREATE TABLE eventstore.orders (); GRANT ALL ON eventstore.orders TO {role}")
    grant(as_owner, [Role.CLEANER], role)
    revoke(as_owner, role)
    assert {table for table, _ in granted(as_owner, role)} == {"orders"}


def test_the_script_gives_what_granting_gives(
    filled_dsn: str, make_role: MakeRole, as_owner: Connection
) -> None:
    role = name_of(make_role(filled_dsn, [Role.CONSUMER]))
    for each in Role:
        if each is not Role.OWNER:
            grant(as_owner, [each], role)
            wanted = granted(as_owner, role)
            for statement in script(["cleaner" if each is not Role.CLEANER else "writer"], role):
                as_owner.exec_driver_sql(statement)
            assert granted(as_owner, role) != wanted
            for statement in script([each], role):
                as_owner.exec_driver_sql(statement)
            assert granted(as_owner, role) == wanted
    for statement in script([], role):
        as_owner.exec_driver_sql(statement)
    assert granted(as_owner, role) == set()


def test_the_tables_of_a_later_revision_come_with_the_next_grant(
    empty_engine: Engine, empty_dsn: str, make_role: MakeRole
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection, to="0001")
    role = name_of(make_role(empty_dsn, [Role.WRITER, Role.KEEPER]))
    with empty_engine.begin() as connection:
        tables = {table.partition(".")[0] for table, _ in granted(connection, role)}
        assert tables == {"eventstore", "events", "streams", "snapshots"}
        upgrade_database(connection)
        grant(connection, ["writer", "keeper"], role)
        assert ("personal_keys", "INSERT") in granted(connection, role)


def test_tables_change_hands_whole(
    filled_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine], as_owner: Connection
) -> None:
    first, second = (make_role(filled_dsn, [Role.OWNER]) for _ in range(2))
    third = name_of(make_role(filled_dsn, [Role.CLEANER]))
    owners = """
        SELECT DISTINCT pg_get_userbyid(owner) FROM (
            SELECT relowner FROM pg_class WHERE relnamespace = 'eventstore'::regnamespace
            UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace
            UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'eventstore') AS ours (owner)"""
    assert as_owner.exec_driver_sql(owners).scalars().all() == [name_of(second)]
    with pytest.raises(PermissionDeniedError), make_engine(first).begin() as connection:
        grant(connection, ["reader"], third)
    for roles in (["reader"], ["writer", "projector"]):
        with pytest.raises(ConfigurationError, match="owns the tables"):
            grant(as_owner, roles, name_of(second))
    as_owner.rollback()  # who grants waits for whoever grants
    with make_engine(second).begin() as connection:
        grant(connection, ["reader"], name_of(first))
        assert ("events", "SELECT") in granted(connection, name_of(first))


@pytest.mark.parametrize(
    "name", ['da"ta', "per%cent %s %(p1)s", "$1 {events}", "x; DROP TABLE x; --", "é" * 31]
)
def test_a_role_of_any_name_is_made_and_named_as_it_is(as_owner: Connection, name: str) -> None:
    grant(as_owner, ["cleaner"], name, create=True)
    grant(as_owner, ["cleaner"], name, create=True)
    quoted = sql.Identifier(name).as_string()
    assert granted(as_owner, quoted) == CLEANER
    can_log_in = as_owner.exec_driver_sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (name,))
    assert can_log_in.scalar() is False
    as_owner.rollback()


@pytest.mark.parametrize("schema", NAMES)
async def test_rights_in_a_schema_of_any_name(empty_dsn: str, schema: str) -> None:
    engine = create_async_store_engine(EventStoreConfig(dsn=empty_dsn, schema=schema))
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_database, schema)
        for roles in (["writer", "projector"], ["owner"]):
            await connection.run_sync(grant, roles, "k1s0_hunted", schema, create=True)
        await connection.rollback()
    await engine.dispose()


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "é" * 32, "public", "none", "pg_monitor", "nul\x00", "\ud800", None]
)
def test_names_that_mean_nobody_or_everybody_are_refused(as_owner: Connection, name: str) -> None:
    for refuse in (
        lambda: grant(as_owner, ["reader"], name, create=True),
        lambda: revoke(as_owner, name),
        lambda: script(["reader"], name),
    ):
        with pytest.raises(ConfigurationError, match="role"):
            refuse()


@pytest.mark.parametrize(
    ("roles", "to", "reason"),
    [
        ([], "k1s0_nobody", "which roles"),
        (["admin"], "k1s0_nobody", "no role 'admin', but owner, writer, reader"),
        (["owner", "writer"], "k1s0_nobody", "nothing else besides"),
        (["writer"], "k1s0_nobody", "there is no role 'k1s0_nobody'"),
        (["writer"], "postgres", "is a superuser"),
    ],
)
def test_what_makes_no_sense_is_not_granted(
    as_owner: Connection, roles: list[str], to: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        grant(as_owner, roles, to)


def test_without_tables_there_is_nothing_to_grant(empty_engine: Engine) -> None:
    with empty_engine.connect() as connection, pytest.raises(SchemaError, match="no tables"):
        grant(connection, ["writer"], "k1s0_hunted", create=True)
