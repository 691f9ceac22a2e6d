"""The types of given, when, then, checked by mypy and pyright and never run; see test_types.py."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_type

from k1s0_event_store import AggregateRoot, Decider
from k1s0_event_store.testing import given
from k1s0_event_store.testing.given import Decided, Given


@dataclass
class Order(AggregateRoot):
    """An aggregate of somebody's."""

    aggregate_type = "order"
    status: str = "new"

    def ship(self, tracking: str) -> None: ...

    async def ship_later(self, tracking: str) -> None: ...


@dataclass
class Cart:
    """A state of somebody's."""

    pieces: int = 0


@dataclass
class Add:
    """A command."""

    product: str


@dataclass
class CheckOut:
    """Another one."""


def decide(command: Add | CheckOut, cart: Cart) -> Iterator[object]:
    yield command


cart = Decider("cart", Cart, lambda cart, event: cart, decide)


def a_class() -> None:
    shipped = given(Order, object(), id="o-1").when(lambda order: order.ship("T-1"))
    assert_type(shipped, Decided[Order])
    assert_type(shipped.then(object()).then_nothing().then_raises(ValueError, match="x"), Decided[Order])
    shipped.then_state(Order("o-1"))
    shipped.then_state(lambda order: order.status == "shipped")
    given(Order).when(lambda order: order.fly("T-1"))  # type: ignore[attr-defined]
    given(Order).when("ship")  # type: ignore[arg-type]
    shipped.then_raises("error")  # type: ignore[arg-type]
    given(int)  # type: ignore[type-var]


def functions() -> None:
    assert_type(given(cart, object()), Given[Cart, Add | CheckOut])
    added = given(cart).when(Add("tea"))
    assert_type(added, Decided[Cart])
    added.then_state(Cart(1))
    added.then_state(lambda cart: cart.pieces == 1)
    given(cart).when("tea")  # type: ignore[arg-type]


async def awaited() -> None:
    shipped = await given(Order).when_async(lambda order: order.ship_later("T-1"))
    assert_type(shipped, Decided[Order])
