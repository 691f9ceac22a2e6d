"""Making, changing and checking our tables: one history of revisions for all three ways.

The ways: `alembic upgrade head` in the repository, `k1s0-event-store db upgrade` from the wheel, and
`upgrade(op, ...)` called from a revision of the app's own Alembic history. All three keep the
same version table, `k1s0_event_store_version` in our schema, and wait for each other on one advisory lock.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from k1s0_event_store.config import DEFAULT_SCHEMA, check_schema
from k1s0_event_store.exceptions import ConfigurationError, SchemaError
from k1s0_event_store.postgres.connection import Steps, joined_sync_runner, run_sync
from k1s0_event_store.postgres.errors import tenant_required
from k1s0_event_store.postgres.models import metadata_for
from k1s0_event_store.postgres.statements import TABLES, Command, Query, statement

if TYPE_CHECKING:
    from alembic.operations import Operations

_MIGRATION_LOCK: Final = statement(
    "SELECT pg_advisory_xact_lock(hashtextextended('k1s0_event_store ' || $1::text, 0))"
)
_DIALECT: Final = sa.make_url("postgresql://").get_dialect()()
HEAD: Final = "head"
BASE: Final = "base"
# Not "alembic_version": in a schema shared with the app that name is the app's.
VERSION_TABLE: Final = "k1s0_event_store_version"
_TRIGGERS: Final = frozenset(
    {("streams", "trigger_streams_update_updated_at"), ("events", "trigger_events_append_only")}
)


@dataclass(frozen=True, slots=True)
class Layer:
    """Something optional on our tables: where its column is, its trigger must be, if it has one."""

    name: str
    removal: str
    table: str
    column: str
    type: str
    trigger: str | None = None


CHAIN: Final = Layer(
    "the hash chain", "k1s0-event-store chain remove", "events", "chain", "bytea", "trigger_events_chain"
)
TENANTS: Final = Layer(
    "row-level security for tenants", "k1s0-event-store tenants remove", "events", "tenant_id", "text"
)
_LAYERS: Final = (CHAIN, TENANTS)
# From there on JSON is kept as the text that it is. Not the newest revision: an app's own history adds a
# layer wherever it once did.
LAYERS_NEED: Final = "0005"
TENANT_TABLES: Final = tuple(table for table in TABLES if table != "cluster")
"""Each of them has the column, where events have it."""


def migrations_path() -> Path:
    """Where the revisions are: in the package of a wheel, else at the top of the repository."""
    shipped = Path(__file__).parents[1] / "migrations"
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "migrations"


@cache
def _revisions() -> tuple[ModuleType, ...]:
    """The revision modules, oldest first."""
    modules = [_load(path) for path in sorted((migrations_path() / "versions").glob("*.py"))]
    by_parent = {module.down_revision: module for module in modules}
    ordered: list[ModuleType] = []
    while (following := by_parent.get(ordered[-1].revision if ordered else None)) is not None:
        ordered.append(following)
    return tuple(ordered)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"k1s0_event_store_revision_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load the revision {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def head_revision() -> str:
    """The revision that this code expects."""
    return str(_revisions()[-1].revision)


def upgrade(op: Operations | Any, schema: str = DEFAULT_SCHEMA, to: str = HEAD) -> None:
    """Bring our tables up to revision `to`, from an app's Alembic revision: `upgrade(op, to="0001")`.

    Name the revision there, not "head": the app's history then means the same for ever. Does
    nothing where the database is there already. Raises ConfigurationError for an unknown
    revision, or one below the database's.
    """
    connection = _connection(op)
    take_lock(connection, check_schema(schema))
    target, current = _index(to), _index(current_revision(connection, schema))
    if to != HEAD and target < current:
        raise ConfigurationError(
            f"the tables are at revision {_name(current)} already, above {to}: use downgrade"
        )
    _ensure_version_table(op, connection, schema)
    for index in range(current, target):
        _revisions()[index].up(op, schema)
    if current != target:
        _record(connection, schema, target)


def downgrade(op: Operations | Any, schema: str = DEFAULT_SCHEMA, to: str = BASE) -> None:
    """Take our tables down to revision `to` ("base": all of them, with everything in them)."""
    connection = _connection(op)
    take_lock(connection, check_schema(schema))
    target, current = _index(to), _index(current_revision(connection, schema))
    if target > current:
        raise ConfigurationError(f"the tables are at revision {_name(current)}, below {to}: use upgrade")
    if target < current and (found := run_sync(joined_sync_runner(connection, schema), layers(schema))):
        advice = "; ".join(f"{layer.name} stands on the tables: {layer.removal}" for layer in found)
        raise ConfigurationError(f"{advice}, and downgrade then")
    for index in reversed(range(target, current)):
        _revisions()[index].down(op, schema)
    if current != target:
        _record(connection, schema, target)


def require_revision(connection: sa.Connection, schema: str, least: str) -> None:
    """Raise SchemaError where our tables are below a revision."""
    current = current_revision(connection, schema)
    if _index(current) < _index(least):
        raise SchemaError(schema, (f"the tables are at revision {current}, below {least}",))


def upgrade_database(connection: sa.Connection, schema: str = DEFAULT_SCHEMA, to: str = HEAD) -> None:
    """`upgrade` on a plain connection, in its transaction; async: `await connection.run_sync(...)`."""
    upgrade(_operations(connection), schema, to)


def downgrade_database(connection: sa.Connection, schema: str = DEFAULT_SCHEMA, to: str = BASE) -> None:
    """`downgrade` on a plain connection, in its transaction."""
    downgrade(_operations(connection), schema, to)


def _operations(connection: sa.Connection) -> Operations:
    # Here, as Alembic is a third of what starting a command takes, and few commands migrate.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    return Operations(MigrationContext.configure(connection))


def include_object(schema: str = DEFAULT_SCHEMA) -> Callable[..., bool]:
    """For `context.configure(include_object=...)`: autogenerate leaves our tables alone.

    Other tables in `schema` stay the app's.
    """
    ours = {VERSION_TABLE, *(table.name for table in metadata_for(schema).sorted_tables)}

    def include(
        obj: sa.schema.SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: object
    ) -> bool:
        table = obj if isinstance(obj, sa.Table) else getattr(obj, "table", None)
        if not isinstance(table, sa.Table) or table.name not in ours:
            return True
        # Tables of the default schema are reflected without a schema.
        return (table.schema or "public") != schema

    return include


def current_revision(connection: sa.Connection, schema: str = DEFAULT_SCHEMA) -> str:
    """The revision that our tables are at, "base" where there are none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return BASE
    return connection.execute(sa.select(_version_table(schema).c.version_num)).scalar() or BASE


