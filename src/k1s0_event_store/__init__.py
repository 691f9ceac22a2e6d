"""An event store inside your own PostgreSQL database and SQLAlchemy transaction."""

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import (
    STREAM_EXISTS,
    EventEnvelope,
    EventVersion,
    ExpectedVersion,
    StreamId,
    StreamState,
)
from k1s0_event_store.exceptions import (
    AuthenticationError,
    ConcurrencyError,
    ConfigurationError,
    CorruptDataError,
    DatabaseError,
    DeadlockError,
    DuplicateEventError,
    EventStoreError,
    InvalidEventError,
    InvalidInputError,
    LockTimeoutError,
    OutcomeUnknownError,
    PermissionDeniedError,
    SchemaError,
    StoreClosedError,
    StoreUnavailableError,
    StreamNotFoundError,
    TransactionRequiredError,
)
from k1s0_event_store.memory import (
    InMemoryEventStore,
    InMemorySnapshotStore,
    SyncInMemoryEventStore,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.postgres.snapshot import PostgresSnapshotStore, SyncPostgresSnapshotStore
from k1s0_event_store.postgres.store import PostgresEventStore, SyncPostgresEventStore
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, Replay, SyncEventStore

__all__ = [
    "STREAM_EXISTS",
    "AuthenticationError",
    "ConcurrencyError",
    "ConfigurationError",
    "CorruptDataError",
    "DatabaseError",
    "DeadlockError",
    "DuplicateEventError",
    "EventEnvelope",
    "EventStore",
    "EventStoreConfig",
    "EventStoreError",
    "EventVersion",
    "ExpectedVersion",
    "InMemoryEventStore",
    "InMemorySnapshotStore",
    "InvalidEventError",
    "InvalidInputError",
    "LockTimeoutError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PostgresEventStore",
    "PostgresSnapshotStore",
    "Replay",
    "SchemaError",
    "Snapshot",
    "SnapshotStore",
    "StoreClosedError",
    "StoreUnavailableError",
    "StreamId",
    "StreamNotFoundError",
    "StreamState",
    "SyncEventStore",
    "SyncInMemoryEventStore",
    "SyncInMemorySnapshotStore",
    "SyncPostgresEventStore",
    "SyncPostgresSnapshotStore",
    "SyncSnapshotStore",
    "TransactionRequiredError",
]
