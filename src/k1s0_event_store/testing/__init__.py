"""Tools for testing code that uses the store."""

from k1s0_event_store.testing.given import given
from k1s0_event_store.testing.mock import Call, MockEventStore, SyncMockEventStore
from k1s0_event_store.testing.scenario import ProjectionScenario

__all__ = ["Call", "MockEventStore", "ProjectionScenario", "SyncMockEventStore", "given"]
