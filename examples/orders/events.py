"""What happens to an order.

The names and versions given here are what is stored, and stay for ever. Classes can be renamed and moved.
"""

from typing import Any

from pydantic import BaseModel, Field

from k1s0_event_store import EventRegistry

events = EventRegistry()


class Line(BaseModel, frozen=True):
    """Some pieces of a product."""

    product: str
    pieces: int = Field(default=1, ge=1)


@events.register("order.placed", version=2)
class OrderPlaced(BaseModel, frozen=True):
    """A customer wants something."""

    customer: str
    lines: tuple[Line, ...]


@events.register("order.shipped")
class OrderShipped(BaseModel, frozen=True):
    """The parcel is on its way."""

    tracking: str


@events.register("order.cancelled")
class OrderCancelled(BaseModel, frozen=True):
    """There will be no parcel."""

    reason: str


@events.upcast("order.placed", 1)
def an_order_was_a_single_product(old: dict[str, Any]) -> dict[str, Any]:
    """In its first year the shop sold one thing at a time: {"customer": "ann", "product": "tea"}."""
    return {"customer": old["customer"], "lines": [{"product": old["product"]}]}
