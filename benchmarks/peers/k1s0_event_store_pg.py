"""This library for the side-by-side comparison: setup, append, load, read_all."""

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database

store: PostgresEventStore


async def setup(dsn: str, pool_size: int = 10) -> None:
    global store
    store = PostgresEventStore(EventStoreConfig(dsn=dsn, pool_size=pool_size, max_overflow=0))
    async with store.bind.begin() as connection:
        await connection.run_sync(downgrade_database)
        await connection.run_sync(upgrade_database)


async def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    stream_id = StreamId("bench", stream)
    events = [EventEnvelope(stream_id, "BenchEvent", payload) for payload in payloads]
    await store.append(stream_id, events, start_version)


async def load(stream: str) -> list[dict]:
    return [event.payload for event in await store.load(StreamId("bench", stream))]


async def read_all() -> list[dict]:
    return [event.payload async for event in store.read_all()]
