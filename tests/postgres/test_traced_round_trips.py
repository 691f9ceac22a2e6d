"""A traced store costs the wire nothing."""

from opentelemetry.sdk.trace import TracerProvider

from k1s0_event_store import PostgresSnapshotStore, StreamId
from k1s0_event_store.telemetry import Telemetry
from k1s0_event_store.testing.contract import new_events

ORDER = StreamId("order", "o-1")


async def test_a_traced_append_and_a_snapshot_with_its_events_are_one_round_trip_each(proxy, proxied_store):
    telemetry = Telemetry(TracerProvider(shutdown_on_exit=False))
    store = telemetry.store(proxied_store)
    snapshots = telemetry.snapshots(PostgresSnapshotStore(bind=store.bind))
    trips = {}
    for _ in range(2):  # the first one prepares the statements
        before = proxy.round_trips
        version = await store.append(ORDER, new_events(ORDER, 3))
        trips["append"] = proxy.round_trips - before
        await snapshots.save(ORDER, version, "state")
        before = proxy.round_trips
        snapshot, events = await store.load_since_snapshot(ORDER, snapshots)
        trips["load"] = proxy.round_trips - before
        assert (snapshot.state, [event.version for event in events]) == ("state", [version])
    assert trips == {"append": 1, "load": 1}
