"""logicblocks-event-store 0.1.11 (psycopg3 async). ASYNC. Needs Python >= 3.13.
pip install logicblocks-event-store==0.1.11
The wheel ships NO DDL: the SQL below is the repo's sql/*.sql at tag v0.1.11 (no `metadata` column;
0.1.12a* adds `metadata JSONB NOT NULL` and NewEvent(metadata=...)). `position` is zero-based."""

import logging

import structlog
from logicblocks.event.store import EventStore, conditions
from logicblocks.event.store.adapters import PostgresEventStorageAdapter
from logicblocks.event.store.adapters.postgres import QuerySettings
from logicblocks.event.types import NewEvent
from psycopg_pool import AsyncConnectionPool

# The store logs every publish at INFO (and serialises events for DEBUG): silence for a fair run.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

DDL = """
DROP TABLE IF EXISTS events;
CREATE TABLE events (
    id TEXT NOT NULL, name TEXT NOT NULL, stream TEXT NOT NULL, category TEXT NOT NULL,
    position INT NOT NULL, payload JSONB NOT NULL, sequence_number BIGSERIAL NOT NULL,
    observed_at TIMESTAMP WITH TIME ZONE NOT NULL, occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id), UNIQUE (id));
CREATE INDEX events_sequence_number_index ON events (sequence_number);
CREATE INDEX events_category_stream_position_index ON events (category, stream, position);
CREATE INDEX events_category_sequence_number_index ON events (category, sequence_number);
CREATE INDEX events_category_stream_sequence_number_index ON events (category, stream, sequence_number DESC);
"""
CATEGORY = "bench"
FILL = (
    """
    INSERT INTO events (id, name, stream, category, position, payload, observed_at, occurred_at)
    SELECT replace(gen_random_uuid()::text, '-', ''), 'bench-event', 'filled-' || stream, 'bench',
           version - 1, %(payload)s::jsonb, now(), now()
    FROM generate_series(1, %(each)s) AS version, generate_series(1, %(streams)s) AS stream""",
)
pool = store = None


async def setup(dsn: str, pool_size: int = 10, page_size: int = 100) -> None:
    global pool, store
    pool = AsyncConnectionPool(dsn, min_size=pool_size, max_size=pool_size, open=False)
    await pool.open(wait=True)
    async with pool.connection() as c:
        await c.execute(DDL)
    # default serialisation_guarantee=LOG: one global advisory lock per append
    adapter = PostgresEventStorageAdapter(
        connection_source=pool, query_settings=QuerySettings(scan_query_page_size=page_size)
    )
    store = EventStore(adapter)


async def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    cond = conditions.stream_is_empty() if start_version == 0 else conditions.position_is(start_version - 1)
    await store.stream(category=CATEGORY, stream=stream).publish(
        events=[NewEvent(name="bench-event", payload=p) for p in payloads], condition=cond
    )


async def load(stream: str) -> list[dict]:
    return [e.payload async for e in store.stream(category=CATEGORY, stream=stream).iterate()]


async def read_all() -> list[dict]:
    return [e.payload async for e in store.log().iterate()]


async def close() -> None:
    await pool.close()
