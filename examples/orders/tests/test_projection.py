"""The demand: what is counted, and that nothing is counted twice."""

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    EventEnvelope,
    FailurePolicy,
    Projection,
    StreamId,
    SubscriptionRunner,
    TypedEventStore,
)
from orders.events import Line, OrderPlaced, OrderShipped, events
from orders.projection import DEMAND, count_pieces, demand_projection
from orders.tables import Demand

ORDER = StreamId("order", "o-1")
TEA = OrderPlaced(customer="ann", lines=(Line(product="tea", pieces=2),))


@pytest.fixture
def orders(event_store):
    """The store, for events as objects."""
    return TypedEventStore(event_store, events)


@pytest.fixture
async def demand(engine):
    """Reads the table."""

    async def read():
        async with AsyncSession(engine) as session:
            return {row.product: row.pieces for row in await session.scalars(select(Demand))}

    return read


async def test_pieces_are_added_up_by_product(orders, subscription_store, demand):
    await orders.append(ORDER, [TEA, OrderShipped(tracking="T-1")])
    await orders.append(StreamId("order", "o-2"), [TEA])
    runner = SubscriptionRunner(orders.store, subscription_store, [demand_projection(orders.store)])
    await runner.run_until_caught_up()
    assert await demand() == {"tea": 4}


async def test_orders_of_the_first_year_are_counted_too(event_store, subscription_store, demand):
    old = EventEnvelope(ORDER, "order.placed", {"customer": "ann", "product": "tea"})
    await event_store.append(ORDER, [old])
    runner = SubscriptionRunner(event_store, subscription_store, [demand_projection(event_store)])
    await runner.run_until_caught_up()
    assert await demand() == {"tea": 1}


async def test_an_order_counts_once_after_an_error_and_a_restart(orders, subscription_store, demand):
    await orders.append(ORDER, [TEA])
    errors = [RuntimeError("just after the write")]

    async def count_and_fail_once(event, session):
        await count_pieces(event, session)
        if errors:
            raise errors.pop()

    projection = Projection(
        DEMAND, orders.handler(count_and_fail_once), failure=FailurePolicy(attempts=2, wait=0)
    )
    for _ in range(2):
        await SubscriptionRunner(orders.store, subscription_store, [projection]).run_until_caught_up()
    assert (await demand(), errors) == ({"tea": 2}, [])
