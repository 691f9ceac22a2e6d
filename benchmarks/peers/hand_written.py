"""The limit: asyncpg, orjson and one statement, no library.

The same rows in the same tables, made by our migrations, with ids of the same kind. An append checks the
version that it expects. Readers fetch the same columns and decode every payload. Connections go back into
the pool without asyncpg's RESET, which would be a second round trip.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime

import asyncpg
import orjson
from k1s0_event_store_pg import FILL

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.envelope import new_event_id
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database

APPEND = """
WITH moved AS (
    INSERT INTO eventstore.streams AS head (aggregate_type, aggregate_id, version)
    VALUES ('bench', $1, $2::bigint + $5::bigint)
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version
        WHERE head.version = $5::bigint
    RETURNING 1
)
INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                               metadata, occurred_at)
SELECT 'bench', $1, $5::bigint + n, id, 'BenchEvent', payload::json, '{}', $6
FROM moved, unnest($3::uuid[], $4::text[]) WITH ORDINALITY AS e (id, payload, n)"""
LOAD = """
SELECT version, event_id, event_type, payload::text, metadata::text, occurred_at FROM eventstore.events
WHERE aggregate_type = 'bench' AND aggregate_id = $1 ORDER BY version"""
READ_ALL = """
SELECT position, version, event_id, event_type, payload::text, metadata::text, occurred_at
FROM eventstore.events WHERE position > $1 ORDER BY position LIMIT 1000"""

STREAMS = ("aggregate_type", "aggregate_id", "version")
EVENTS = (*STREAMS, "event_id", "event_type", "payload", "metadata", "occurred_at")

__all__ = ["FILL", "append", "import_many", "load", "pass_by", "read_all", "setup"]

pool: asyncpg.Pool


async def setup(dsn: str, pool_size: int = 10) -> None:
    global pool
    engine = create_async_store_engine(EventStoreConfig(dsn=dsn))
    async with engine.begin() as connection:
        await connection.run_sync(downgrade_database)
        await connection.run_sync(upgrade_database)
    await engine.dispose()
    pool = await asyncpg.create_pool(dsn, min_size=pool_size, max_size=pool_size, reset=_leave_alone)


async def _leave_alone(connection: asyncpg.Connection) -> None:
    """What comes back into the pool is as it was lent."""


async def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    ids = [new_event_id() for _ in payloads]
    texts = [orjson.dumps(payload).decode() for payload in payloads]
    now = datetime.now(UTC)
    done = await pool.execute(APPEND, stream, len(payloads), ids, texts, start_version, now)
    assert done == f"INSERT 0 {len(payloads)}"


async def import_many(streams: list[str], payloads: list[dict]) -> None:
    """COPY of the rows into the same indexed tables, in one transaction."""
    now = datetime.now(UTC)
    heads = [("bench", stream, len(payloads)) for stream in streams]
    events = [
        ("bench", stream, version, new_event_id(), "BenchEvent", orjson.dumps(payload).decode(), "{}", now)
        for stream in streams
        for version, payload in enumerate(payloads, 1)
    ]
    async with pool.acquire() as connection, connection.transaction():
        for table, columns, rows in (("streams", STREAMS, heads), ("events", EVENTS, events)):
            await connection.copy_records_to_table(
                table, schema_name="eventstore", columns=columns, records=rows
            )


async def load(stream: str) -> list[dict]:
    return [orjson.loads(row[3]) for row in await pool.fetch(LOAD, stream)]


async def read_all() -> list[dict]:
    return [payload async for page in _pages() for payload in page]


async def pass_by(limit: int) -> int:
    number = 0
    async with aclosing(_pages()) as pages:
        async for page in pages:
            number += sum(map(bool, page))
            if number >= limit:
                break
    return min(number, limit)


async def _pages() -> AsyncGenerator[Iterator[dict]]:
    position = 0
    while rows := await pool.fetch(READ_ALL, position):
        yield (orjson.loads(row[4]) for row in rows)
        position = rows[-1][0]
