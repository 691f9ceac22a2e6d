"""A process that does everything that is told of, once."""

import pytest

from k1s0_event_store import (
    ConcurrencyError,
    DuplicateEventError,
    EventEnvelope,
    FailurePolicy,
    Message,
    MessageRefusedError,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    Subscriber,
    SubscriptionRunner,
)
from k1s0_event_store.memory import InMemoryPublisher
from k1s0_event_store.relay.relay import Relay
from k1s0_event_store.testing.contract import new_events

SECRET = "sentinel-8c1f"  # noqa: S105 - to be searched for
"""Stands in payloads, metadata, aggregate ids, keys of messages, states and texts of errors."""
ORDER = StreamId("order", f"o-{SECRET}")


class HandlerError(Exception):
    """What the handler raises."""


class Mail:
    """Fails on the second event; its side effect comes after the handler."""

    async def handle(self, event):
        if event.version == 2:
            raise HandlerError(f"cannot write to {SECRET}")

    async def side_effect(self, event):
        pass


async def project(events, session):
    """A projection that writes nothing."""


def refused(message):
    """A broker that refuses what was enqueued."""
    if message.topic == "refused":
        raise MessageRefusedError(f"too large: {message.body!r}")


async def exercise(telemetry, event_store):
    """Everything that is told of; the storage is watched."""
    store = telemetry.store(event_store)
    snapshots = telemetry.snapshots(PostgresSnapshotStore(store.config, bind=store.bind))
    storage = PostgresSubscriptionStore(store.config, bind=store.bind)
    telemetry.watch(storage)
    events = [EventEnvelope(ORDER, "Counted", {"who": SECRET}, {"actor": SECRET}) for _ in range(3)]
    await store.append(ORDER, events)
    with pytest.raises(ConcurrencyError):
        await store.append(ORDER, new_events(ORDER, 1), expected_version=1)
    with pytest.raises(DuplicateEventError):
        await store.append(ORDER, [*new_events(ORDER, 1), events[0]])
    await store.load(ORDER)
    assert len([event async for event in store.stream(ORDER)]) == 3
    await snapshots.save(ORDER, 2, {"who": SECRET})
    await store.load_since_snapshot(ORDER, snapshots)
    await store.enqueue(
        *(Message(topic, SECRET, SECRET.encode(), {"who": SECRET}) for topic in ("sent", "refused"))
    )
    policy = FailurePolicy(attempts=2, wait=0)
    relay = Relay(telemetry.publisher(InMemoryPublisher(refused)), failure=policy)
    subscriptions = (
        Projection("table", project, batch=True),
        Subscriber("mail", Mail(), failure=policy),
        relay,
    )
    runner = SubscriptionRunner(
        store, storage, [telemetry.subscription(one) for one in subscriptions], observe=telemetry.observe
    )
    await runner.run_until_caught_up()
    return storage
