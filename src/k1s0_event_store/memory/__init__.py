"""The stores in memory: for tests and prototypes, and the specimen for authors of backends.

They pass the same contract suite as the PostgreSQL stores. They have no transactions: what is
appended stays, whatever becomes of the session given to `within`. Safe to share between threads.
"""

from k1s0_event_store.memory.inbox import InMemoryInbox
from k1s0_event_store.memory.keys import InMemoryKeyStore
from k1s0_event_store.memory.publisher import InMemoryPublisher
from k1s0_event_store.memory.snapshot import InMemorySnapshotStore, SyncInMemorySnapshotStore
from k1s0_event_store.memory.store import InMemoryEventStore, SyncInMemoryEventStore
from k1s0_event_store.memory.subscription import InMemorySubscriptionStore

__all__ = [
    "InMemoryEventStore",
    "InMemoryInbox",
    "InMemoryKeyStore",
    "InMemoryPublisher",
    "InMemorySnapshotStore",
    "InMemorySubscriptionStore",
    "SyncInMemoryEventStore",
    "SyncInMemorySnapshotStore",
]
