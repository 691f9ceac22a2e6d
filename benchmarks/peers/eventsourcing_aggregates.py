"""eventsourcing 9.5.6 for the comparison of aggregates: its Application with snapshots every 50 events,
and once more with its cache of aggregates."""

from decimal import Decimal

import eventsourcing_pg
from _common import parse_dsn
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing_pg import append

__all__ = ["append", "make", "setup", "transact", "transact_cached"]

orders = cached = None
ids = {}


class Order(Aggregate):
    @event("Placed")
    def __init__(self) -> None:
        self.total = Decimal(0)
        self.lines: list[str] = []

    @event("LineAdded")
    def add(self, sku: str, quantity: int, price: Decimal) -> None:
        self.total += quantity * price
        self.lines.append(sku)


class Orders(Application):
    is_snapshotting_enabled = True
    snapshotting_intervals = {Order: 50}  # noqa: RUF012 as its documentation has it


def setup(dsn: str, pool_size: int = 10) -> None:
    global orders, cached
    eventsourcing_pg.setup(dsn, pool_size)
    parts = {f"POSTGRES_{key.upper()}": value for key, value in parse_dsn(dsn).items()}
    env = {"PERSISTENCE_MODULE": "eventsourcing.postgres", **parts}
    orders = Orders(env=env)
    cached = Orders(env={**env, "AGGREGATE_CACHE_MAXSIZE": "1000"})


def make(name: str, size: int) -> None:
    order = Order()
    ids[name] = order.id
    for number in range(size - 1):
        order.add("sku-1", 2, Decimal("9.99"))
        if number % 10 == 8:
            orders.save(order)
    orders.save(order)


def transact(name: str) -> int:
    return _transact(orders, name)


def transact_cached(name: str) -> int:
    return _transact(cached, name)


def _transact(app: Application, name: str) -> int:
    order = app.repository.get(ids[name])
    order.add("sku-1", 2, Decimal("9.99"))
    app.save(order)
    return len(order.lines)
