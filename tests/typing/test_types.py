"""The public types, checked by mypy and pyright and never run: every line is a promise to users.

An ignore proves that both refuse the line: each complains about one that it does not need.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from typing_extensions import TypedDict

from k1s0_event_store import (
    STREAM_EXISTS,
    AggregateCache,
    AggregateRoot,
    AllEvents,
    As,
    ConcurrencyError,
    Cursor,
    Decider,
    DeciderRepository,
    EventEnvelope,
    EventRegistry,
    EventStore,
    EventStoreConfig,
    EventVersion,
    ExpectedVersion,
    InMemoryEventStore,
    InMemorySnapshotStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    ProcessManager,
    Projection,
    Replay,
    Repository,
    Snapshot,
    SnapshotPolicy,
    SnapshotStore,
    StreamId,
    SyncAllEvents,
    SyncEventStore,
    SyncInMemoryEventStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
    SyncSnapshotStore,
    TypedEventStore,
    after,
    caused_by,
    current_metadata,
    event_metadata,
    every,
    never,
    slower_than,
)
from k1s0_event_store.testing import Call, MockEventStore, SyncMockEventStore

ORDER = StreamId("order", "o-1")


class Total:
    """State of somebody's aggregate."""

    value = 0


def apply(total: Total, event: EventEnvelope) -> Total:
    changed = copy.copy(total)
    changed.value += event.payload["amount"]
    return changed


def values(event: EventEnvelope, snapshot: Snapshot, replay: Replay[Total]) -> None:
    assert_type(event.stream_id, StreamId)
    assert_type(event.event_id, UUID)
    assert_type(event.metadata, Mapping[str, Any])
    assert_type(event.occurred_at, datetime)
    assert_type(event.recorded_at, datetime | None)
    assert_type(event.position, int | None)
    assert_type(snapshot.taken_at, datetime)
    assert_type(replay.state, Total)
    assert_type(EventVersion(3), EventVersion)
    numbers: list[int] = [EventVersion(3)]
    assert_type(numbers[0], int)
    event.version = 4  # type: ignore[misc]
    StreamId("order", 5)  # type: ignore[arg-type]
    EventEnvelope("order-o-1", "Shipped", {})  # type: ignore[arg-type]


def configuration(section: dict[str, Any]) -> None:
    config = EventStoreConfig(dsn="postgresql://localhost/db", snapshot_interval=50)
    assert_type(EventStoreConfig.from_mapping(section), EventStoreConfig)
    assert_type(EventStoreConfig.from_url("postgresql://localhost/db"), EventStoreConfig)
    assert_type(config.masked_dsn, str | None)
    EventStoreConfig("postgresql://localhost/db")  # type: ignore[call-arg]


def errors(error: ConcurrencyError) -> None:
    assert_type(error.stream_id, StreamId)
    assert_type(error.expected_version, ExpectedVersion)
    assert_type(error.actual_version, int | None)
    assert_type(error.retryable, bool)


async def event_store(store: EventStore, event: EventEnvelope) -> None:
    assert_type(await store.append(ORDER, [event]), EventVersion)
    assert_type(await store.append(ORDER, (event,), 0), EventVersion)
    assert_type(await store.append(ORDER, [event], expected_version=None), EventVersion)
    assert_type(await store.append(ORDER, [event], STREAM_EXISTS), EventVersion)
    assert_type(await store.append(ORDER, [event], await store.current_version(ORDER)), EventVersion)
    assert_type(await store.load(ORDER, 1, 5, limit=2, backwards=True), list[EventEnvelope])
    assert_type(store.stream(ORDER, 1, 5), AsyncIterator[EventEnvelope])
    assert_type(store.read_all(), AllEvents)
    assert_type(await store.exists(ORDER), bool)
    assert_type(await store.current_version(ORDER), EventVersion)
    assert_type(await store.lock(ORDER, wait=1.5), EventVersion)


