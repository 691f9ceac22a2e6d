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

FILL = (
    """
    INSERT INTO events (event_id, aggregate_id, aggregate_type, event_type, version, timestamp, payload)
    SELECT event_id, id, 'Bench', 'BenchEvent', version, now(), jsonb_build_object(
        'data', %(payload)s::jsonb, 'actor_id', NULL, 'event_id', event_id, 'metadata', '{}'::jsonb,
        'tenant_id', NULL, 'event_type', 'BenchEvent', 'occurred_at', now(), 'aggregate_id', id,
        'causation_id', NULL, 'event_version', 1, 'aggregate_type', 'Bench',
        'correlation_id', gen_random_uuid(), 'aggregate_version', version)
    FROM generate_series(1, %(each)s) AS version,
         LATERAL (SELECT gen_random_uuid() AS event_id, md5('filled-' || stream)::uuid AS id
                  FROM generate_series(1, %(streams)s) AS stream OFFSET version * 0) AS stream""",
)


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
