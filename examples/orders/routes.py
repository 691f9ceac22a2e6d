"""The endpoints. Errors are raised as they come; app.py says which status each of them is."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from sqlalchemy import select

from k1s0_event_store import StreamId
from orders.events import Line
from orders.order import Order
from orders.projection import DEMAND
from orders.shop import Shop
from orders.tables import Demand, UsedCoupon


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: str
    lines: list[Line]
    coupon: str | None = None


class Shipment(BaseModel):
    """What the warehouse sends: with the version of the order that it looked at."""

    tracking: str
    version: int


class Cancellation(BaseModel):
    """What a customer sends later."""

    reason: str


class OrderView(BaseModel):
    """An order as clients see it."""

    id: str
    version: int
    status: str
    customer: str
    lines: list[Line]
    tracking: str | None

    @classmethod
    def of(cls, order: Order) -> Self:
        return cls.model_validate(order, from_attributes=True)


def current_shop(request: Request) -> Shop:
    """The one that the lifespan opened."""
    shop: Shop = request.app.state.shop
    return shop


CurrentShop = Annotated[Shop, Depends(current_shop)]
router = APIRouter()


@router.put("/orders/{order_id}", status_code=201)
async def place(order_id: str, new: NewOrder, shop: CurrentShop) -> OrderView:
    """Event and coupon are one commit: no order without its coupon, no coupon lost to a refused order."""
    async with shop.sessions() as session, session.begin():
        if new.coupon is not None:
            session.add(UsedCoupon(code=new.coupon, order_id=order_id))
        orders = shop.orders.within(session)
        order = await orders.transact(order_id, lambda order: order.place(new.customer, new.lines))
    return OrderView.of(order)


@router.post("/orders/{order_id}/shipment")
async def ship(order_id: str, shipment: Shipment, shop: CurrentShop) -> OrderView:
    """Decided on the version that the warehouse has seen: a conflict if the order has moved on since."""
    order = await shop.orders.load(order_id, version=shipment.version)
    order.ship(shipment.tracking)
    await shop.orders.save(order)
    return OrderView.of(order)


@router.post("/orders/{order_id}/cancellation")
async def cancel(order_id: str, cancellation: Cancellation, shop: CurrentShop) -> OrderView:
    """Decided on the order as it is; if somebody else is first, it is decided again."""
    order = await shop.orders.transact(order_id, lambda order: order.cancel(cancellation.reason))
    return OrderView.of(order)


@router.get("/orders/{order_id}")
async def show(order_id: str, shop: CurrentShop, version: int | None = None) -> OrderView:
    """The order as it is, or as it was at a version."""
    return OrderView.of(await shop.orders.load(order_id, version=version))


@router.get("/demand")
async def demand(shop: CurrentShop, after_order: str | None = None, after_version: int = 1) -> dict[str, int]:
    """Pieces ordered, by product; `after_order`: not before that order is counted."""
    if after_order is not None:
        await shop.subscriptions.wait_until(DEMAND, StreamId("order", after_order), after_version)
    async with shop.sessions() as session:
        rows = await session.execute(select(Demand.product, Demand.pieces).order_by(Demand.product))
    return {row.product: row.pieces for row in rows}
