"""The scenario with a session of the app's: rows are read in the transaction that the handler wrote in."""

import pytest
from sqlalchemy import column, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import EventEnvelope, StreamId
from k1s0_event_store.subscription import Projection
from k1s0_event_store.testing import ProjectionScenario

ORDERS = table("orders", column("id"), column("status"))


async def statuses(event, session):
    await session.execute(
        text("INSERT INTO orders VALUES (:id, :status) ON CONFLICT (id) DO UPDATE SET status = :status"),
        {"id": event.stream_id.aggregate_id, "status": event.event_type},
    )


async def test_a_projection_is_tested_in_a_session_that_is_rolled_back(app_engine):
    first, second = StreamId("order", "o-1"), StreamId("order", "o-2")
    query = select(ORDERS.c.id, ORDERS.c.status)
    async with (
        AsyncSession(app_engine) as session,
        ProjectionScenario(Projection("orders", statuses), session) as scenario,
    ):
        await scenario.given(second, EventEnvelope(second, "placed", {}))
        await scenario.given(first, EventEnvelope(first, "placed", {}), EventEnvelope(first, "paid", {}))
        await scenario.then(query, [("o-1", "paid"), ("o-2", "placed")])
        with pytest.raises(AssertionError, match="order"):
            await scenario.then(query.order_by(ORDERS.c.id), [("o-2", "placed"), ("o-1", "paid")])
        await session.rollback()
        await scenario.then(query, [])