def layers(schema: str) -> Steps[list[Layer]]:
    """The layers on our tables."""
    return list(_layers_of((yield from columns_of(schema))))


def _layers_of(columns: Mapping[tuple[str, str], str]) -> Iterator[Layer]:
    return (layer for layer in _LAYERS if columns.get((layer.table, layer.column)) == layer.type)


def _connection(op: Operations | Any) -> sa.Connection:
    if op.get_context().as_sql:
        raise ConfigurationError(
            "the event store's helpers need a live connection; for SQL scripts run "
            "`alembic upgrade head --sql` on the event store's own migrations"
        )
    connection: sa.Connection = op.get_bind()
    return connection


def _version_table(schema: str) -> sa.Table:
    column = sa.Column("version_num", sa.String(32), nullable=False)
    key = sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc")
    return sa.Table(VERSION_TABLE, sa.MetaData(), column, key, schema=schema)


def take_lock(connection: sa.Connection, schema: str) -> None:
    """Racing starters wait here until the first one has committed."""
    run_sync(joined_sync_runner(connection, schema), _locked(schema))


def _locked(schema: str) -> Steps[None]:
    yield Query(_MIGRATION_LOCK, (schema,))


def _ensure_version_table(op: Any, connection: sa.Connection, schema: str) -> None:
    inspector = sa.inspect(connection)
    if not inspector.has_schema(schema):
        op.execute(sa.schema.CreateSchema(schema))
    if not inspector.has_table(VERSION_TABLE, schema=schema):
        op.execute(sa.schema.CreateTable(_version_table(schema)))


