"""Spans and metrics by OpenTelemetry (extra `otel`): wrappers over the contracts.

`prometheus` has metrics for an endpoint of one's own.
"""

from k1s0_event_store.telemetry.publisher import TracedPublisher
from k1s0_event_store.telemetry.snapshots import SyncTracedSnapshotStore, TracedSnapshotStore
from k1s0_event_store.telemetry.stores import SyncTracedEventStore, TracedEventStore
from k1s0_event_store.telemetry.telemetry import Telemetry
from k1s0_event_store.telemetry.watching import SubscriptionGauges

__all__ = [
    "SubscriptionGauges",
    "SyncTracedEventStore",
    "SyncTracedSnapshotStore",
    "Telemetry",
    "TracedEventStore",
    "TracedPublisher",
    "TracedSnapshotStore",
]
