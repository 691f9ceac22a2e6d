"""Tenants in one set of tables, kept apart by row-level security: an option that tables are given.

Every row gets a `tenant_id`, which PostgreSQL itself fills in and compares with the setting of the
transaction (`set_config(..., true)`); also for the owner of the tables (FORCE). It stands first in each
key: tenants may use the same streams, names and ids, and what one of them reads lies together. The
statements of the stores are the same with and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from k1s0_event_store.config import DEFAULT_SCHEMA, check_schema, check_tenant
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.postgres.chain import remake_chain_function
from k1s0_event_store.postgres.connection import Steps, joined_sync_runner, run_sync
from k1s0_event_store.postgres.errors import TENANT_REQUIRED
from k1s0_event_store.postgres.guards import seeing_all
from k1s0_event_store.postgres.models import metadata_for
from k1s0_event_store.postgres.schema import (
    CHAIN,
    LAYERS_NEED,
    TENANT_TABLES,
    TENANTS,
    columns_of,
    layers,
    require_revision,
    take_lock,
)
from k1s0_event_store.postgres.statements import (
    TENANT_SETTING,
    Query,
    Statement,
    quote_name,
    quote_text,
    statement,
)

# Not where the setting is missing: then this raises, and nothing is seen or written.
_REQUIRED: Final = f"""
CREATE OR REPLACE FUNCTION {{schema}}.tenant_required() RETURNS pg_catalog.text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'no tenant is set in this transaction' USING ERRCODE = '{TENANT_REQUIRED}',
        HINT = 'SELECT set_config(''{TENANT_SETTING}'', tenant, true) comes first.';