def _record(connection: sa.Connection, schema: str, index: int) -> None:
    table = _version_table(schema)
    connection.execute(sa.delete(table))
    if index:
        connection.execute(sa.insert(table).values(version_num=_name(index)))


def _index(revision: str) -> int:
    """How many revisions are applied when the tables are at `revision`."""
    names = [BASE, *(module.revision for module in _revisions())]
    if revision == HEAD:
        return len(names) - 1
    if revision not in names:
        raise ConfigurationError(
            f"revision {revision!r} is not known to this version of the library, it knows "
            f"{', '.join(names)}; a newer version may have migrated the database"
        )
    return names.index(revision)


def _name(index: int) -> str:
    return str(_revisions()[index - 1].revision) if index else BASE


_COLUMNS: Final = statement("""
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = $1::text""")
_INDEXES: Final = statement(
    "SELECT tablename::text, indexname::text FROM pg_indexes WHERE schemaname = $1::text"
)
_ENABLED_TRIGGERS: Final = statement("""
SELECT c.relname, t.tgname
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1::text AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')""")


_SECURED: Final = statement("""
SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_policy AS p ON p.polrelid = c.oid
WHERE n.nspname = $1::text AND p.polname = 'tenants' AND c.relrowsecurity AND c.relforcerowsecurity""")


def columns_of(schema: str) -> Steps[dict[tuple[str, str], str]]:
    """The types of all columns, by table and name."""
    # Where the session has a temporary type of that name, the schema is told.
    return {
        (row[0], row[1]): row[2].removeprefix("pg_catalog.") for row in (yield Command(_COLUMNS, (schema,)))
    }


def validate(schema: str, tenant: str | None = None) -> Steps[None]:
    """Compare the live tables with what this code expects; raises SchemaError with every difference."""
    columns = yield from columns_of(schema)
    indexes = {tuple(row) for row in (yield Command(_INDEXES, (schema,)))}
    triggers = {tuple(row) for row in (yield Command(_ENABLED_TRIGGERS, (schema,)))}
    problems: list[str] = []
    tables = {table for table, _ in columns}
    for table in metadata_for(schema).sorted_tables:
        if table.name in tables:
            problems += _column_problems(table, columns)
            problems += [
                f"index {name} is missing"
                for name in _index_names(table)
                if (table.name, name) not in indexes
            ]
        else:
            problems.append(f"table {table.name} is missing")
    found = set(_layers_of(columns))
    wanted = _TRIGGERS.union((layer.table, layer.trigger) for layer in found if layer.trigger is not None)
    problems += [
        f"trigger {name} on {table} is missing or disabled"
        for table, name in sorted(wanted - triggers)
        if table in tables
    ]
    secured = {row[0] for row in (yield Command(_SECURED, (schema,)))}
    if TENANTS in found:
        problems += _open_tables(columns, secured)
    elif tenant is not None:
        problems.append("the tables do not know tenants: k1s0-event-store tenants add")
    if problems:
        raise SchemaError(schema, tuple(problems))
    if TENANTS in found and tenant is None:
        raise tenant_required(schema)


def _open_tables(columns: Mapping[tuple[str, str], str], secured: set[str]) -> list[str]:
    """Where a tenant could reach the rows of another."""
    return [
        f"column {table}.{TENANTS.column} is missing"
        if (table, TENANTS.column) not in columns
        else f"row-level security on {table} is not enabled and forced, with its policy"
        for table in TENANT_TABLES
        if table not in secured or (table, TENANTS.column) not in columns
    ]


def _column_problems(table: sa.Table, columns: dict[tuple[str, str], str]) -> list[str]:
    problems: list[str] = []
    for column in table.columns:
        wanted = str(column.type.compile(dialect=_DIALECT)).lower()
        found = columns.get((table.name, column.name))
        if found is None:
            problems.append(f"column {table.name}.{column.name} is missing")
        elif found != wanted:
            problems.append(f"column {table.name}.{column.name} is {found}, not {wanted}")
    return problems


def _index_names(table: sa.Table) -> list[str]:
    constraints = (
        c for c in table.constraints if isinstance(c, sa.UniqueConstraint | sa.PrimaryKeyConstraint)
    )
    return sorted([str(c.name) for c in constraints if c.name] + [str(i.name) for i in table.indexes])
