"""A process of its own with a process manager: every order gets one invoice and one message."""

import asyncio
import signal
import sys
from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import text

from k1s0_event_store import (
    AggregateRoot,
    EventRegistry,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    ProcessManager,
    Repository,
    SubscriptionRunner,
    TypedEventStore,
)

events = EventRegistry()


@events.register("order.placed")
class OrderPlaced(BaseModel):
    total: int


@events.register("invoice.issued")
class InvoiceIssued(BaseModel):
    order_id: str
    total: int


@dataclass
class Invoices(AggregateRoot):
    """One customer's invoices: several orders go to the same stream, from any partition."""

    aggregate_type = "invoices"
    total: int = 0

    def issue(self, order_id: str, total: int) -> None:
        self.record(InvoiceIssued(order_id=order_id, total=total))

    def apply(self, event: object) -> None:
        match event:
            case InvoiceIssued():
                self.total += event.total


class Invoicing:
    """Reacts to orders."""

    def __init__(self, store):
        self.store = store
        self.invoices = Repository(store, events, Invoices)

    async def handle(self, event, session):
        order = event.stream_id.aggregate_id
        customer = f"c-{int(order.removeprefix('o-')) % 3}"
        await self.store.within(session).lock(self.invoices.stream_id(customer))
        await self.invoices.within(session).transact(
            customer, lambda invoices: invoices.issue(order, event.payload.total)
        )
        await session.execute(text("INSERT INTO outbox (order_id) VALUES (:order)"), {"order": order})


def invoicing(store):
    """The subscription."""
    handler = TypedEventStore(store, events).handler(Invoicing(store))
    return ProcessManager("invoicing", handler, partitions=4, event_types=["order.placed"], batch_size=5)


async def main(dsn: str) -> None:
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        storage = PostgresSubscriptionStore(bind=store.bind)
        runner = SubscriptionRunner(store, storage, [invoicing(store)], lease_seconds=0.5, poll=(0.01, 0.1))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop)
        await runner.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
