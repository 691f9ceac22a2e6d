"""A process of its own that runs a projection of six partitions until it is told to end."""

import asyncio
import signal
import sys

from sqlalchemy import text

from k1s0_event_store import (
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    SubscriptionRunner,
)


async def write_down(event, session):
    """Refuses what comes twice (the table's key) or out of order."""
    where = {"stream": event.stream_id.aggregate_id, "version": event.version}
    last = await session.scalar(
        text("SELECT coalesce(max(version), 0) FROM seen WHERE stream = :stream"), where
    )
    assert last == event.version - 1, "out of order"
    await session.execute(text("INSERT INTO seen (stream, version) VALUES (:stream, :version)"), where)


async def main(dsn: str) -> None:
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        storage = PostgresSubscriptionStore(bind=store.bind)
        projection = Projection("shared", write_down, partitions=6, batch_size=7)
        runner = SubscriptionRunner(store, storage, [projection], lease_seconds=1.5, poll=(0.01, 0.1))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, runner.stop)
        await runner.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
