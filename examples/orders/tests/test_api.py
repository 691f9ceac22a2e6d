"""The app over HTTP, on PostgreSQL."""

import asyncio

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import StreamId
from orders.tables import UsedCoupon

TEA = {"customer": "ann", "lines": [{"product": "tea", "pieces": 2}]}
SPRING = {**TEA, "coupon": "SPRING"}


async def coupons(engine):
    async with AsyncSession(engine) as session:
        return {coupon.code: coupon.order_id for coupon in await session.scalars(select(UsedCoupon))}


async def types(event_store, order_id):
    return [event.event_type for event in await event_store.load(StreamId("order", order_id))]


async def test_an_order_and_its_coupon_are_one_commit(client, engine, event_store):
    answer = await client.put("/orders/o-1", json=SPRING)
    assert (answer.status_code, answer.json()["status"], answer.json()["version"]) == (201, "placed", 1)
    assert await types(event_store, "o-1") == ["order.placed"]
    assert await coupons(engine) == {"SPRING": "o-1"}


async def test_a_refused_order_leaves_no_coupon_behind(client, engine, event_store):
    answer = await client.put("/orders/o-1", json={**SPRING, "lines": []})
    assert (answer.status_code, answer.json()) == (422, {"detail": "an order needs a line at least"})
    assert (await types(event_store, "o-1"), await coupons(engine)) == ([], {})


async def test_a_refused_coupon_leaves_no_order_behind(client, engine, event_store):
    await client.put("/orders/o-1", json=SPRING)
    answer = await client.put("/orders/o-2", json=SPRING)
    assert (answer.status_code, answer.json()) == (409, {"detail": "this coupon was used before"})
    assert (await types(event_store, "o-2"), await coupons(engine)) == ([], {"SPRING": "o-1"})


async def test_of_many_who_place_the_same_order_one_does(client, event_store):
    answers = await asyncio.gather(*(client.put("/orders/o-1", json=TEA) for _ in range(5)))
    first, *others = sorted(answer.status_code for answer in answers)
    assert (first, set(others) <= {409, 422}) == (201, True)
    assert await types(event_store, "o-1") == ["order.placed"]


async def test_an_order_is_shipped_as_the_warehouse_has_seen_it(client):
    await client.put("/orders/o-1", json=TEA)
    answer = await client.post("/orders/o-1/shipment", json={"tracking": "T-1", "version": 1})
    assert (answer.status_code, answer.json()["tracking"], answer.json()["version"]) == (200, "T-1", 2)


async def test_an_order_that_has_moved_on_is_a_conflict(client, event_store):
    await client.put("/orders/o-1", json=TEA)
    await client.post("/orders/o-1/cancellation", json={"reason": "changed my mind"})
    answer = await client.post("/orders/o-1/shipment", json={"tracking": "T-1", "version": 1})
    assert (answer.status_code, "expected 1, got 2" in answer.json()["detail"]) == (409, True)
    assert await types(event_store, "o-1") == ["order.placed", "order.cancelled"]


async def test_what_the_order_forbids_and_what_is_not_there_have_a_status_each(client):
    await client.put("/orders/o-1", json=TEA)
    shipment = {"tracking": "T-1", "version": 1}
    await client.post("/orders/o-1/shipment", json=shipment)
    again = await client.post("/orders/o-1/shipment", json={**shipment, "version": 2})
    assert (again.status_code, again.json()) == (422, {"detail": "order o-1 is shipped"})
    unknown = await client.post("/orders/o-9/shipment", json=shipment)
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "there is no order 'o-9'"})
    assert (await client.get("/orders/o-1", params={"version": 7})).status_code == 422


async def test_an_order_is_shown_as_it_was(client):
    await client.put("/orders/o-1", json=TEA)
    await client.post("/orders/o-1/cancellation", json={"reason": "changed my mind"})
    assert (await client.get("/orders/o-1")).json()["status"] == "cancelled"
    assert (await client.get("/orders/o-1", params={"version": 1})).json()["status"] == "placed"


async def test_the_request_and_its_user_are_found_in_the_events(client, event_store):
    headers = {"x-correlation-id": "request-1", "x-user": "ann"}
    answer = await client.put("/orders/o-1", json=TEA, headers=headers)
    assert answer.headers["x-correlation-id"] == "request-1"
    answer = await client.post("/orders/o-1/cancellation", json={"reason": "changed my mind"})
    placed, cancelled = await event_store.load(StreamId("order", "o-1"))
    assert placed.metadata == {"correlation_id": "request-1", "actor": "ann", "schema_version": 2}
    assert cancelled.metadata == {"correlation_id": answer.headers["x-correlation-id"]}


async def test_demand_holds_what_the_client_has_just_ordered(client):
    for number in (1, 2):
        await client.put(f"/orders/o-{number}", json=TEA)
    answer = await client.get("/demand", params={"after_order": "o-2", "after_version": 1})
    assert answer.json() == {"tea": 4}
