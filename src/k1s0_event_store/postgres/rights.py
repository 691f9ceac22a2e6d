"""Who may do what: the rights of each role as data, and the SQL that gives exactly them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import sqlalchemy as sa

from k1s0_event_store.config import DEFAULT_SCHEMA, check_schema
from k1s0_event_store.exceptions import ConfigurationError, SchemaError
from k1s0_event_store.postgres.binary_copy import EVENT_COLUMNS
from k1s0_event_store.postgres.connection import Steps, joined_sync_runner, run_sync
from k1s0_event_store.postgres.schema import VERSION_TABLE, take_lock
from k1s0_event_store.postgres.statements import TABLES, Query, Statement, quote_name, quote_text, statement


class Role(Enum):
    """What a role of the database is for. It may be several of these; an owner is nothing else."""

    OWNER = "owner"
    """Owns schema and tables: migrates, rebases, grants."""
    WRITER = "writer"
    """Appends, reads and locks streams, reads the feed, saves snapshots."""
    READER = "reader"
    """Reads all but keys and the inbox; changes nothing."""
    PROJECTOR = "projector"
    """Reads, runs and steers subscriptions, projections and relays."""
    CONSUMER = "consumer"
    """Handles messages through an inbox."""
    CLEANER = "cleaner"
    """Deletes old marks of the inbox."""
    KEEPER = "keeper"
    """Encrypts and decrypts personal data: makes and reads keys."""
    FORGETTER = "forgetter"
    """Deletes the keys of whom has to be forgotten."""
    ROTATOR = "rotator"
    """Wraps keys with another wrapping key."""


_READ: Final = ("SELECT",)
_ADD: Final = ("SELECT", "INSERT")
_CHANGE: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_DELETE: Final = ("SELECT", "DELETE")

RIGHTS: Final[Mapping[Role, Mapping[str, Sequence[str]]]] = {
    Role.WRITER: {
        # By column: positions, transaction ids and the times of storing are the server's to choose.
        "events": ("SELECT", f"INSERT ({', '.join(EVENT_COLUMNS)})"),
        # Lock and append move the version of a head row and nothing else.
        "streams": ("SELECT", "INSERT (aggregate_type, aggregate_id, version)", "UPDATE (version)"),
        "snapshots": _CHANGE,
        "cluster": _READ,
    },
    Role.READER: dict.fromkeys(
        (
            "events", "streams", "snapshots", "cluster",
            "subscriptions", "subscription_workers", "dead_letters", VERSION_TABLE,
        ),
        _READ,
    ),
    Role.PROJECTOR: {
        "events": _READ,
        "streams": _READ,
        "cluster": _READ,
        "subscriptions": _CHANGE,
        "subscription_workers": _CHANGE,
        "dead_letters": _CHANGE,
    },
    Role.CONSUMER: {"inbox": _ADD},
    Role.CLEANER: {"inbox": _DELETE},
    Role.KEEPER: {"personal_keys": _ADD},
    Role.FORGETTER: {"personal_keys": _DELETE},
    Role.ROTATOR: {"personal_keys": ("SELECT", "UPDATE (wrapping_key, secret)")},
}  # fmt: skip
"""The rights of all roles but the owner, by table."""

OURS: Final = (*TABLES, VERSION_TABLE)
FUNCTIONS: Final = ("events_refuse_change", "streams_touch")
LAYERS: Final = ("events_chain", "tenant_required")
"""Functions of what is optional on the tables."""

_CREATE_ROLE: Final = "CREATE ROLE {role} NOLOGIN"
_TAKE: Final = (
    "REVOKE ALL ON {tables} FROM {role}",
    "REVOKE ALL ON SEQUENCE {schema}.events_position_seq FROM {role}",
    "REVOKE ALL ON SCHEMA {schema} FROM {role}",
)
_ENTER: Final = "GRANT USAGE ON SCHEMA {schema} TO {role}"
_ALLOW: Final = "GRANT {rights} ON {table} TO {role}"
_MAKE_SCHEMA: Final = "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}"
_OWN_SCHEMA: Final = "ALTER SCHEMA {schema} OWNER TO {role}"
_OWN_TABLE: Final = "ALTER TABLE {table} OWNER TO {role}"
_OWN_FUNCTION: Final = "ALTER FUNCTION {schema}.{function}() OWNER TO {role}"
_OWN_IF_THERE: Final = "DO {body}"
_OWN_IF_THERE_BODY: Final = """BEGIN
    ALTER FUNCTION {schema}.{function}() OWNER TO {role};
