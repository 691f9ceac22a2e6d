"""Every public value: any input gives a value that keeps what it was given, or a typed error of ours."""

import copy
import inspect
import pickle
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import k1s0_event_store
from k1s0_event_store import (
    STREAM_EXISTS,
    Cursor,
    EventEnvelope,
    EventFilter,
    EventStoreConfig,
    EventStoreError,
    InMemoryInbox,
    InMemoryPublisher,
    Message,
    StreamId,
    SyncInMemoryEventStore,
    caused_by,
    current_metadata,
    event_metadata,
)
from k1s0_event_store.message import as_event, from_event


def deep(levels=10_000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


async def handle(event):
    """A handler."""


NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["order", "a" * 255, "a" * 256, "\x00", "\ud800", ""]
)
STREAM_IDS = st.builds(StreamId, st.sampled_from(["order", "é"]), st.sampled_from(["1", "2"]))
TIMES = st.datetimes(timezones=st.none() | st.timezones())
HUGE = st.sampled_from([1, -1]).map(lambda sign: sign * 10**5_000)  # Python refuses to print it
WHOLE = st.integers() | st.sampled_from([0, 1, 2**63]) | HUGE
FLAT = (
    st.none() | st.booleans() | WHOLE | st.floats() | NAMES | st.text() | st.binary(max_size=40) | TIMES
    | st.uuids() | STREAM_IDS | st.sampled_from([STREAM_EXISTS, Decimal("NaN"), object, 1j, handle, UTC])
)  # fmt: skip
HASHABLE = st.text() | st.integers() | st.none() | st.binary(max_size=5)
ANYTHING = FLAT | st.builds(deep) | st.recursive(
    FLAT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.dictionaries(st.text(), st.text(), max_size=3)
LISTS = st.lists(NAMES, max_size=3) | st.sets(NAMES, max_size=3)
SECONDS = st.floats() | st.integers()
DSNS = st.sampled_from(
    ["postgresql://u:p@h:1/d", "postgresql://h/d?schema=s", "mysql://x", ""]
) | st.text().map("postgresql://u:{}@h/d".format)
URLS = st.sampled_from(["kafka://h", "nats://h", "amqp://u:p@h/v", "redis://h"]) | st.text().map(
    "kafka://{}".format
)
SECRETS = st.binary(min_size=32, max_size=32)
SUBSCRIPTION = {
    "name": NAMES, "handler": st.just(handle), "batch": st.booleans(), "version": WHOLE, "partitions": WHOLE,
    "aggregate_types": LISTS, "event_types": LISTS, "where": st.none(), "batch_size": WHOLE,
    "failure": st.none(),
}  # fmt: skip
SUBSCRIBER = {
    **SUBSCRIPTION, "checkpoint_every": WHOLE, "checkpoint_seconds": SECONDS, "concurrency": WHOLE,
}  # fmt: skip
FREE = {"where", "failure", "batch"}
"""Arguments that are taken as they are: functions, and what is checked elsewhere or later."""

CONFIG = {
    "dsn": DSNS, "schema": NAMES, "tenant": NAMES,
    "snapshot_interval": WHOLE, "snapshots_kept": WHOLE, "pool_size": WHOLE,
    "max_overflow": WHOLE, "pool_timeout": SECONDS, "pool_recycle": WHOLE, "pool_pre_ping": st.booleans(),
    "connect_timeout": SECONDS, "application_name": NAMES, "transaction_pooler": st.booleans(),
    "notify": st.booleans(), "engine_options": st.dictionaries(st.text(), st.integers()),
}  # fmt: skip
SECTION = {
    **CONFIG, "url": DSNS, "host": NAMES, "port": WHOLE | st.text(), "name": NAMES, "user": NAMES,
    "password": NAMES, "ssl_mode": NAMES,
}  # fmt: skip
ENVELOPE = {
    "stream_id": STREAM_IDS, "event_type": NAMES, "payload": JSON,
    "metadata": st.dictionaries(st.text(), JSON), "event_id": st.uuids(), "occurred_at": TIMES,
    "version": WHOLE,
}  # fmt: skip
MESSAGE = {
    "topic": NAMES, "key": NAMES, "body": st.binary(), "headers": TEXTS, "attributes": TEXTS,
    "content_type": NAMES, "message_id": NAMES | st.uuids().map(str),
}  # fmt: skip
EVENTS = st.builds(EventEnvelope, STREAM_IDS, st.just("Placed"), JSON, event_id=st.uuids())
MESSAGES = st.builds(
    Message, st.just("topic"), st.just("key"), st.binary(), message_id=st.text(min_size=1, max_size=9)
)


def flowing(around, event, **values):
    """What flows inside nested blocks of metadata."""
    with event_metadata(**around), caused_by(event), event_metadata(**values):
        return current_metadata()


VALUES = {
    "StreamId": ({"aggregate_type": NAMES, "aggregate_id": NAMES}, None),
    "EventEnvelope": (ENVELOPE, None),
    "EventVersion": ({"value": WHOLE}, None),
    "EventStoreConfig": (CONFIG, None),
    "Cursor": ({"text": NAMES}, None),
    "EventFilter": ({"aggregate_types": LISTS, "event_types": LISTS}, EventFilter.of),
    "Message": (MESSAGE, None),
    "FailurePolicy": ({
        "attempts": WHOLE, "wait": SECONDS, "longest_wait": SECONDS, "park": st.booleans(),
    }, None),
    "DataKey": ({"key_id": NAMES, "secret": SECRETS}, None),
    "WrappingKeys": ({"keys": st.dictionaries(NAMES, SECRETS, max_size=2), "current": NAMES}, None),
    "Personal": ({"subject": NAMES, "forgotten": JSON}, None),
    "Subscription": (SUBSCRIPTION, None),
    "Projection": (SUBSCRIPTION, None),
    "ProcessManager": (SUBSCRIPTION, None),
    "Subscriber": (SUBSCRIBER, None),
    "Relay": (
        {name: values for name, values in SUBSCRIBER.items() if name not in ("handler", "batch")}
        | {"publisher": st.builds(InMemoryPublisher), "to_message": st.none()},
        None,
    ),
    "CloudEvents": ({
        "source": NAMES, "topic": NAMES, "tier": NAMES, "domain": NAMES, "structured": st.booleans(),
        "data": st.none(),
    }, None),
    "publisher_for": ({"url": URLS, "timeout": SECONDS}, None),
    "Limits": (dict.fromkeys(["payload", "metadata", "state", "depth", "events", "name"], WHOLE), None),
    "AggregateCache": ({"max_bytes": WHOLE}, None),
    "every": ({"events": WHOLE}, None),
    "after": ({"first": NAMES, "second": NAMES}, lambda first, second: k1s0_event_store.after(first, second)),
    "slower_than": ({"seconds": SECONDS}, None),
    "never": ({}, None),
    "Inbox": ({"consumer": NAMES}, InMemoryInbox),
    "service_row": ({"event": EVENTS, "version": st.integers()}, None),
    "debezium_row": ({"event": EVENTS}, None),
    "message_row": ({"message": MESSAGES}, None),
}  # fmt: skip
"""Names, the arguments that are right or nearly so, and what makes the value if it is not the name itself."""

FREE_OF = {
    "EventEnvelope": {"payload", "metadata"},
    "service_row": {"event", "version"}, "debezium_row": {"event"}, "message_row": {"message"},
    "CloudEvents": {"structured", "data"}, "FailurePolicy": {"park"}, "DataKey": {"key_id"},
}  # fmt: skip


@st.composite
def arguments(draw, wanted, free):
    """Some of the arguments, each as it should be or, one time in four, anything at all."""
    given = {}
    for name, right in wanted.items():
        if draw(st.integers(0, 9)):
            is_wild = name not in free and draw(st.integers(0, 3)) == 3
            given[name] = draw(ANYTHING if is_wild else right)
    return given


def made(make, given):
    """The value, or None where it was refused."""
    try:
        inspect.signature(make).bind(**given)
    except TypeError:  # what must be given is missing: Python itself says so
        return None
    try:
        return make(**given)
    except EventStoreError:
        return None


def check_value(value):
    """It is equal to its copies, can be shown, and can be sent to another process."""
    assert repr(value)
    if is_dataclass(value):
        assert copy.copy(value) == value
        if not isinstance(value, k1s0_event_store.WrappingKeys | k1s0_event_store.SnapshotPolicy):
            assert replace(value) == value
            assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - made the line before
    if isinstance(value, StreamId | EventEnvelope | Cursor):
        assert hash(value) == hash(copy.copy(value))


FURTHER = {
    "EventEnvelope": lambda event: keeps_an_event(event),
    "EventStoreConfig": lambda config: check_config(config),
    "EventVersion": lambda version: check(type(version)(int(version)) == version),
    "Cursor": lambda cursor: check(Cursor(str(cursor)) == cursor),
    "Message": lambda message: check_message(message),
}


def check(is_right):
    assert is_right


def keeps_an_event(event):
    """A store gives back what it took, or refuses it."""
    store = SyncInMemoryEventStore()
    try:
        store.append(event.stream_id, [event])
    except EventStoreError:
        return
    (kept,) = store.load(event.stream_id)
    assert (kept.stream_id, kept.event_type, kept.event_id) == (
        event.stream_id,
        event.event_type,
        event.event_id,
    )
    assert kept.occurred_at == event.occurred_at.astimezone(UTC)
    again = replace(kept, version=0)
    other = SyncInMemoryEventStore()
    other.append(again.stream_id, [again])
    (same,) = other.load(again.stream_id)
    assert (same.payload, same.metadata) == (kept.payload, kept.metadata)


def check_config(config):
    fields = {name: getattr(config, name) for name in CONFIG}
    assert EventStoreConfig.from_mapping(fields) == config
    if config.dsn is not None:
        assert EventStoreConfig.from_mapping({"url": config.dsn}).dsn == config.dsn
        made(EventStoreConfig.from_url, {"url": config.dsn})


def check_message(message):
    event = made(as_event, {"message": message})
    if event is not None:
        assert from_event(event) == message


MAKERS = {
    "EventStoreConfig.from_mapping": (
        {"section": st.fixed_dictionaries({}, optional=SECTION)}, EventStoreConfig.from_mapping
    ),
    "EventStoreConfig.from_url": ({"url": DSNS}, EventStoreConfig.from_url),
    "event_metadata": (
        {"around": st.dictionaries(st.text(), JSON, max_size=2), "event": EVENTS, "actor": JSON}, flowing,
    ),
    **VALUES,
}  # fmt: skip
MAKE_FREE = FREE_OF | {"event_metadata": {"around", "event", "actor"}}

RECORDS = {
    # What stores and runners give, made by nobody else: as they are, unchecked.
    "AllEvents", "As", "FeedPage", "Lease", "Notice", "ParkedEvent", "PartitionState", "PartitionStatus",
    "Progress", "Replay", "Saved", "Snapshot", "SnapshotPolicy", "SubscriptionStatus", "SyncAllEvents",
    "Transaction",
    # Constants and names for types.
    "STREAM_EXISTS", "ExpectedVersion", "StreamState",
}  # fmt: skip
SERVICES = {
    # They take values that were checked, and stores.
    "Aggregate", "AggregateRoot", "BrokerPublisher", "Decider", "DeciderRepository", "EventRegistry",
    "EventStore", "InMemoryEventStore", "InMemoryInbox", "InMemoryKeyStore", "InMemoryPublisher",
    "InMemorySnapshotStore", "InMemorySubscriptionStore", "KeyStore", "PostgresEventStore",
    "PostgresInbox", "PostgresKeyStore",
    "PostgresSnapshotStore", "PostgresSubscriptionStore", "Publisher", "Repository", "SnapshotStore",
    "SubscriptionRunner", "SubscriptionStore", "SyncEventStore", "SyncInMemoryEventStore",
    "SyncInMemorySnapshotStore", "SyncPostgresEventStore", "SyncPostgresSnapshotStore", "SyncSnapshotStore",
    "TypedEventStore",
}  # fmt: skip
FLOWS = {"caused_by", "current_metadata", "event_metadata"}
ERRORS = {
    name for name in k1s0_event_store.__all__
    if inspect.isclass(value := getattr(k1s0_event_store, name)) and issubclass(value, EventStoreError)
}  # fmt: skip


def test_every_public_name_is_made_here_or_known_to_be_no_value():
    assert set(k1s0_event_store.__all__) == VALUES.keys() | RECORDS | SERVICES | FLOWS | ERRORS


@pytest.mark.parametrize("name", MAKERS)
def test_any_input_gives_a_value_or_a_typed_error(name):
    wanted, make = MAKERS[name]
    make = make or getattr(k1s0_event_store, name)

    @settings(max_examples=120, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(arguments(wanted, FREE | MAKE_FREE.get(name, set())))
    def run(given):
        value = made(make, given)
        if value is not None:
            check_value(value)
            FURTHER.get(name, check_value)(value)

    run()


@settings(max_examples=300, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING, st.dictionaries(HASHABLE, ANYTHING, max_size=3), st.uuids())
def test_any_payload_and_metadata_are_stored_or_refused(payload, metadata, event_id):
    keeps_an_event(EventEnvelope(StreamId("order", "1"), "Placed", payload, metadata, event_id, NOON))
