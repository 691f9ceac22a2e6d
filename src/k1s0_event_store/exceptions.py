"""Every error that the library raises.

    EventStoreError
    ├── ConcurrencyError             another writer was first; reload, decide, append again
    │   └── StreamNotFoundError      STREAM_EXISTS was expected of a stream without events
    ├── DuplicateEventError          an event id was used before, for something else
    ├── LockTimeoutError             lock() waited longer than it was allowed to
    ├── DeadlockError                PostgreSQL ended this transaction to free another one
    ├── InvalidInputError            also a ValueError: a value that no store can take
    │   ├── InvalidEventError        an event of the batch, by its index
    │   ├── LimitExceededError       more than the store's limits allow
    │   ├── TransferError            a file of events that is damaged, cut or contradicts the store
    │   └── ConfigurationError       a setting, a DSN, an engine of the wrong kind
    │       ├── RegistryError        event types or upcasters that contradict each other
    │       └── TenantRequiredError  the tables keep tenants apart, and nobody said whose rows are meant
    ├── CorruptDataError             what is stored cannot be read back
    │   ├── ChainBrokenError         the event that a new one would be chained to is missing
    │   ├── EventDecodeError         a stored event does not fit its model
    │   └── UnknownEventTypeError    a stored event is of a type, or a version of it, that nobody registered
    ├── AggregateNotFoundError       there is no aggregate with this id
    ├── PersonalDataError            encrypted personal data was changed or moved
    ├── SchemaError                  the tables are missing, or not the ones this code expects
    ├── TransactionRequiredError     the call only makes sense inside a caller's transaction
    ├── ClusterChangedError          the database was restored into another cluster: rebase it
    ├── SubscriptionError            a subscription cannot do what it was asked for
    │   ├── SubscriptionNotFoundError    no subscription has this name (and version)
    │   ├── LeaseLostError           another process holds the partition now
    │   ├── WaitTimeoutError         the subscription has not come so far within the time limit
    │   └── EventParkedError         the event was parked after its handler failed
    ├── PublishError                 a message could not be published
    │   ├── BrokerUnavailableError       no answer: the message may be there, or not
    │   └── MessageRefusedError          the broker will not take this message
    ├── StoreClosedError             close() was called before
    ├── OutcomeUnknownError          the connection broke while an append was under way
    ├── StoreUnavailableError        no connection to the server
    │   └── AuthenticationError      the server does not let this user in
    ├── PermissionDeniedError        the role lacks a right on our tables
    └── DatabaseError                any other answer of PostgreSQL, with its SQLSTATE

`retryable` says whether the same work, done again from its load, may succeed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from uuid import UUID

    from k1s0_event_store.envelope import ExpectedVersion, StreamId


class EventStoreError(Exception):
    """Root of all errors of the library."""

    retryable: ClassVar[bool] = False


class ConcurrencyError(EventStoreError):
    """The stream is not at the expected version.

    Inside a caller's READ COMMITTED transaction the transaction stays usable. `actual_version` is
    None where PostgreSQL refused by SQLSTATE 40001 (REPEATABLE READ and SERIALIZABLE): such a
    transaction is over, and cannot see what the other one wrote.
    """

    retryable = True

    def __init__(
        self,
        stream_id: StreamId,
        expected_version: ExpectedVersion,
        actual_version: int | None,
    ) -> None:
        self.stream_id = stream_id
        self.expected_version = expected_version
        self.actual_version = actual_version
        got = "a change by another transaction" if actual_version is None else actual_version
        expected = "any version" if expected_version is None else expected_version
        super().__init__(f"Concurrency conflict: expected {expected}, got {got} (stream {stream_id})")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.expected_version, self.actual_version)


class StreamNotFoundError(ConcurrencyError):
    """STREAM_EXISTS was expected, and the stream has no events."""

    retryable = False


class DuplicateEventError(EventStoreError):
    """An event id is already taken by another event of this aggregate id.

    Repeating a whole batch with the same ids is not an error: it returns the first answer.
    """

    def __init__(self, stream_id: StreamId, event_ids: tuple[UUID, ...], reason: str) -> None:
        self.stream_id = stream_id
        self.event_ids = event_ids
        self.reason = reason
        shown = ", ".join(map(str, event_ids[:3])) + (", ..." if len(event_ids) > 3 else "")
        super().__init__(
            f"Duplicate event id in stream {stream_id}: {reason} ({shown or 'id not known'}). "
            "Give every new event its own id; to retry an append, repeat the same batch."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.event_ids, self.reason)


class LockTimeoutError(EventStoreError):
    """Another transaction held the stream longer than `lock()` was allowed to wait."""

    retryable = True

    def __init__(self, stream_id: StreamId, wait: float | None) -> None:
        self.stream_id = stream_id
        self.wait = wait
        limit = "the server's lock_timeout" if wait is None else f"{wait} s"
        super().__init__(f"Stream {stream_id} is locked by another transaction (waited {limit})")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.wait)


class DeadlockError(EventStoreError):
    """Two transactions waited for each other; PostgreSQL rolled this one back. Run it again.

    Touch streams in one fixed order in every transaction to avoid it.
    """

    retryable = True


class InvalidInputError(EventStoreError, ValueError):
    """A value that no store can take; nothing was sent to the database."""


class InvalidEventError(InvalidInputError):
    """An event of the batch cannot be stored. `index` counts from 0."""

    def __init__(self, stream_id: StreamId, index: int, reason: str) -> None:
        self.stream_id = stream_id
        self.index = index
        self.reason = reason
        super().__init__(f"Event {index} of the batch for stream {stream_id}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.index, self.reason)


class LimitExceededError(InvalidInputError):
    """What was given is larger than the store's limits allow.

    `limit` is the name of the field of `Limits`, `most` its value; `actual` is None where nobody counted on.
    `index` counts the events of the batch from 0; None where it is not about one of them.
    """

    def __init__(self, limit: str, most: int, actual: int | None, index: int | None = None) -> None:
        self.limit = limit
        self.most = most
        self.actual = actual
        self.index = index
        where = "" if index is None else f"event {index} of the batch: "
        found = "more" if actual is None else f"{actual:,}"
        super().__init__(
            f"{where}{_MEASURED[limit]} {found}, and {most:,} are allowed: "
            f"give less, or allow more with Limits({limit}=...) in the store's configuration"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.limit, self.most, self.actual, self.index)


_MEASURED: Final = {
    "payload": "the characters of the payload's JSON are",
    "metadata": "the characters of the metadata's JSON are",
    "state": "the characters of the state's JSON are",
    "depth": "the levels of the JSON are",
    "events": "the events of one call are",
    "name": "the characters of an aggregate type, an aggregate id or an event type are",
}


class TransferError(InvalidInputError):
    """A file of events that cannot be imported any further, or not be written.

    `line` counts from 1. What stands before it is imported, and stays: the same import, repeated
    with a good file, skips it.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason = reason
        self.line = line
        super().__init__(reason if line is None else f"line {line}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.line)


class ConfigurationError(InvalidInputError):
    """A setting, a DSN or an engine that the store cannot work with."""


class RegistryError(ConfigurationError):
    """Event types, aliases or upcasters that contradict each other, or leave a gap."""


class TenantRequiredError(ConfigurationError):
    """The tables keep tenants apart, and no tenant was given: nothing is seen, nothing written."""


class CorruptDataError(EventStoreError):
    """A stored payload, metadata or state cannot be decoded."""


class ChainBrokenError(CorruptDataError):
    """The event is missing that the hash chain of the stream would go on from; nothing was stored."""


class EventDecodeError(CorruptDataError):
    """A stored event does not fit its model, or an upcaster failed on it.

    `fields` are the places in the payload that do not fit ("lines.0.price"), if they are known.
    """

    def __init__(
        self, stream_id: StreamId, version: int, event_type: str, reason: str, fields: tuple[str, ...] = ()
    ) -> None:
        self.stream_id = stream_id
        self.version = version
        self.event_type = event_type
        self.reason = reason
        self.fields = fields
        super().__init__(f"version {version} of {stream_id} cannot be read as {event_type!r}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.version, self.event_type, self.reason, self.fields)


class UnknownEventTypeError(CorruptDataError):
    """The type of a stored event is not registered, or only an earlier `schema_version` of it."""

    def __init__(
        self, stream_id: StreamId, version: int, event_type: str, schema_version: int | None = None
    ) -> None:
        self.stream_id = stream_id
        self.version = version
        self.event_type = event_type
        self.schema_version = schema_version
        which = "is" if schema_version is None else f"in schema version {schema_version} is"
        super().__init__(
            f"version {version} of {stream_id}: event type {event_type!r} {which} not registered; "
            'register it, or read with unknown="skip" or "raw"'
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id, self.version, self.event_type, self.schema_version)


class AggregateNotFoundError(EventStoreError):
    """There is no aggregate with this id: its stream has no events (up to the version or time asked for)."""

    def __init__(self, stream_id: StreamId) -> None:
        self.stream_id = stream_id
        super().__init__(f"there is no {stream_id.aggregate_type} {stream_id.aggregate_id!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stream_id,)


class PersonalDataError(EventStoreError):
    """Encrypted personal data was changed, or moved here from another place.

    `bound_to` names its event (or what a state was sealed for), `path` its place in the payload.
    """

    def __init__(self, bound_to: str, path: str, reason: str) -> None:
        self.bound_to = bound_to
        self.path = path
        self.reason = reason
        super().__init__(
            f"personal data of {bound_to} at {path} cannot be read: {reason}; restore what was stored"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.bound_to, self.path, self.reason)


class SchemaError(EventStoreError):
    """The tables are missing or not the ones this code expects. `problems` lists them."""

    def __init__(self, schema: str, problems: tuple[str, ...]) -> None:
        self.schema = schema
        self.problems = problems
        super().__init__(
            f'Schema "{schema}" is not what this version of the library expects: '
            f"{'; '.join(problems)}. Run `k1s0-event-store db upgrade` (or your own migrations)."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.schema, self.problems)


class TransactionRequiredError(EventStoreError):
    """The call needs a transaction: use `store.within(session)`."""


class ClusterChangedError(EventStoreError):
    """Cursors and transaction ids come from another cluster: the database was restored from a dump."""

    def __init__(self, cluster: int, known: int | None) -> None:
        self.cluster = cluster
        self.known = known
        super().__init__(
            f"the feed belongs to cluster {known}, but this is cluster {cluster}: after restoring a dump run "
            "`k1s0-event-store db rebase` once, with all writers and subscriptions stopped"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.cluster, self.known)


class SubscriptionError(EventStoreError):
    """A subscription cannot do what it was asked for."""


class SubscriptionNotFoundError(SubscriptionError):
    """No subscription has this name, or not this version; it is made when it first runs."""

    def __init__(self, name: str, version: int | None = None) -> None:
        self.name = name
        self.version = version
        which = f"{name!r}" if version is None else f"{name!r} version {version}"
        super().__init__(f"there is no subscription {which}: run it once, or look for its name in the list")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.version)


class LeaseLostError(SubscriptionError):
    """The partition's lease was taken over; its checkpoint cannot be moved from here any more."""

    retryable = True

    def __init__(self, name: str, version: int, partition: int) -> None:
        self.name = name
        self.version = version
        self.partition = partition
        super().__init__(
            f"another process holds partition {partition} of {name!r} version {version} now; "
            "what was done here is rolled back"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.version, self.partition)


class WaitTimeoutError(SubscriptionError):
    """The subscription has not handled the event within the time limit."""

    retryable = True

    def __init__(self, name: str, stream_id: StreamId, version: int, seconds: float) -> None:
        self.name = name
        self.stream_id = stream_id
        self.version = version
        self.seconds = seconds
        super().__init__(
            f"{name!r} has not handled version {version} of {stream_id} within {seconds:g} s; "
            "look at `k1s0-event-store subscriptions`"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.stream_id, self.version, self.seconds)


class EventParkedError(SubscriptionError):
    """The handler failed on the event, or on an earlier one of its stream: it waits to be retried."""

    def __init__(self, name: str, stream_id: StreamId, version: int) -> None:
        self.name = name
        self.stream_id = stream_id
        self.version = version
        super().__init__(f"{name!r} has parked version {version} of {stream_id}; retry or drop it")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.stream_id, self.version)


class PublishError(EventStoreError):
    """A message could not be published."""


class BrokerUnavailableError(PublishError):
    """The broker cannot be reached, or has not acknowledged in time; the message may be there, or not."""

    retryable = True


class MessageRefusedError(PublishError):
    """The broker will not take this message: too large, or its topic is missing or forbidden."""


class StoreClosedError(EventStoreError):
    """The store was closed; make a new one."""


class OutcomeUnknownError(EventStoreError):
    """The connection broke while an append was under way: it is stored, or it is not.

    Repeat the append with the same events: their ids make sure that it happens once.
    """

    retryable = True


class StoreUnavailableError(EventStoreError):
    """The server cannot be reached, or ended the connection."""

    retryable = True


class AuthenticationError(StoreUnavailableError):
    """The server refused the user, the password or the database name."""

    retryable = False


class PermissionDeniedError(EventStoreError):
    """The role lacks a right on the tables: `k1s0-event-store db grant` gives it what it needs."""


class DatabaseError(EventStoreError):
    """An answer of PostgreSQL that has no type of its own here."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


def shown(value: object) -> str:
    """A value that was refused, for a message: cut, and what cannot be printed by its type."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    try:
        return f"{value!r:.200}"
    except (
        Exception
    ):  # a number of thousands of digits, a list inside itself a thousand times, or its own code
        return f"{type(value).__name__} that cannot be printed"
