"""Names of what is told: those of OpenTelemetry's semantic conventions, and ours where it has none."""

from __future__ import annotations

from typing import Final

SCOPE: Final = "k1s0_event_store"
"""The name of the tracer and the meter, and of this library as a messaging system."""

ERROR_TYPE: Final = "error.type"

DB_SYSTEM_NAME: Final = "db.system.name"
DB_NAMESPACE: Final = "db.namespace"
DB_OPERATION_NAME: Final = "db.operation.name"
DB_QUERY_SUMMARY: Final = "db.query.summary"
DB_STATUS_CODE: Final = "db.response.status_code"
DB_OPERATION_DURATION: Final = "db.client.operation.duration"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
DATABASE_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

CONNECTIONS: Final = "db.client.connection.count"
CONNECTIONS_KEPT: Final = "db.client.connection.idle.max"
POOL_NAME: Final = "db.client.connection.pool.name"
CONNECTION_STATE: Final = "db.client.connection.state"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_SUBSCRIPTION: Final = "messaging.destination.subscription.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
MESSAGING_OPERATION_DURATION: Final = "messaging.client.operation.duration"
MESSAGING_SENT: Final = "messaging.client.sent.messages"
MESSAGING_PROCESS_DURATION: Final = "messaging.process.duration"
MESSAGING_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

AGGREGATE_TYPE: Final = "k1s0.event_store.aggregate_type"
EVENT_TYPE: Final = "k1s0.event_store.event_type"
EVENT_COUNT: Final = "k1s0.event_store.event_count"
CONFLICT: Final = "k1s0.event_store.conflict"
VERSION: Final = "k1s0.event_store.subscription.version"
PARTITION: Final = "k1s0.event_store.subscription.partition"
STATE: Final = "k1s0.event_store.subscription.state"
OUTCOME: Final = "k1s0.event_store.outcome"
CHANGE: Final = "k1s0.event_store.change"

APPENDED: Final = "k1s0.event_store.append.events"
CONFLICTS: Final = "k1s0.event_store.append.conflicts"
EVENTS: Final = "k1s0.event_store.subscription.events"
CHANGES: Final = "k1s0.event_store.subscription.changes"
LAG_EVENTS: Final = "k1s0.event_store.subscription.lag.events"
LAG_TIME: Final = "k1s0.event_store.subscription.lag.time"
CHECKPOINT_AGE: Final = "k1s0.event_store.subscription.checkpoint.age"
PARKED: Final = "k1s0.event_store.subscription.parked"
PARTITIONS: Final = "k1s0.event_store.subscription.partitions"
REFRESH_FAILURES: Final = "k1s0.event_store.subscription.refresh.failures"