EXCEPTION WHEN undefined_function THEN NULL;
END"""

# What there is: the role $1, in schema $2 the tables $3 and functions $4, and whether $1 owns any of it.
_LOOK: Final = statement("""
WITH schema AS (
    SELECT oid, nspowner FROM pg_catalog.pg_namespace WHERE nspname = $2::text
), ours AS (
    SELECT relname::text, relowner FROM pg_catalog.pg_class
    WHERE relnamespace = (SELECT oid FROM schema) AND relname = ANY ($3::text[]) AND relkind IN ('r', 'p')
)
SELECT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1::text),
       (SELECT coalesce(array_agg(relname), '{}') FROM ours),
       (SELECT coalesce(array_agg(proname::text), '{}') FROM pg_catalog.pg_proc
        WHERE pronamespace = (SELECT oid FROM schema) AND proname = ANY ($4::text[])),
       EXISTS (SELECT FROM (SELECT nspowner FROM schema UNION ALL SELECT relowner FROM ours) AS owners (who)
               WHERE pg_catalog.pg_get_userbyid(who) = $1::text)""")


@dataclass(frozen=True, slots=True)
class _Found:
    """What of ours is there, and what the role is: a superuser (None: it does not exist), an owner."""

    is_superuser: bool | None
    tables: Collection[str]
    functions: Collection[str]
    owns: bool


_NEWEST: Final = _Found(False, OURS, FUNCTIONS, False)


def grant(
    connection: sa.Connection,
    roles: Iterable[Role | str],
    to: str,
    schema: str = DEFAULT_SCHEMA,
    *,
    create: bool = False,
) -> None:
    """Give a role of the database the rights of `roles`, and take all others on our tables from it.

    In the transaction of `connection`, with the rights of the owner; async: `await connection.run_sync(...)`.
    Grant again after an upgrade: the tables of a new revision come with their rights. For "owner" the
    schema is made if it has to be, and all in it that is ours handed over. `create` makes the role, without
    a login, where there is none. Raises ConfigurationError for a role that is missing, a superuser, or the
    owner and is to be less; SchemaError where there are no tables.
    """
    wanted = check_roles(roles)
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    run_sync(runner, _grant(wanted, check_role_name(to), schema, create))


def revoke(connection: sa.Connection, who: str, schema: str = DEFAULT_SCHEMA) -> None:
    """Take all rights on our schema and tables from a role of the database; see `grant`."""
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    run_sync(runner, _grant((), check_role_name(who), schema, create=False))


def script(
    roles: Iterable[Role | str], to: str, schema: str = DEFAULT_SCHEMA, *, create: bool = False
) -> list[str]:
    """What `grant` executes on tables of the newest revision (without roles: `revoke`), for somebody else."""
    wanted, name = tuple(map(_role, roles)), check_role_name(to)
    made = [statement(_CREATE_ROLE, role=quote_name(name))] if create else []
    granted = _granting(wanted, name, check_schema(schema), _NEWEST)
    return [each.dollar for each in (*made, *granted)]


def rights_of(roles: Iterable[Role]) -> dict[str, list[str]]:
    """What those who are all of `roles` may do, by table."""
    found: dict[str, list[str]] = {}
    for role in roles:
        for table, rights in RIGHTS[role].items():
            known = found.setdefault(table, [])
            known += [right for right in rights if right not in known]
    return found


def check_roles(roles: Iterable[Role | str]) -> tuple[Role, ...]:
    """The roles, each once; raises ConfigurationError where there is none, or an owner is to be more."""
    wanted = tuple(dict.fromkeys(map(_role, (roles,) if isinstance(roles, str | Role) else roles)))
    if not wanted:
        raise ConfigurationError("which roles? Give at least one, or revoke all rights")
    if Role.OWNER in wanted and len(wanted) > 1:
        raise ConfigurationError("an owner has all rights: it is nothing else besides")
    return wanted


def _role(role: Role | str) -> Role:
    try:
        return Role(role)
    except ValueError:
        known = ", ".join(each.value for each in Role)
        raise ConfigurationError(f"there is no role {role!r}, but {known}") from None


def check_role_name(name: object) -> str:
    """Return `name` if PostgreSQL takes it, quoted, for one role; else raise ConfigurationError."""
    if not isinstance(name, str) or not name or "\x00" in name:
        raise ConfigurationError(f"a role's name must be a string that is not empty, without NUL: {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"a role's name must be Unicode text, not {name!r}") from None
    if length > 63:  # PostgreSQL would cut it, and take another role
        raise ConfigurationError(f"a role's name must have at most 63 bytes, not {length}")
    # "public" means everybody, even in quotes.
    if name in {"public", "none"} or name.startswith("pg_"):
        raise ConfigurationError(f"{name!r} is no role that rights on events should be given to")
    return name


def _grant(roles: Sequence[Role], to: str, schema: str, create: bool) -> Steps[None]:
    found = yield from _look(to, schema)
    if found.is_superuser is None and create:
        yield Query(statement(_CREATE_ROLE, role=quote_name(to)))
    elif found.is_superuser is None:
        raise ConfigurationError(f"there is no role {to!r} in this cluster: create it first")
    elif found.is_superuser:
        raise ConfigurationError(f"{to!r} is a superuser, who may do everything: choose another role")
    elif found.owns and roles != (Role.OWNER,):
        raise ConfigurationError(
            f"{to!r} owns the tables, and may do everything with them: make another role their owner first"
        )
    if not found.tables and roles != (Role.OWNER,):
        raise SchemaError(schema, ("there are no tables to have rights on",))
    for each in _granting(roles, to, schema, found):
        yield Query(each)


def _look(role: str, schema: str) -> Steps[_Found]:
    ((is_superuser, tables, functions, owns),) = yield Query(
        _LOOK, (role, schema, list(OURS), list(FUNCTIONS))
    )
    return _Found(is_superuser, tables, functions, owns)


def _granting(roles: Sequence[Role], to: str, schema: str, found: _Found) -> Iterator[Statement]:
    names = {"schema": quote_name(schema), "role": quote_name(to)}
    if roles == (Role.OWNER,):
        yield from _handing_over(names, found)
        return
    tables = [f"{names['schema']}.{table}" for table in OURS if table in found.tables]
    for sql in _TAKE:
        yield statement(sql, **names, tables=", ".join(tables))
    if roles:
        yield statement(_ENTER, **names)
    for table, rights in rights_of(roles).items():
        if table in found.tables:
            at = f"{names['schema']}.{table}"
            yield statement(_ALLOW, **names, table=at, rights=", ".join(rights))


def _handing_over(names: dict[str, str], found: _Found) -> Iterator[Statement]:
    yield statement(_MAKE_SCHEMA, **names)
    yield statement(_OWN_SCHEMA, **names)
    for table in OURS:
        if table in found.tables:
            yield statement(_OWN_TABLE, **names, table=f"{names['schema']}.{table}")
    for function in FUNCTIONS:
        if function in found.functions:
            yield statement(_OWN_FUNCTION, **names, function=function)
    # A script is for tables that nobody looks at when it is made.
    for function in LAYERS:
        body = quote_text(statement(_OWN_IF_THERE_BODY, **names, function=function).dollar)
        yield statement(_OWN_IF_THERE, body=body)
