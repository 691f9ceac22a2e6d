"""This library for the side-by-side comparison."""

from contextlib import aclosing
from pathlib import Path

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database
from k1s0_event_store.transfer import import_events
from k1s0_event_store.transfer.lines import event_line, footer_line, header_line

store: PostgresEventStore
FILL = (
    """
    INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version)
    SELECT 'bench', 'filled-' || stream, %(each)s FROM generate_series(1, %(streams)s) AS stream""",
    """
    INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                                   metadata, occurred_at)
    SELECT 'bench', 'filled-' || stream, version, gen_random_uuid(), 'BenchEvent', %(payload)s::json,
           '{}', now()
    FROM generate_series(1, %(each)s) AS version, generate_series(1, %(streams)s) AS stream""",
)


async def setup(dsn: str, pool_size: int = 10, **options) -> None:
    global store
    config = EventStoreConfig(dsn=dsn, pool_size=pool_size, max_overflow=0)
    store = PostgresEventStore(config, **options)
    async with store.bind.begin() as connection:
        await connection.run_sync(downgrade_database)
        await connection.run_sync(upgrade_database)


async def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    stream_id = StreamId("bench", stream)
    events = [EventEnvelope(stream_id, "BenchEvent", payload) for payload in payloads]
    await store.append(stream_id, events, start_version)


async def import_many(streams: list[str], payloads: list[dict]) -> None:
    """The same events in each stream, about 20,000 in a batch: memory stays what a batch takes."""
    together = max(1, 20_000 // len(payloads))
    for first in range(0, len(streams), together):
        stream_ids = [StreamId("bench", stream) for stream in streams[first : first + together]]
        await store.import_batch(
            EventEnvelope(stream_id, "BenchEvent", payload, version=version)
            for stream_id in stream_ids
            for version, payload in enumerate(payloads, 1)
        )


async def load(stream: str) -> list[dict]:
    return [event.payload for event in await store.load(StreamId("bench", stream))]


async def read_all() -> list[dict]:
    return [event.payload async for event in store.read_all()]


async def pass_by(limit: int) -> int:
    """Look at so many payloads and keep none; their number."""
    number = 0
    async with aclosing(store.read_all()) as events:
        async for event in events:
            number += bool(event.payload)
            if number == limit:
                break
    return number


async def import_file(path: Path) -> None:
    """As the command `import` does."""
    await import_events(store, path)


def write_file(path: Path, name: str, streams: int, payloads: list[dict]) -> None:
    """An export of streams that are called `name` and a number."""
    with path.open("wb") as file:
        file.write(header_line({}))
        for number in range(streams):
            stream_id = StreamId("bench", f"{name}-{number}")
            for version, payload in enumerate(payloads, 1):
                file.write(event_line(EventEnvelope(stream_id, "BenchEvent", payload, version=version)))
        file.write(footer_line(streams * len(payloads)))
