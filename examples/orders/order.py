"""The rules of an order, without a word about where it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from k1s0_event_store import AggregateRoot
from orders.events import Line, OrderCancelled, OrderPlaced, OrderShipped


class OrderError(Exception):
    """The order is in no state for that."""


@dataclass
class Order(AggregateRoot):
    """Methods decide and record events; `apply` alone changes the state."""

    aggregate_type = "order"

    status: Literal["new", "placed", "shipped", "cancelled"] = "new"
    customer: str = ""
    lines: tuple[Line, ...] = ()
    tracking: str | None = None

    def place(self, customer: str, lines: Sequence[Line]) -> None:
        """The customer orders; once, and not nothing."""
        if self.status != "new":
            raise OrderError(f"order {self.id} was placed before")
        if not lines:
            raise OrderError("an order needs a line at least")
        self.record(OrderPlaced(customer=customer, lines=tuple(lines)))

    def ship(self, tracking: str) -> None:
        """The parcel leaves."""
        self._check_is_open()
        self.record(OrderShipped(tracking=tracking))

    def cancel(self, reason: str) -> None:
        """The customer changes their mind, while the parcel is still here."""
        self._check_is_open()
        self.record(OrderCancelled(reason=reason))

    def apply(self, event: object) -> None:
        """Follow what has happened; nothing is refused here."""
        match event:
            case OrderPlaced(customer=customer, lines=lines):
                self.status, self.customer, self.lines = "placed", customer, lines
            case OrderShipped(tracking=tracking):
                self.status, self.tracking = "shipped", tracking
            case OrderCancelled():
                self.status = "cancelled"

    def _check_is_open(self) -> None:
        if self.status != "placed":
            raise OrderError(f"order {self.id} is {self.status}")
