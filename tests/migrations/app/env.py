"""The app's own Alembic entry: blocking or async, as the URL's driver says."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

ATTRIBUTES = context.config.attributes
URL = make_url(ATTRIBUTES["url"])


def run(connection: Connection | None, **options: object) -> None:
    """Migrate, or compare, with what the test has chosen."""
    context.configure(
        connection=connection,
        target_metadata=ATTRIBUTES["metadata"],
        include_schemas=True,
        include_object=ATTRIBUTES.get("include_object"),
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def blocking() -> None:
    """As Alembic's generic template."""
    with create_engine(URL, poolclass=NullPool).connect() as connection:
        run(connection)


async def asynchronous() -> None:
    """As Alembic's async template."""
    engine = create_async_engine(URL, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    run(None, url=URL)
elif URL.get_driver_name() == "asyncpg":
    asyncio.run(asynchronous())
else:
    blocking()
