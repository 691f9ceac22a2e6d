"""The hash chain, a layer on the tables that is optional: a column of `events`, filled by a trigger.

A trigger, because it holds on every way into the table: appends of one event and of many, of one stream and
of several, COPY, imports, and what others write past the library. `k1s0_event_store.chain` is the same in
Python.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from k1s0_event_store.config import DEFAULT_SCHEMA, check_schema
from k1s0_event_store.exceptions import SchemaError
from k1s0_event_store.postgres.connection import Steps, joined_sync_runner, run_sync
from k1s0_event_store.postgres.errors import CHAIN_BROKEN
from k1s0_event_store.postgres.guards import changing_events, seeing_all
from k1s0_event_store.postgres.schema import CHAIN, LAYERS_NEED, TENANTS, layers, require_revision, take_lock
from k1s0_event_store.postgres.statements import Query, quote_name, quote_text, schema_names, statement

# Volatile, so that it sees the rows that its own statement has inserted before, and what was committed
# while the append waited for the head of the stream. Without sequential scans: the plan is kept for the
# session, and one made while the table is small would read all of it for each event when it has grown.
_MAKE_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION {schema}.events_chain() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS {body}"""
_BODY: Final = """
DECLARE
    previous bytea := '';
BEGIN
    IF NEW.version > 1 THEN
        SELECT e.chain INTO previous FROM {events} AS e
        WHERE {of_tenant}e.aggregate_type = NEW.aggregate_type AND e.aggregate_id = NEW.aggregate_id
          AND e.version = NEW.version - 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'version % of % % has no event before it to be chained to',
                NEW.version, NEW.aggregate_type, NEW.aggregate_id USING ERRCODE = '{chain_broken}';
        END IF;
    END IF;
    NEW.chain := sha256(previous || convert_to(json_build_array(
        NEW.aggregate_type, NEW.aggregate_id, NEW.version, NEW.event_id, NEW.event_type,
        (extract(epoch FROM NEW.occurred_at) * 1000000)::bigint,
        (extract(epoch FROM NEW.recorded_at) * 1000000)::bigint,
        NEW.payload::text, NEW.metadata::text)::text, 'UTF8'));
    RETURN NEW;
END"""

# One lock, taken at once: in whatever order others take theirs, nobody waits in a circle.
_LOCK: Final = "LOCK TABLE {events} IN ACCESS EXCLUSIVE MODE"
_ADD_COLUMN: Final = "ALTER TABLE {events} ADD COLUMN chain bytea"
_WATCH: Final = """
CREATE TRIGGER {trigger} BEFORE INSERT{or_update} ON {events}
FOR EACH ROW EXECUTE FUNCTION {schema}.events_chain()"""
_UNWATCH: Final = "DROP TRIGGER {trigger} ON {events}"

# The trigger itself makes the links of what is there. One event at a time: in one statement for all the
# order would be the planner's, and an event may come before the one that it is chained to.
_LINK_ALL: Final = "DO {body}"
_LINK_ALL_BODY: Final = """
DECLARE
    place tid;
BEGIN
    FOR place IN SELECT ctid FROM {events} ORDER BY aggregate_type, aggregate_id, version LOOP
        UPDATE {events} SET chain = NULL WHERE ctid = place;
    END LOOP;
END"""
_COUNT: Final = "SELECT count(*) FROM {events}"
_REQUIRE: Final = "ALTER TABLE {events} ALTER COLUMN chain SET NOT NULL"

_REMOVE: Final = (
    "DROP TRIGGER IF EXISTS {trigger} ON {events}",
    "DROP FUNCTION IF EXISTS {schema}.events_chain()",
    "ALTER TABLE {events} DROP COLUMN IF EXISTS chain",
)

_PARTS: Final = statement("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
               WHERE a.attrelid = c.oid AND a.attname = 'chain' AND a.atttypid = 'bytea'::regtype
                 AND NOT a.attisdropped),
       EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = $2::text)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1::text AND c.relname = 'events'""")


def add_chain(connection: sa.Connection, schema: str = DEFAULT_SCHEMA) -> int | None:
    """Chain the events of each stream, those that are there and all to come; async: `run_sync`.

    In the transaction of `connection`, with the rights of the owner. Nobody can use the events until it is
    committed, and each is written anew once. Returns how many there were; None: they are chained already.
    Raises SchemaError for tables below revision 0005, ChainBrokenError where an event is missing.
    """
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    require_revision(connection, schema, LAYERS_NEED)
    return run_sync(runner, _add(schema))


def remove_chain(connection: sa.Connection, schema: str = DEFAULT_SCHEMA) -> bool:
    """Take the chain off, with all links; events stay. False where there is none. See `add_chain`."""
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    return run_sync(runner, _remove(schema))


def _add(schema: str) -> Steps[int | None]:
    has_column, has_trigger = yield from _parts(schema)
    if has_column and has_trigger:
        return None
    if has_column or has_trigger:
        raise SchemaError(schema, ("there is half a chain on table events: remove it, and add it again",))
    of_tenant = TENANTS in (yield from layers(schema))
    return (yield from seeing_all(schema, ("events",), _chain_all(schema, of_tenant)))


def _chain_all(schema: str, of_tenant: bool) -> Steps[int]:
    names = _names(schema)
    for sql in (_LOCK, _ADD_COLUMN):
        yield Query(statement(sql, **names))
    yield from remake_chain_function(schema, of_tenant=of_tenant)
    yield Query(statement(_WATCH, **names, or_update=" OR UPDATE"))
    yield from changing_events(schema, _link_all(names))
    yield Query(statement(_UNWATCH, **names))
    for sql in (_WATCH, _REQUIRE):
        yield Query(statement(sql, **names, or_update=""))
    ((events,),) = yield Query(statement(_COUNT, **names))
    return int(events)


def _link_all(names: dict[str, str]) -> Steps[None]:
    yield Query(statement(_LINK_ALL, **names, body=quote_text(statement(_LINK_ALL_BODY, **names).dollar)))


def remake_chain_function(schema: str, *, of_tenant: bool) -> Steps[None]:
    """The function of the trigger, for tables that know tenants or not: a stream is one of a tenant then."""
    names = _names(schema)
    clause = "e.tenant_id = NEW.tenant_id AND " if of_tenant else ""
    body = statement(_BODY.replace("{of_tenant}", clause), **names, chain_broken=CHAIN_BROKEN)
    yield Query(statement(_MAKE_FUNCTION, **names, body=quote_text(body.dollar)))


def _remove(schema: str) -> Steps[bool]:
    there = any((yield from _parts(schema)))
    if there:
        for sql in _REMOVE:
            yield Query(statement(sql, **_names(schema)))
    return there


def _names(schema: str) -> dict[str, str]:
    return {**schema_names(schema), "schema": quote_name(schema), "trigger": str(CHAIN.trigger)}


def _parts(schema: str) -> Steps[tuple[bool, bool]]:
    rows = yield Query(_PARTS, (schema, CHAIN.trigger))
    return (rows[0][0], rows[0][1]) if rows else (False, False)
