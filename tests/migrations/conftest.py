"""Empty databases, the three ways to migrate them, and what a catalog holds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from k1s0_event_store.testing.plugin import cloned_database

ROOT = Path(__file__).parents[2]

Catalog = set[tuple[str, ...]]
_numbers = itertools.count(1)

# Everything that a revision can leave behind in a schema, as text.
CATALOG = """
WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)))
SELECT 'relation', relname, relkind::text, coalesce(reloptions::text, '') FROM ours
UNION ALL
SELECT 'column', relname, attname, concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull,
       attidentity, pg_get_expr(adbin, adrelid))
FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE relkind = 'r'
UNION ALL
SELECT 'constraint', relname, conname, pg_get_constraintdef(c.oid)
FROM ours JOIN pg_constraint AS c ON conrelid = ours.oid
UNION ALL
SELECT 'index', relname, pg_get_indexdef(indexrelid), indisvalid::text
FROM ours JOIN pg_index ON indexrelid = ours.oid
UNION ALL
SELECT 'trigger', relname, pg_get_triggerdef(t.oid), tgenabled::text
FROM ours JOIN pg_trigger AS t ON tgrelid = ours.oid WHERE NOT tgisinternal
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid), prokind::text
FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(%(schema)s))
"""


@pytest.fixture
def empty_dsn(event_store_server: str) -> Iterator[str]:
    """DSN of a database without our tables."""
    with cloned_database(event_store_server, "template0") as dsn:
        yield dsn


@pytest.fixture
def empty_engine(empty_dsn: str, make_engine: Callable[[str], Engine]) -> Engine:
    """An engine on a database without our tables."""
    return make_engine(empty_dsn)


@pytest.fixture
def catalog() -> Callable[..., Catalog]:
    """What a schema of a database holds."""

    def read(dsn: str, schema: str = "eventstore") -> Catalog:
        with psycopg.connect(dsn) as connection:
            return set(connection.execute(CATALOG, {"schema": schema}).fetchall())

    return read


@pytest.fixture
def alembic_command() -> Callable[..., subprocess.Popen[str]]:
    """`alembic ...` in the root of the repository, started in a process of its own."""

    def start(dsn: str, *args: str, schema: str | None = None) -> subprocess.Popen[str]:
        env = {**os.environ, "K1S0_EVENT_STORE_DSN": dsn}
        env.pop("K1S0_EVENT_STORE_SCHEMA", None)
        if schema is not None:
            env["K1S0_EVENT_STORE_SCHEMA"] = schema
        command = [sys.executable, "-W", "error", "-m", "alembic", *args]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


@pytest.fixture
def run_alembic(alembic_command: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """`alembic ...` in the root of the repository: what it printed; it must succeed."""

    def run(dsn: str, *args: str, schema: str | None = None) -> str:
        process = alembic_command(dsn, *args, schema=schema)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output

    return run
