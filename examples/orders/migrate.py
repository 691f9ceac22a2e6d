"""Make the tables: `python -m orders.migrate`. A larger app takes Alembic, see docs/migrations.md."""

import asyncio
import os

from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store.postgres.schema import upgrade_database
from orders.tables import Base


async def migrate(url: str) -> None:
    """The event store's tables and the app's, in one transaction; those that are there stay as they are."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_database)
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(migrate(os.environ["DATABASE_URL"]))