async def refused_by_event_store(store: EventStore, event: EventEnvelope) -> None:
    await store.append(ORDER, [event], "any")  # type: ignore[arg-type]
    await store.append(ORDER, [event], "STREAM_EXISTS")  # type: ignore[arg-type]
    await store.append(ORDER, [event], 1.5)  # type: ignore[arg-type]
    await store.append(ORDER, event)  # type: ignore[arg-type]
    await store.append("order-o-1", [event])  # type: ignore[arg-type]
    await store.load(ORDER, 0, None, 5)  # type: ignore[call-arg]


async def replay(store: EventStore, snapshots: SnapshotStore, blocking: SyncSnapshotStore) -> None:
    replayed = await store.replay(ORDER, apply, Total(), snapshots, restore=lambda state: Total())
    assert_type(replayed, Replay[Total])
    assert_type(replayed.state.value, int)
    assert_type(replayed.version, int)
    counted = await store.replay(ORDER, lambda count, event: count + 1, 0)
    assert_type(counted, Replay[int])
    await store.replay(ORDER, apply, Total(), blocking)  # type: ignore[arg-type]


async def snapshot_store(store: SnapshotStore) -> None:
    assert_type(await store.load_latest(ORDER, schema_version=2, max_version=7), Snapshot | None)
    await store.save(ORDER, 3, {"any": ["json"]}, schema_version=2)
    assert_type(store.is_due(60, 10), bool)
    assert_type(store.snapshot_interval, int)
    await store.save("order-o-1", 3, {})  # type: ignore[arg-type]


def blocking_event_store(store: SyncEventStore, snapshots: SyncSnapshotStore, event: EventEnvelope) -> None:
    assert_type(store.append(ORDER, [event], STREAM_EXISTS), EventVersion)
    assert_type(store.load(ORDER), list[EventEnvelope])
    assert_type(store.stream(ORDER), Iterator[EventEnvelope])
    assert_type(store.read_all(), SyncAllEvents)
    assert_type(store.exists(ORDER), bool)
    assert_type(store.current_version(ORDER), EventVersion)
    assert_type(store.lock(ORDER), EventVersion)
    assert_type(store.replay(ORDER, apply, Total(), snapshots), Replay[Total])
    assert_type(snapshots.load_latest(ORDER), Snapshot | None)
    store.append(ORDER, [event], "any")  # type: ignore[arg-type]


async def within_gives_the_same_type(
    config: EventStoreConfig, session: AsyncSession, connection: AsyncConnection, blocking: Session
) -> None:
    store, snapshots = PostgresEventStore(config), PostgresSnapshotStore(config)
    assert_type(store.within(session), PostgresEventStore)
    assert_type(store.within(connection), PostgresEventStore)
    assert_type(snapshots.within(session), PostgresSnapshotStore)
    assert_type(InMemoryEventStore().within(session), InMemoryEventStore)
    assert_type(InMemorySnapshotStore().within(session), InMemorySnapshotStore)
    assert_type(MockEventStore().within(session), MockEventStore)
    async with store as entered:
        assert_type(entered, PostgresEventStore)
    store.within(blocking)  # type: ignore[arg-type]


def blocking_within_gives_the_same_type(
    config: EventStoreConfig, session: Session, connection: Connection, asynchronous: AsyncSession
) -> None:
    store, snapshots = SyncPostgresEventStore(config), SyncPostgresSnapshotStore(config)
    assert_type(store.within(session), SyncPostgresEventStore)
    assert_type(store.within(connection), SyncPostgresEventStore)
    assert_type(snapshots.within(session), SyncPostgresSnapshotStore)
    assert_type(SyncInMemoryEventStore().within(session), SyncInMemoryEventStore)
    assert_type(SyncMockEventStore().within(session), SyncMockEventStore)
    with store as entered:
        assert_type(entered, SyncPostgresEventStore)
    store.within(asynchronous)  # type: ignore[arg-type]


def engines_and_sessionmakers_are_taken(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    blocking: Engine,
    makers: sessionmaker[Session],
) -> None:
    PostgresEventStore(bind=engine)
    PostgresSnapshotStore(bind=sessions)
    SyncPostgresEventStore(bind=blocking)
    SyncPostgresSnapshotStore(bind=makers)
    PostgresEventStore(bind=blocking)  # type: ignore[arg-type]
    SyncPostgresEventStore(bind=engine)  # type: ignore[arg-type]


