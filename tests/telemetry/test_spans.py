"""What spans say of a store, and what they never say."""

import subprocess
import sys

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseError,
    EventEnvelope,
    EventStoreConfig,
    InMemoryEventStore,
    InMemorySnapshotStore,
    InvalidInputError,
    PostgresEventStore,
    PostgresSnapshotStore,
    StoreUnavailableError,
    StreamId,
    SyncInMemoryEventStore,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.telemetry import Telemetry
from k1s0_event_store.telemetry.database import database_of, engine_of, pool_name
from k1s0_event_store.testing import MockEventStore
from k1s0_event_store.testing.contract import new_events

ORDER = StreamId("order", "o-1")
CONFLICT = "k1s0.event_store.conflict"


@pytest.fixture
def store(telemetry):
    return telemetry.store(InMemoryEventStore())


async def test_an_append_is_a_span_of_a_database_client(store, collected):
    await store.append(ORDER, new_events(ORDER, 3))
    (span,) = collected.spans
    assert (span.name, span.kind) == ("append order", SpanKind.CLIENT)
    assert dict(span.attributes) == {
        "db.system.name": "k1s0_event_store",
        "db.operation.name": "append",
        "db.query.summary": "append order",
        "k1s0.event_store.aggregate_type": "order",
        "k1s0.event_store.event_count": 3,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope.name == "k1s0_event_store"


async def test_every_call_that_concerns_a_stream_is_a_span(store, telemetry, collected):
    snapshots = telemetry.snapshots(InMemorySnapshotStore())
    await store.load(ORDER)
    assert [event async for event in store.stream(ORDER)] == []
    await store.current_version(ORDER)
    await store.exists(ORDER)
    await store.lock(ORDER)
    await snapshots.save(ORDER, 1, "state")
    await snapshots.load_latest(ORDER)
    await store.load_since_snapshot(ORDER, snapshots)
    assert [span.name for span in collected.spans] == [
        "load order",
        "stream order",
        "current_version order",
        "exists order",
        "lock order",
        "save_snapshot order",
        "load_snapshot order",
        "load_since_snapshot order",
    ]


def test_a_blocking_store_tells_the_same(telemetry, collected):
    store = telemetry.store(SyncInMemoryEventStore())
    snapshots = telemetry.snapshots(SyncInMemorySnapshotStore())
    with store, snapshots:
        store.append(ORDER, new_events(ORDER, 2))
        assert [event.version for event in store.stream(ORDER)] == [1, 2]
        snapshots.save(ORDER, 1, "state")
        store.load_since_snapshot(ORDER, snapshots)
        with pytest.raises(ConcurrencyError):
            store.append(ORDER, new_events(ORDER, 1), expected_version=0)
        assert [event.version for event in store.read_all()] == [1, 2]
        assert store.exists(ORDER)
        assert (store.current_version(ORDER), store.lock(ORDER), len(store.load(ORDER))) == (2, 2, 2)
        assert snapshots.load_latest(ORDER).state == "state"
    assert [span.name.removesuffix(" order") for span in collected.spans] == [
        "append", "stream", "save_snapshot", "load_since_snapshot", "append", "exists",
        "current_version", "lock", "load", "load_snapshot",
    ]  # fmt: skip
    assert collected.spans[4].attributes[CONFLICT]
    assert collected.spans[0].attributes["k1s0.event_store.event_count"] == 2


async def test_polling_of_the_feed_makes_no_spans(store, collected):
    await store.append(ORDER, new_events(ORDER, 3))
    assert len([event async for event in store.read_all()]) == 3
    await store.latest_cursor()
    assert [span.name for span in collected.spans] == ["append order"]
    operations = collected.values("db.client.operation.duration", "db.operation.name")
    assert operations.keys() == {("append",), ("read_page",), ("latest_cursor",)}


async def test_a_conflict_is_an_answer_and_no_failure(store, collected):
    with pytest.raises(ConcurrencyError):
        await store.append(ORDER, new_events(ORDER, 1), expected_version=4)
    (span,) = collected.spans
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes[CONFLICT] is True
    assert "error.type" not in span.attributes
    assert collected.values("k1s0.event_store.append.conflicts") == {(): 1}
    assert collected.values("k1s0.event_store.append.events") == {}


async def test_an_error_is_told_by_its_type_and_not_by_its_text(telemetry, collected):
    mock = MockEventStore()
    mock.fail_next("load", RuntimeError("of secret content"))
    with pytest.raises(RuntimeError):
        await telemetry.store(mock).load(ORDER)
    (span,) = collected.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.status.description, span.events) == (None, ())
    assert span.attributes["error.type"] == "RuntimeError"
    assert collected.values("db.client.operation.duration", "error.type").keys() == {("RuntimeError",)}


