"""Numbers: of stores, of handlers and publishers, and those that somebody has to ask for."""

import asyncio
import gc
from dataclasses import replace

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from k1s0_event_store import (
    BrokerUnavailableError,
    ConcurrencyError,
    EventStoreConfig,
    FailurePolicy,
    InMemoryEventStore,
    Message,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    Subscriber,
    SubscriptionRunner,
    SyncPostgresEventStore,
)
from k1s0_event_store.brokers.urls import publisher_for
from k1s0_event_store.memory import InMemoryPublisher, InMemorySubscriptionStore
from k1s0_event_store.subscription import PartitionState, PartitionStatus, SubscriptionStatus
from k1s0_event_store.telemetry import watching as module
from k1s0_event_store.testing.contract import new_events

ORDER, CART = StreamId("order", "o-1"), StreamId("cart", "c-1")
NAME = "messaging.destination.subscription.name"
DURATION = "db.client.operation.duration"
LAG = "k1s0.event_store.subscription.lag.events"
BEHIND = PartitionStatus(0, PartitionState.RUNNING, "w", None, 7, 3, 1.5, False, None, None)


@pytest.fixture
def store(telemetry):
    return telemetry.store(InMemoryEventStore())


async def test_appends_events_and_conflicts_are_counted_by_aggregate_type(store, collected):
    for stream_id, count in ((ORDER, 3), (ORDER, 2), (CART, 1)):
        await store.append(stream_id, new_events(stream_id, count))
    with pytest.raises(ConcurrencyError):
        await store.append(CART, new_events(CART, 1), expected_version=0)
    of = "k1s0.event_store.aggregate_type"
    assert collected.values("k1s0.event_store.append.events", of) == {("order",): 5, ("cart",): 1}
    assert collected.values("k1s0.event_store.append.conflicts", of) == {("cart",): 1}
    counts = {point.attributes[of]: point.count for point in collected.points(DURATION)}
    assert counts == {"order": 2, "cart": 2}


async def test_durations_have_the_buckets_of_the_conventions(store, telemetry, collected):
    await store.append(ORDER, new_events(ORDER, 1))
    await telemetry.publisher(InMemoryPublisher()).publish(Message("a", "k", b""))
    (append,), (publish,) = (
        collected.points(DURATION),
        collected.points("messaging.client.operation.duration"),
    )
    assert append.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    assert publish.explicit_bounds[0] == 0.005
    assert append.sum > 0


async def test_what_a_runner_tells_is_counted(store, telemetry, collected):
    async def handle(event):
        if event.payload["n"] == 3:
            raise ValueError("no")

    await store.append(ORDER, new_events(ORDER, 3))
    subscription = Subscriber("mail", handle, failure=FailurePolicy(attempts=2, wait=0))
    storage = InMemorySubscriptionStore(store.wrapped)
    runner = SubscriptionRunner(
        store, storage, [telemetry.subscription(subscription)], observe=telemetry.observe
    )
    await runner.run_until_caught_up()
    outcomes = collected.values("k1s0.event_store.subscription.events", NAME, "k1s0.event_store.outcome")
    assert outcomes == {("mail", "handled"): 2, ("mail", "retried"): 1, ("mail", "parked"): 1}
    changes = collected.values("k1s0.event_store.subscription.changes", "k1s0.event_store.change")
    assert changes == {("started",): 1, ("ended",): 1}
    durations = collected.points("messaging.process.duration")
    assert {point.attributes.get("error.type"): point.count for point in durations} == {
        None: 2,
        "ValueError": 2,
    }


async def test_messages_are_counted_also_those_that_fail(telemetry, collected):
    def away(_message):
        raise BrokerUnavailableError("away")

    publisher = InMemoryPublisher()
    traced = telemetry.publisher(publisher)
    await traced.publish(Message("a", "k", b""))
    publisher.answer = away
    with pytest.raises(BrokerUnavailableError):
        await traced.publish(Message("a", "k", b""))
    assert collected.values("messaging.client.sent.messages", "messaging.operation.name") == {("publish",): 2}
    durations = collected.points("messaging.client.operation.duration")
    errors = {point.attributes.get("error.type"): point.count for point in durations}
    assert errors == {None: 1, "k1s0_event_store.exceptions.BrokerUnavailableError": 1}


@pytest.mark.parametrize(
    ("scheme", "system"), [("kafka", "kafka"), ("nats", "nats"), ("amqp", "rabbitmq"), ("rediss", "redis")]
)
async def test_a_publisher_is_told_by_its_broker(telemetry, collected, monkeypatch, scheme, system):
    publisher = publisher_for(f"{scheme}://127.0.0.1:1")
    monkeypatch.setattr(publisher, "publish", InMemoryPublisher().publish)
    traced = telemetry.publisher(publisher)
    await traced.publish(Message("a", "k", b""))
    assert traced.place == publisher.place
    (span,) = collected.spans
    assert span.attributes["messaging.system"] == system


class Storage:
    """In the place of a subscription store: tells one status, or fails."""

    def __init__(self, *partitions, parked=2):
        self.asked = 0
        self.asked_often = asyncio.Event()
        self.error = None
        self.status = SubscriptionStatus("mail", 3, True, partitions, parked)

    async def statuses(self):
        self.asked += 1
        if self.asked == 3:
            self.asked_often.set()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [self.status]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0)


