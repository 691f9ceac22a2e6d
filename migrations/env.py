"""Alembic's entry: `alembic upgrade head` with the DSN in K1S0_EVENT_STORE_DSN.

The schema is K1S0_EVENT_STORE_SCHEMA, `eventstore` if that is not set; the version table lives in it.
"""

from __future__ import annotations

import asyncio
import os
import re

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

SCHEMA = os.environ.get("K1S0_EVENT_STORE_SCHEMA", "eventstore")


def run(connection: sa.Connection) -> None:
    """Migrate in the connection's transaction; racing starters wait for each other."""
    connection.execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended('k1s0_event_store ' || :schema, 0))"),
        {"schema": SCHEMA},
    )
    known = connection.execute(sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": SCHEMA})
    if known.first() is None:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
    context.configure(connection=connection, version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    dsn = os.environ.get("K1S0_EVENT_STORE_DSN")
    if not dsn:
        raise SystemExit("set K1S0_EVENT_STORE_DSN, for example postgresql://user:password@localhost/app")
    plain = re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", dsn)
    engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": plain})
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def offline() -> None:
    """`alembic upgrade head --sql`: the statements, for somebody else to run."""
    context.configure(dialect_name="postgresql", version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(main())