def mocks(event: EventEnvelope) -> None:
    mock, blocking = MockEventStore(), SyncMockEventStore()
    stores: tuple[list[EventStore], list[SyncEventStore]] = ([mock], [blocking])
    assert_type(stores, tuple[list[EventStore], list[SyncEventStore]])
    assert_type(mock.calls, list[Call])
    mock.conflict_once(ORDER, [event])
    blocking.fail_next("append", ValueError("any exception"), after_effect=True, skip=2)
    mock.fail_next("append", "down")  # type: ignore[arg-type]
    MockEventStore(SyncInMemoryEventStore())  # type: ignore[arg-type]


events = EventRegistry()


@events.register("order.placed", version=2, aliases=["order.created"])
class OrderPlaced(BaseModel):
    amount: int


@events.register("order.shipped")
@dataclass(frozen=True)
class OrderShipped:
    tracking: str


@events.register("order.cancelled")
class OrderCancelled(TypedDict):
    type: Literal["order.cancelled"]
    reason: str


@events.upcast("order.placed", 1, into=["order.shipped"])
def split(old: dict[str, Any]) -> list[As | dict[str, Any]]:
    return [old, As("order.shipped", {"tracking": "?"})]


@events.upcast("order.lost", 1, into=[])
def dropped(old: Any) -> None:
    return None


def decorators_keep_what_they_decorate() -> None:
    assert_type(OrderPlaced(amount=3), OrderPlaced)
    assert_type(OrderPlaced(amount=3).amount, int)
    assert_type(OrderShipped("T").tracking, str)
    assert_type(OrderCancelled(type="order.cancelled", reason="late")["reason"], str)
    assert_type(split({}), list[As | dict[str, Any]])
    kind: type[OrderPlaced] = events.register("order.placed.too")(OrderPlaced)
    assert_type(kind(amount=3), OrderPlaced)
    OrderShipped(tracking=5)  # type: ignore[arg-type]
    split([])  # type: ignore[arg-type]
    events.register(OrderPlaced)  # type: ignore[arg-type]
    events.register("order.paid", 2)  # type: ignore[call-arg]
    events.register("order.paid")(OrderShipped("T"))  # type: ignore[type-var]
    events.upcast("order.placed")  # type: ignore[call-arg]


def registry(envelope: EventEnvelope) -> None:
    assert_type(events.names_of(OrderPlaced, "order.shipped"), list[str])
    assert_type(events.name_of(OrderPlaced), str)
    assert_type(events.envelope(ORDER, OrderShipped("T"), {"actor": "ann"}), EventEnvelope)
    assert_type(events.decode(envelope, "skip"), list[EventEnvelope])
    events.decode(envelope, "ignore")  # type: ignore[arg-type]


async def typed_store(store: EventStore) -> None:
    typed = TypedEventStore(store, events, unknown="raw")
    assert_type(typed.within(object()), TypedEventStore)
    assert_type(await typed.append(ORDER, [OrderShipped("T")], 0, metadata={"actor": "ann"}), EventVersion)
    assert_type(await typed.append(ORDER, (OrderShipped("T"),), STREAM_EXISTS), EventVersion)
    assert_type(await typed.envelopes(ORDER, [OrderShipped("T")]), list[EventEnvelope])
    assert_type(await typed.load(ORDER, 1, 5, limit=2, backwards=True), list[EventEnvelope])
    assert_type(await typed.decode(await store.load(ORDER)), list[EventEnvelope])
    async for event in typed.stream(ORDER, 1, 5):
        assert_type(event, EventEnvelope)
    async for stored, today in typed.decoded(ORDER):
        assert_type(stored, EventEnvelope)
        assert_type(today, list[EventEnvelope])
    assert_type(await typed.replay(ORDER, apply, Total()), Replay[Total])
    assert_type(typed.read_all(event_types=[OrderPlaced, "order.shipped"]), AllEvents)
    assert_type(typed.read_all(where=lambda event: event.version > 1).cursor, Cursor | None)
    TypedEventStore(store, events, unknown="ignore")  # type: ignore[arg-type]
    TypedEventStore(store, "events")  # type: ignore[arg-type]
    await typed.append(ORDER, [OrderShipped("T")], "any")  # type: ignore[arg-type]
    await typed.append(ORDER, [OrderShipped("T")], 0, {})  # type: ignore[call-arg]
    typed.read_all(event_types=OrderPlaced)  # type: ignore[arg-type]


