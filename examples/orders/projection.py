"""From events to the table of demand, as they come."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import EventEnvelope, EventStore, Projection, TypedEventStore
from orders.events import OrderPlaced, events
from orders.tables import Demand

DEMAND = "demand"


async def count_pieces(event: EventEnvelope, session: AsyncSession) -> None:
    """Add what was ordered.

    Adding is safe: the sum and the place in the feed commit in one transaction, so no event counts twice.
    """
    placed: OrderPlaced = event.payload
    for line in placed.lines:
        new = insert(Demand).values(product=line.product, pieces=line.pieces)
        total = Demand.pieces + new.excluded.pieces
        await session.execute(new.on_conflict_do_update(index_elements=["product"], set_={"pieces": total}))


def demand_projection(store: EventStore) -> Projection:
    """The handler gets events as they are today, and of the wanted types only."""
    handler = TypedEventStore(store, events).handler(count_pieces)
    return Projection(DEMAND, handler, event_types=events.names_of(OrderPlaced))
