"""The rules of an order: no database, no store, no event loop."""

from functools import partial

import pytest

from k1s0_event_store.testing import given
from orders.events import Line, OrderCancelled, OrderPlaced, OrderShipped, events
from orders.order import Order, OrderError

LINES = (Line(product="tea", pieces=2), Line(product="milk"))
PLACED = OrderPlaced(customer="ann", lines=LINES)
SHIPPED = OrderShipped(tracking="T-1")
CANCELLED = OrderCancelled(reason="too late")

given_order = partial(given, Order, id="o-1", events=events)


def test_an_order_is_placed():
    given_order().when(lambda order: order.place("ann", LINES)).then(PLACED)


def test_an_order_needs_lines():
    given_order().when(lambda order: order.place("ann", [])).then_raises(OrderError, match="a line")


def test_an_order_is_placed_once():
    given_order(PLACED).when(lambda order: order.place("bob", LINES)).then_raises(OrderError, match="before")


def test_a_placed_order_is_shipped_with_its_tracking():
    shipped = given_order(PLACED).when(lambda order: order.ship("T-1"))
    shipped.then(SHIPPED).then_state(lambda order: order.tracking == "T-1")


@pytest.mark.parametrize("end", [SHIPPED, CANCELLED])
def test_what_is_shipped_or_cancelled_is_neither_shipped_nor_cancelled(end):
    ended = given_order(PLACED, end)
    ended.when(lambda order: order.ship("T-2")).then_raises(OrderError).then_nothing()
    ended.when(lambda order: order.cancel("changed my mind")).then_raises(OrderError).then_nothing()
