"""Alembic's entry: `alembic upgrade head` with the DSN in K1S0_EVENT_STORE_DSN.

The schema is K1S0_EVENT_STORE_SCHEMA, `eventstore` if that is not set; the version table lives in it.
"""

from __future__ import annotations

import asyncio
import os
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

SCHEMA = os.environ.get("K1S0_EVENT_STORE_SCHEMA") or "eventstore"
# The library keeps the same table: whichever way a database was migrated, the others go on from there.
VERSION_TABLE = "k1s0_event_store_version"
# asyncpg would send these parameters of libpq to the server as settings.
LIBPQ_ONLY = re.compile("connect_timeout|keepalives|tcp_user|client_encoding|fallback_|channel_b|gssencmode")


def run(connection: sa.Connection) -> None:
    """Migrate in the connection's transaction; racing starters wait for each other."""
    connection.execute(
        sa.text(
            "SELECT pg_catalog.pg_advisory_xact_lock("
            "pg_catalog.hashtextextended('k1s0_event_store ' || CAST(:schema AS text), 0))"
        ),
        {"schema": SCHEMA},
    )
    known = connection.execute(
        sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": SCHEMA}
    )
    if known.first() is None:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
    context.configure(connection=connection, version_table=VERSION_TABLE, version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()


def asyncpg_dsn(dsn: str) -> str:
    """`dsn` as asyncpg takes it; what it cannot do and the URL requires stays, to be refused."""
    split = urlsplit(re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", dsn))
    given = parse_qsl(split.query, keep_blank_values=True)
    kept = [(key, value) for key, value in given if value == "require" or not LIBPQ_ONLY.match(key)]
    return f"postgresql://{split.netloc}{split.path}?{urlencode(kept)}"


async def main() -> None:
    dsn = os.environ.get("K1S0_EVENT_STORE_DSN")
    if not dsn:
        raise SystemExit("set K1S0_EVENT_STORE_DSN, for example postgresql://user:password@localhost/app")
    engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": asyncpg_dsn(dsn)})
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def offline() -> None:
    """`alembic upgrade head --sql`: the statements, for somebody else to run."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the driver's own style would double every percent sign
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
    )
    with context.begin_transaction():
        context.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(main())