async def test_what_is_wrong_with_a_call_is_said_as_before(store, collected):
    for events in ("no list", 5, EventEnvelope(ORDER, "Placed", {}), [1]):
        with pytest.raises(InvalidInputError):
            await store.append(ORDER, events)
    with pytest.raises(InvalidInputError):
        await store.append("order-1", [])
    assert [span.attributes["error.type"].rpartition(".")[2] for span in collected.spans] == [
        "InvalidEventError", "InvalidInputError", "InvalidInputError", "InvalidEventError",
    ]  # fmt: skip


async def test_a_stream_that_is_left_early_is_no_failure(store, collected):
    await store.append(ORDER, new_events(ORDER, 3))
    events = store.stream(ORDER)
    assert (await anext(events)).version == 1
    await events.aclose()
    assert collected.named("stream order")[0].status.status_code is StatusCode.UNSET


async def test_between_two_events_of_a_stream_the_span_of_the_caller_is_the_current_one(store, collected):
    await store.append(ORDER, new_events(ORDER, 2))
    tracer = collected.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("request"):
        async for _ in store.stream(ORDER):
            with tracer.start_as_current_span("work"):
                pass
    (request,), works = collected.named("request"), collected.named("work")
    assert {work.parent.span_id for work in works} == {request.context.span_id}
    (stream,) = collected.named("stream order")
    assert stream.parent.span_id == request.context.span_id


async def test_a_postgres_store_says_where_it_is(telemetry, collected, event_store):
    store = telemetry.store(event_store)
    await store.append(ORDER, new_events(ORDER, 1))
    (span,) = collected.spans
    assert span.attributes["db.system.name"] == "postgresql"
    database, schema = span.attributes["db.namespace"].split("|")
    assert (database, schema) == (make_url(event_store.config.dsn).database, "eventstore")


async def test_inside_the_callers_transaction_it_is_traced_too(telemetry, collected, event_store):
    store = telemetry.store(event_store)
    snapshots = telemetry.snapshots(PostgresSnapshotStore(event_store.config, bind=store.bind))
    async with AsyncSession(store.bind) as session, session.begin():
        joined = store.within(session)
        assert isinstance(joined, type(store))
        assert (store.reads_ahead, joined.reads_ahead) == (True, False)
        await joined.append(ORDER, new_events(ORDER, 1))
        await snapshots.within(session).save(ORDER, 1, "state")
        await session.rollback()
    assert not await store.exists(ORDER)
    assert [span.name for span in collected.spans] == ["append order", "save_snapshot order", "exists order"]


async def test_what_a_store_has_beyond_the_contract_stays_within_reach(telemetry, event_store):
    store = telemetry.store(event_store)
    assert (store.config, store.bind, store.wrapped) == (event_store.config, event_store.bind, event_store)
    await store.validate()
    with pytest.raises(AttributeError, match="nothing_like_it"):
        store.nothing_like_it  # noqa: B018
    assert repr(store).startswith("TracedEventStore(<")


