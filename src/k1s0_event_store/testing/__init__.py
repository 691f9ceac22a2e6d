"""Tools for testing code that uses the store."""

from k1s0_event_store.testing.mock import Call, MockEventStore, SyncMockEventStore

__all__ = ["Call", "MockEventStore", "SyncMockEventStore"]
