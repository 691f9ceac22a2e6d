"""The library's first example, on the migrated database of K1S0_EVENT_STORE_DSN."""

from __future__ import annotations

import asyncio
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    SubscriptionRunner,
)


def expect(found: object, wanted: object) -> None:
    """Stop with both values where they differ."""
    if found != wanted:
        raise SystemExit(f"found {found!r}, not {wanted!r}")


def event(stream_id: StreamId, event_type: str, **payload: object) -> EventEnvelope:
    """A new event with some metadata."""
    return EventEnvelope(
        stream_id=stream_id, event_type=event_type, payload=payload, metadata={"trace_id": "abc123"}
    )


async def main() -> None:
    """Append, load, save a snapshot, load what came after it, and run a projection."""
    config = EventStoreConfig(
        dsn=os.environ["K1S0_EVENT_STORE_DSN"], schema="eventstore", snapshot_interval=50
    )
    store, snapshot_store = PostgresEventStore(config), PostgresSnapshotStore(config)
    stream_id = StreamId(aggregate_type="order", aggregate_id="order-uuid-1234")
    await store.append(stream_id, [event(stream_id, "OrderPlaced"), event(stream_id, "OrderPaid")], 0)
    shipped = event(stream_id, "OrderShipped", carrier="post")
    expect(await store.append(stream_id, [shipped], expected_version=2), 3)

    envelopes = await store.load(stream_id, from_version=0)
    expect([envelope.event_type for envelope in envelopes], ["OrderPlaced", "OrderPaid", "OrderShipped"])
    expect(envelopes[2].payload, {"carrier": "post"})

    await snapshot_store.save(stream_id, version=3, state={"status": "shipped"})
    snapshot = await snapshot_store.load_latest(stream_id)
    if snapshot is None:
        raise SystemExit("the snapshot was not found")
    expect(snapshot.state, {"status": "shipped"})

    await store.append(stream_id, [event(stream_id, "OrderReceived")], expected_version=3)
    delta = await store.load(stream_id, from_version=snapshot.version + 1)
    expect([envelope.event_type for envelope in delta], ["OrderReceived"])

    handled = []

    async def handle(event: EventEnvelope, session: AsyncSession) -> None:
        handled.append((event.version, await session.scalar(text("SELECT 1"))))

    subscriptions = PostgresSubscriptionStore(bind=store.bind)
    runner = SubscriptionRunner(store, subscriptions, [Projection("smoke", handle)])
    await runner.run_until_caught_up()
    expect(handled, [(1, 1), (2, 1), (3, 1), (4, 1)])
    await store.close()
    await snapshot_store.close()


asyncio.run(main())