async def test_an_address_is_told_without_user_and_password(telemetry, collected):
    dsn = "postgresql://ann:secret@127.0.0.1:1/shop"
    async with telemetry.store(PostgresEventStore(EventStoreConfig(dsn=dsn))) as store:
        with pytest.raises(StoreUnavailableError):
            await store.load(ORDER)
    (span,) = collected.spans
    assert span.attributes["server.address"] == "127.0.0.1"
    assert span.attributes["server.port"] == 1
    assert span.attributes["db.namespace"] == "shop|eventstore"
    assert span.attributes["error.type"] == "k1s0_event_store.exceptions.StoreUnavailableError"
    assert "secret" not in span.to_json()
    assert "ann" not in span.to_json()


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://a:1,b:2/shop", {"db.namespace": "eventstore"}),
        ("postgresql:///shop", {"db.namespace": "shop|eventstore"}),
        ("postgresql://db/shop", {"db.namespace": "shop|eventstore", "server.address": "db"}),
    ],
)
def test_only_what_is_known_of_an_address_is_told(dsn, told):
    store = PostgresEventStore(EventStoreConfig(dsn=dsn))
    assert database_of(store) == {"db.system.name": "postgresql", **told}
    assert pool_name(database_of(store)) in {"eventstore", "shop|eventstore", "db:5432/shop|eventstore"}


@pytest.mark.parametrize("maker", [async_sessionmaker, lambda engine: engine])
async def test_the_engine_of_the_app_is_found_below_a_store(maker):
    engine = create_async_engine("postgresql+asyncpg://db:6000/shop")
    store = PostgresEventStore(bind=maker(engine))
    assert engine_of(store) is engine.sync_engine
    assert pool_name(database_of(store)) == "db:6000/shop|eventstore"
    assert engine_of(InMemoryEventStore()) is None
    await engine.dispose()


async def test_an_error_of_the_database_is_told_with_its_code(telemetry, collected):
    mock = MockEventStore()
    mock.fail_next("load", DatabaseError("of secret content", "57014"))
    with pytest.raises(DatabaseError):
        await telemetry.store(mock).load(ORDER)
    (span,) = collected.spans
    assert span.attributes["db.response.status_code"] == "57014"
    assert span.attributes["error.type"] == "k1s0_event_store.exceptions.DatabaseError"


async def test_a_feed_that_cannot_be_read_is_counted(telemetry, collected):
    mock = MockEventStore()
    mock.fail_next("read_page", OSError("of secret content"))
    with pytest.raises(OSError, match="secret"):
        await telemetry.store(mock).read_page()
    assert collected.values("db.client.operation.duration", "error.type").keys() == {("OSError",)}


def test_snapshots_are_due_as_the_store_below_says(telemetry):
    for snapshots in (
        telemetry.snapshots(InMemorySnapshotStore(snapshot_interval=3)),
        telemetry.snapshots(SyncInMemorySnapshotStore(snapshot_interval=3)),
    ):
        assert snapshots.snapshot_interval == 3
        assert (snapshots.is_due(2), snapshots.is_due(3), snapshots.is_due(3, 1)) == (False, True, False)


@pytest.mark.parametrize("kind", ["store", "snapshots", "publisher", "subscription"])
def test_what_cannot_be_traced_is_refused(telemetry, kind):
    with pytest.raises(ConfigurationError, match="can be traced"):
        getattr(telemetry, kind)(object())


async def test_without_a_provider_nothing_is_made_and_nothing_is_added():
    store = Telemetry().store(InMemoryEventStore())
    await store.append(ORDER, new_events(ORDER, 1))
    (event,) = await store.load(ORDER)
    assert event.metadata == {}


def test_without_the_sdk_everything_can_be_wrapped():
    program = """
import sys
for name in ("opentelemetry.sdk", "opentelemetry.exporter", "prometheus_client"):
    sys.modules[name] = None
from k1s0_event_store import InMemoryEventStore
from k1s0_event_store.telemetry import Telemetry
assert Telemetry().store(InMemoryEventStore())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
