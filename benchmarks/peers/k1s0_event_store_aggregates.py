"""This library for the comparison of aggregates: typed events, a repository, a snapshot every 50 events."""

from dataclasses import dataclass, field
from decimal import Decimal

import k1s0_event_store_pg
from k1s0_event_store_pg import append
from pydantic import BaseModel

from k1s0_event_store import (
    AggregateCache,
    AggregateRoot,
    EventRegistry,
    PostgresSnapshotStore,
    Repository,
    StreamId,
    TypedEventStore,
    every,
)

__all__ = ["append", "load_raw", "load_typed", "make", "setup", "transact", "transact_cached"]

events = EventRegistry()
orders: Repository["Order"]
cached: Repository["Order"]
typed: TypedEventStore


@events.register("order.line_added")
class LineAdded(BaseModel):
    sku: str
    quantity: int
    price: Decimal


@dataclass
class Order(AggregateRoot):
    aggregate_type = "bench-order"
    total: Decimal = Decimal(0)
    lines: list[str] = field(default_factory=list)

    def add(self, sku: str, quantity: int, price: Decimal) -> None:
        self.record(LineAdded(sku=sku, quantity=quantity, price=price))

    def apply(self, event: object) -> None:
        match event:
            case LineAdded():
                self.total += event.quantity * event.price
                self.lines.append(event.sku)


async def setup(dsn: str, pool_size: int = 10) -> None:
    global orders, cached, typed
    await k1s0_event_store_pg.setup(dsn, pool_size)
    store = k1s0_event_store_pg.store
    snapshots = PostgresSnapshotStore(bind=store.bind)
    options = {"snapshots": snapshots, "snapshot": every(50)}
    orders = Repository(store, events, Order, **options)
    cached = Repository(store, events, Order, cache=AggregateCache(), **options)
    typed = TypedEventStore(store, events)


def add_line(order: Order) -> None:
    order.add("sku-1", 2, Decimal("9.99"))


async def make(name: str, size: int) -> None:
    """An aggregate of so many events, in appends of 10."""
    for _ in range(size // 10):
        await orders.transact(name, lambda order: [add_line(order) for _ in range(10)])


async def transact(name: str) -> int:
    return len((await orders.transact(name, add_line)).lines)


async def transact_cached(name: str) -> int:
    return len((await cached.transact(name, add_line)).lines)


async def load_raw(name: str) -> int:
    return len(await typed.store.load(StreamId("bench-order", name)))


async def load_typed(name: str) -> int:
    return len(await typed.load(StreamId("bench-order", name)))