END
$$"""
_CURRENT: Final = f"""
coalesce(nullif(current_setting('{TENANT_SETTING}', true), ''), {{schema}}.tenant_required())"""

_ADD_COLUMN: Final = "ALTER TABLE {table} ADD COLUMN tenant_id pg_catalog.text NOT NULL DEFAULT {existing}"
_FILL_IN: Final = (
    "ALTER TABLE {table} ALTER COLUMN tenant_id SET DEFAULT " + _CURRENT + ", "
    "ADD CONSTRAINT {check} CHECK (tenant_id <> '')"
)
_SECURE: Final = (
    "CREATE POLICY tenants ON {table} USING (tenant_id = " + _CURRENT + ")",
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
)
_NEW_KEY: Final = "ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} ({keyed})"
_KEY: Final = "ALTER TABLE {table} ADD CONSTRAINT {name} {kind} ({keyed})"
_DROP_INDEX: Final = "DROP INDEX {schema}.{name}"
_INDEX: Final = "CREATE {kind} {name} ON {table} ({keyed}) {where}"
_OPEN: Final = (
    "DROP POLICY tenants ON {table}",
    "ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {table} DROP COLUMN tenant_id",  # and every key and index that holds it
)
_NO_LONGER_REQUIRED: Final = "DROP FUNCTION {schema}.tenant_required()"

# Without it PostgreSQL would take the one tenant for one of two hundred until it looks by itself.
_LOOK_AT: Final = "ANALYZE {table}"

_ANY_ROW: Final = "SELECT EXISTS (SELECT FROM {table})"
_TENANTS: Final = "SELECT min(tenant_id), max(tenant_id) FROM {table}"


def add_tenants(
    connection: sa.Connection, schema: str = DEFAULT_SCHEMA, *, existing: str | None = None
) -> bool:
    """Make those of our tables that are there keep tenants apart; False if they did already.

    In the transaction of `connection`, with the rights of the owner; async: `await connection.run_sync(...)`.
    All keys are built anew, and nobody reads or writes meanwhile. `existing` is the tenant of the rows that
    are there. From then on every store needs a tenant (`EventStoreConfig.tenant`). Raises SchemaError for
    tables below revision 0005, ConfigurationError where there are rows and nobody says whose.
    """
    if existing is not None:
        check_tenant(existing)
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    require_revision(connection, schema, LAYERS_NEED)
    return run_sync(runner, _add(schema, existing))


def remove_tenants(connection: sa.Connection, schema: str = DEFAULT_SCHEMA) -> bool:
    """Take what `add_tenants` made from the tables; False if it was not there.

    Raises ConfigurationError where there are rows of several tenants: their keys would clash.
    """
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    return run_sync(runner, _remove(schema))


def _add(schema: str, existing: str | None) -> Steps[bool]:
    columns = yield from columns_of(schema)
    there = {table for table, _ in columns}
    tables = [
        table
        for table in _tables(schema)
        if table.name in there and (table.name, TENANTS.column) not in columns
    ]
    if existing is None:
        yield from _require_no_rows(schema, tables)
    if tables:
        yield _made(_REQUIRED, schema)
    for table in tables:
        yield from _keep_apart(schema, table, existing)
    if (CHAIN.table, CHAIN.column) in columns:
        yield from remake_chain_function(schema, of_tenant=True)
    return bool(tables)


def _keep_apart(schema: str, table: sa.Table, existing: str | None) -> Steps[None]:
    yield _made(_ADD_COLUMN, schema, table.name, existing=quote_text(existing or ""))
    yield _made(_FILL_IN, schema, table.name, check=quote_name(f"chk_{table.name}_tenant"))
    for each in _keyed(table, _NEW_KEY, TENANTS.column):
        yield Query(each)
    for sql in _SECURE:
        yield _made(sql, schema, table.name)
    if existing is not None:
        yield _made(_LOOK_AT, schema, table.name)


def _require_no_rows(schema: str, tables: list[sa.Table]) -> Steps[None]:
    for table in tables:
        ((is_filled,),) = yield _made(_ANY_ROW, schema, table.name)
        if is_filled:
            raise ConfigurationError(
                f"there are rows in {table.name} already: say whose they are (existing=..., --existing)"
            )


def _remove(schema: str) -> Steps[bool]:
    found = yield from layers(schema)
    if TENANTS not in found:
        return False
    tenants = yield from seeing_all(schema, TENANT_TABLES, _some_tenants(schema))
    if len(tenants) > 1:
        raise ConfigurationError(
            f"there are rows of several tenants ({', '.join(tenants[:3])}, ...): their streams would clash"
        )
    for table in _tables(schema):
        for sql in _OPEN:
            yield _made(sql, schema, table.name)
        for each in _keyed(table, _KEY):
            yield Query(each)
    yield _made(_NO_LONGER_REQUIRED, schema)
    if CHAIN in found:
        yield from remake_chain_function(schema, of_tenant=False)
    return True


def _some_tenants(schema: str) -> Steps[list[str]]:
    found: set[str] = set()
    for table in TENANT_TABLES:
        ((first, last),) = yield _made(_TENANTS, schema, table)
        found |= {first, last} - {None}
    return sorted(found)


def _tables(schema: str) -> list[sa.Table]:
    return [table for table in metadata_for(schema).sorted_tables if table.name in TENANT_TABLES]


def _keyed(table: sa.Table, key: str, *first: str) -> Iterator[Statement]:
    """The keys and indexes of a table, anew, with these columns before their own."""
    schema = str(table.schema)
    at = {"schema": quote_name(schema), "table": f"{quote_name(schema)}.{quote_name(table.name)}"}
    for constraint in table.constraints:
        # SQLAlchemy has an empty primary key for a table without one.
        if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint) and constraint.columns:
            kind = "PRIMARY KEY" if isinstance(constraint, sa.PrimaryKeyConstraint) else "UNIQUE"
            columns = _columns(first, constraint.columns.keys())
            yield statement(key, **at, name=quote_name(str(constraint.name)), kind=kind, keyed=columns)
    for index in table.indexes:
        where = index.dialect_options["postgresql"]["where"]
        names = {
            **at,
            "name": quote_name(str(index.name)),
            "kind": "UNIQUE INDEX" if index.unique else "INDEX",
            "keyed": _columns(first, index.columns.keys()),
            "where": "" if where is None else f"WHERE {where}",
        }
        if first:
            yield statement(_DROP_INDEX, **names)
        yield statement(_INDEX, **names)


def _columns(first: tuple[str, ...], names: list[str]) -> str:
    return ", ".join(quote_name(name) for name in (*first, *names))


def _made(sql: str, schema: str, table: str = "", **names: str) -> Query:
    at = f"{quote_name(schema)}.{quote_name(table)}"
    return Query(statement(sql, schema=quote_name(schema), table=at, **names))