def typed_handlers(typed: TypedEventStore) -> None:
    async def handle(event: EventEnvelope, session: AsyncSession) -> None: ...

    async def handle_many(events: Sequence[EventEnvelope]) -> None: ...

    Projection("totals", typed.handler(handle))
    ProcessManager("billing", typed.handler(handle, types=[OrderPlaced]))
    Projection("totals", typed.handler(handle_many, batch=True, types=["order.placed"]))
    typed.handler(handle, types=OrderPlaced)  # type: ignore[arg-type]


def metadata(event: EventEnvelope) -> None:
    with event_metadata(actor="ann", tenant=None), caused_by(event):
        assert_type(current_metadata(), dict[str, Any])
    caused_by("event")  # type: ignore[arg-type]


@dataclass
class Order(AggregateRoot):
    """An aggregate on our base."""

    aggregate_type = "order"
    lines: list[str] = field(default_factory=list)

    def apply(self, event: object) -> None: ...


class Cart:
    """An aggregate of one's own, without a base."""

    version: int
    recorded: list[Any]

    def __init__(self, id: str) -> None:
        self._id = id
        self.version = 0
        self.recorded = []

    @property
    def id(self) -> str:
        return self._id

    def apply(self, event: Any) -> None: ...


class Unversioned:
    """No aggregate."""

    def apply(self, event: Any) -> None: ...


async def repositories(store: EventStore, snapshots: SnapshotStore, session: AsyncSession) -> None:
    orders = Repository(
        store,
        events,
        Order,
        snapshots=snapshots,
        snapshot=every(50) | after(OrderShipped) & slower_than(0.1),
        cache=AggregateCache(),
    )
    assert_type(orders, Repository[Order])
    assert_type(orders.within(session), Repository[Order])
    assert_type(await orders.load("o-1"), Order)
    assert_type((await orders.within(session).load("o-1", version=3)).lines, list[str])
    assert_type(await orders.save(Order("o-1"), metadata={"actor": "ann"}), int)
    assert_type(await orders.transact("o-1", lambda order: order.lines.append("a")), Order)
    async with orders as entered:
        assert_type(entered, Repository[Order])
    assert_type(await Repository(store, events, Cart, aggregate_type="cart").load("c-1"), Cart)
    assert_type(never(), SnapshotPolicy)
    await orders.save(Cart("c-1"))  # type: ignore[arg-type]
    await orders.transact("o-1", lambda order: order.ship())  # type: ignore[attr-defined]
    await orders.load(5)  # type: ignore[arg-type]
    Repository(store, events, Unversioned)  # type: ignore[type-var]
    Repository(store, events, Order, snapshot=50)  # type: ignore[arg-type]
    Repository(store, events, Order, retries=3)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Ship:
    """A command."""

    tracking: str


def initial() -> Total:
    return Total()


def evolve(total: Total, event: OrderPlaced | OrderShipped) -> Total:
    return total


def decide(command: Ship, total: Total) -> list[OrderShipped]:
    return [OrderShipped(command.tracking)]


async def deciders(store: EventStore, session: AsyncSession) -> None:
    decider = Decider("order", initial, evolve, decide)
    assert_type(decider, Decider[Total, Ship])
    totals = DeciderRepository(store, events, decider)
    assert_type(totals, DeciderRepository[Total, Ship])
    assert_type(totals.within(session), DeciderRepository[Total, Ship])
    assert_type(await totals.load("o-1"), Replay[Total])
    assert_type((await totals.execute("o-1", Ship("T"))).state, Total)
    assert_type(await totals.transact("o-1", lambda total: [OrderShipped("T")]), Replay[Total])
    await totals.execute("o-1", OrderShipped("T"))  # type: ignore[arg-type]
    await totals.transact("o-1", lambda total: total.value)  # type: ignore[arg-type, return-value]
    Decider("order", initial, decide, evolve)  # type: ignore[arg-type, misc]
