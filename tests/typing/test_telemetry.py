"""The public types of telemetry, checked by mypy and pyright and never run."""

from __future__ import annotations

from typing import assert_type

from k1s0_event_store import (
    EventStore,
    InMemoryEventStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Projection,
    Publisher,
    Relay,
    SnapshotStore,
    SubscriptionRunner,
    SyncEventStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.telemetry import (
    SubscriptionGauges,
    SyncTracedEventStore,
    SyncTracedSnapshotStore,
    Telemetry,
    TracedEventStore,
    TracedPublisher,
    TracedSnapshotStore,
)
from k1s0_event_store.telemetry.prometheus import PrometheusTelemetry
from k1s0_event_store.web.service import run_service


async def wrapped_things_have_the_types_of_the_contracts(
    telemetry: Telemetry, publisher: Publisher, projection: Projection, relay: Relay
) -> None:
    assert_type(telemetry.store(PostgresEventStore()), TracedEventStore)
    assert_type(telemetry.store(SyncPostgresEventStore()), SyncTracedEventStore)
    assert_type(telemetry.snapshots(PostgresSnapshotStore()), TracedSnapshotStore)
    assert_type(telemetry.snapshots(SyncPostgresSnapshotStore()), SyncTracedSnapshotStore)
    assert_type(telemetry.publisher(publisher), TracedPublisher)
    assert_type(telemetry.subscription(projection), Projection)
    assert_type(telemetry.subscription(relay), Relay)
    assert_type(telemetry.watch(PostgresSubscriptionStore()), SubscriptionGauges)
    store: EventStore = telemetry.store(InMemoryEventStore())
    snapshots: SnapshotStore = telemetry.snapshots(PostgresSnapshotStore())
    blocking: SyncEventStore = telemetry.store(SyncPostgresEventStore())
    await store.close()
    await snapshots.close()
    blocking.close()


async def what_is_inside_keeps_its_type(telemetry: Telemetry, session: object) -> None:
    store = telemetry.store(PostgresEventStore())
    assert_type(store.wrapped, EventStore)
    assert_type(store.within(session), TracedEventStore)


async def a_service_takes_what_prometheus_gets(
    telemetry: PrometheusTelemetry, store: EventStore, storage: PostgresSubscriptionStore, one: Projection
) -> None:
    runner = SubscriptionRunner(store, storage, [one], observe=telemetry.observe)
    assert_type(await run_service(runner, ":8080", metrics=telemetry.render), int)
    assert_type(await telemetry.render(), tuple[bytes, str])
