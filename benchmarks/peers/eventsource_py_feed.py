"""eventsource-py 0.15.1 for the comparison of projections: a DatabaseProjection under its
SubscriptionManager. Every event has a transaction; the checkpoint follows every batch of 100, in a
transaction of its own (the defaults; its at-least-once form, the cheaper one)."""

import time
from itertools import count

import eventsource_py
from _read_model import COUNT, EMPTY, NAMED, TABLE
from eventsource import DatabaseProjection, InMemoryEventBus, SQLCheckpointRepository, handles
from eventsource.adapters.sql.schemas import get_schema
from eventsource.application.subscriptions import SubscriptionConfig, SubscriptionManager
from eventsource_py import BenchEvent, append
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

__all__ = ["append", "clear", "project", "rows", "setup"]

INSERT = text(NAMED)
# As shipped, PostgreSQL refuses one of its functions.
CHECKPOINTS = get_schema("checkpoints").replace("GET DIAGNOSTICS deleted = FOUND", "deleted := FOUND")
runs = count(1)


class RowPerEvent(DatabaseProjection):
    @handles(BenchEvent)
    async def happened(self, connection, event: BenchEvent) -> None:
        stream, version, total = str(event.aggregate_id), event.aggregate_version, event.data["total"]
        row = {"id": event.event_id, "stream": stream, "version": version, "total": total}
        await connection.execute(INSERT, row)


async def setup(dsn: str, pool_size: int = 10) -> None:
    await eventsource_py.setup(dsn, pool_size)
    async with eventsource_py.engine.begin() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute(CHECKPOINTS)
        await driver.execute(TABLE.format(id="uuid"))


async def clear() -> None:
    await _execute(EMPTY)


async def rows() -> int:
    return (await _execute(COUNT)).scalar()


async def project() -> float:
    engine = eventsource_py.engine
    projection = RowPerEvent(async_sessionmaker(engine, expire_on_commit=False))
    manager = SubscriptionManager(eventsource_py.store, InMemoryEventBus(), SQLCheckpointRepository(engine))
    config = SubscriptionConfig(start_from="beginning")
    await manager.subscribe(projection, config, name=f"bench-{next(runs)}")
    await manager.start()  # comes back when the projection has caught up
    end = time.perf_counter()
    await manager.stop()
    return end


async def _execute(statement: str):
    async with eventsource_py.engine.begin() as connection:
        return await connection.execute(text(statement))
