"""eventsource-py 0.15.1 (async SQLAlchemy + asyncpg). ASYNC. Needs Python >= 3.13.
pip install 'eventsource-py[postgresql]==0.15.1'"""

from typing import Any

import asyncpg
from _common import parse_dsn, stream_uuid
from eventsource import DomainEvent, EventRegistry
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.adapters.sql.schemas import get_schema
from eventsource.domain import StreamId
from eventsource.ports import ExpectedVersion, FeedReadOptions
from sqlalchemy.ext.asyncio import create_async_engine

CATEGORY = "Bench"


class BenchEvent(DomainEvent):
    aggregate_type: str = CATEGORY
    data: dict[str, Any]


engine = store = None


async def setup(dsn: str, pool_size: int = 10) -> None:
    global engine, store
    c = await asyncpg.connect(dsn)
    await c.execute("DROP TABLE IF EXISTS event_outbox, snapshots, events CASCADE")
    # get_schema("all") needs the uuid-ossp extension; the single schemas do not
    for name in ("events", "outbox", "snapshots"):
        await c.execute(get_schema(name))
    await c.close()
    p = parse_dsn(dsn)
    engine = create_async_engine(
        f"postgresql+asyncpg://{p['user']}@/{p['dbname']}?host={p['host']}&port={p['port']}",
        pool_size=pool_size,
        max_overflow=0,
    )
    store = PostgreSQLEventStore(engine, EventRegistry([BenchEvent]))


async def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    agg = stream_uuid(stream)
    await store.append(
        StreamId(aggregate_id=agg, category=CATEGORY),
        [BenchEvent(aggregate_id=agg, data=p) for p in payloads],
        ExpectedVersion.exact(start_version),
    )


async def load(stream: str) -> list[dict]:
    sid = StreamId(aggregate_id=stream_uuid(stream), category=CATEGORY)
    return [env.event.data async for env in store.read_stream(sid)]


async def read_all(after=None, limit: int | None = None) -> list[dict]:
    return [env.event.data async for env in store.read_all(after, FeedReadOptions(limit=limit))]


async def close() -> None:
    await engine.dispose()