async def test_gauges_are_those_of_the_last_refresh(telemetry, collected):
    paused = replace(BEHIND, partition=1, state=PartitionState.PAUSED, behind=0, behind_seconds=0.0)
    gauges = telemetry.watch(Storage(BEHIND, paused))
    assert collected.points(LAG) == []
    await gauges.refresh()
    partition = "k1s0.event_store.subscription.partition"
    assert collected.values(LAG, NAME, "k1s0.event_store.subscription.version", partition) == {
        ("mail", 3, 0): 3,
        ("mail", 3, 1): 0,
    }
    assert collected.values("k1s0.event_store.subscription.lag.time", partition) == {(0,): 1.5, (1,): 0.0}
    assert collected.values("k1s0.event_store.subscription.parked", NAME) == {("mail",): 2}
    states = collected.values(
        "k1s0.event_store.subscription.partitions", "k1s0.event_store.subscription.state"
    )
    assert states == {("running",): 1, ("paused",): 1, ("stopped",): 0, ("no worker",): 0}


async def test_the_age_of_a_checkpoint_is_the_time_since_it_moved(
    telemetry, collected, impatient, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    storage = Storage(replace(BEHIND, cursor=module.Cursor("a")))
    gauges = telemetry.watch(storage)

    async def age_after(seconds, **fields):
        clock[0] += seconds
        status = storage.status
        storage.status = replace(status, partitions=(replace(status.partitions[0], **fields),))
        await gauges.refresh()
        return collected.values("k1s0.event_store.subscription.checkpoint.age")[()]

    assert await age_after(0) == 0
    assert await age_after(5) == 5
    assert await age_after(5, handled=9) == 10
    assert await age_after(5, cursor=module.Cursor("b")) == 0
    assert await age_after(5, behind=0) == 0
    assert await age_after(5, behind=1) == 5


async def test_what_is_not_known_is_not_told(telemetry, collected, impatient, caplog):
    storage = Storage(BEHIND)
    gauges = telemetry.watch(storage)
    await gauges.refresh()
    storage.error = OSError("no route")
    await gauges.refresh()
    assert collected.points(LAG) == []
    assert gauges.failed_at is not None
    assert collected.values("k1s0.event_store.subscription.refresh.failures") == {(): 1}
    assert "the state of the subscriptions is not known" in caplog.text
    storage.error = None
    await gauges.refresh()
    assert (gauges.failed_at, len(collected.points(LAG))) == (None, 1)


async def test_a_database_that_does_not_answer_is_not_waited_for(telemetry, monkeypatch):
    monkeypatch.setattr(module, "_DATABASE_SECONDS", 0.01)
    storage = Storage(BEHIND)
    storage.statuses = lambda: asyncio.sleep(60)
    gauges = telemetry.watch(storage)
    await gauges.refresh()
    assert gauges.failed_at is not None


async def test_many_scrapes_are_one_question_to_the_database(telemetry):
    storage = Storage(BEHIND)
    telemetry.watch(storage)
    await asyncio.gather(*(telemetry.refresh() for _ in range(20)))
    assert storage.asked == 1


async def test_in_the_background_it_asks_again_and_again(telemetry, impatient):
    storage = Storage(BEHIND)
    async with telemetry.watch(storage, every=0.001), asyncio.timeout(60):
        await storage.asked_often.wait()
    asked = storage.asked
    await asyncio.sleep(0.05)
    assert storage.asked == asked


async def test_pools_tell_what_they_hold(telemetry, collected, event_store):
    store = telemetry.store(event_store)
    telemetry.watch(PostgresSubscriptionStore(store.config, bind=store.bind))
    await store.load(ORDER)
    async with store.bind.connect():
        counts = collected.values("db.client.connection.count", "db.client.connection.state")
        assert counts == {("used",): 1, ("idle",): 0}
    counts = collected.values("db.client.connection.count", "db.client.connection.state")
    assert counts == {("used",): 0, ("idle",): 1}
    (point,) = collected.points("db.client.connection.idle.max")
    assert point.value == store.config.pool_size
    assert point.attributes["db.client.connection.pool.name"].endswith("|eventstore")


def test_pools_that_keep_nothing_or_are_gone_are_left_out(telemetry, collected, event_store_dsn):
    dsn = event_store_dsn.replace("postgresql://", "postgresql+psycopg://")
    none = telemetry.store(SyncPostgresEventStore(bind=create_engine(dsn, poolclass=NullPool)))
    gone = telemetry.store(SyncPostgresEventStore(EventStoreConfig(dsn=event_store_dsn)))
    assert len(collected.points("db.client.connection.idle.max")) == 1
    gone.close()
    del gone
    gc.collect()
    assert collected.points("db.client.connection.idle.max") == []
    assert not none.exists(ORDER)


async def test_a_projection_is_measured_with_its_lag_on_postgres(
    telemetry, collected, event_store, impatient
):
    async def handle(event, session):
        pass

    store = telemetry.store(event_store)
    storage = PostgresSubscriptionStore(store.config, bind=store.bind)
    runner = SubscriptionRunner(
        store, storage, [telemetry.subscription(Projection("table", handle))], observe=telemetry.observe
    )
    gauges = telemetry.watch(storage)
    await store.append(ORDER, new_events(ORDER, 3))
    await storage.register("table", 1, 1)
    await gauges.refresh()
    assert collected.values(LAG, NAME) == {("table",): 3}
    await runner.run_until_caught_up()
    await gauges.refresh()
    assert collected.values(LAG, NAME) == {("table",): 0}
    outcomes = collected.values("k1s0.event_store.subscription.events", "k1s0.event_store.outcome")
    assert outcomes == {("handled",): 3}
