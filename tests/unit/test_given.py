"""given, when, then: models tested without a store, and what is said when they are wrong."""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from k1s0_event_store import AggregateRoot, ConfigurationError, Decider, EventRegistry
from k1s0_event_store.testing import given

events = EventRegistry()


class Line(BaseModel, frozen=True):
    product: str
    pieces: int = 1


@events.register("order.placed")
class OrderPlaced(BaseModel, frozen=True):
    lines: list[Line]


@events.register("order.shipped")
@dataclass(frozen=True)
class OrderShipped:
    tracking: str


@events.register("order.closed")
class OrderClosed(TypedDict):
    type: Literal["order.closed"]
    by: str


@events.register("measured")
@dataclass(frozen=True)
class Measured:
    values: tuple[float, ...] = ()
    raw: object = None


class NotPossibleError(Exception):
    pass


@dataclass
class Order(AggregateRoot):
    aggregate_type = "order"
    status: str = "new"
    tracking: list[str] = field(default_factory=list)
    notes: str = ""

    def ship(self, *tracking):
        for one in tracking:
            self.record(OrderShipped(one))

    def refuse(self):
        raise NotPossibleError("order is on hold")

    def ship_and_fail(self):
        self.ship("T-1")
        self.refuse()

    async def ship_later(self):
        self.ship("T-1")

    async def refuse_later(self):
        self.refuse()

    def note(self):
        self.notes = "not part of any event"

    def apply(self, event):
        match event:
            case OrderPlaced():
                self.status = "placed"
            case OrderShipped(tracking=tracking):
                self.status = "shipped"
                self.tracking.append(tracking)
            case None:
                raise LookupError("no event")


def decide(command, state):
    if command == "refuse":
        raise NotPossibleError("cart is closed")
    yield from [command] * (state + 1)


async def decide_later(command, state):
    return decide(command, state)


counter = Decider("counter", int, lambda state, event: state + 1, decide)
PLACED = OrderPlaced(lines=[Line(product="tea"), Line(product="milk", pieces=2)])


def said(check, *arguments, **more):
    """The message of a failing check."""
    with pytest.raises(AssertionError) as failed:
        check(*arguments, **more)
    return str(failed.value)


def test_the_new_events_of_a_class_are_compared_in_order():
    shipped = given(Order, PLACED).when(lambda order: order.ship("T-1", "T-2"))
    shipped.then(OrderShipped("T-1"), OrderShipped("T-2"))
    assert said(shipped.then, OrderShipped("T-2"), OrderShipped("T-1")).count("tracking: expected") == 2


def test_the_new_events_of_a_decider_are_compared_in_order():
    given(counter, "a", "b").when("c").then("c", "c", "c").then_state(5)


def test_an_aggregate_has_the_id_and_the_version_that_a_repository_gives_it():
    seen = []
    given(Order).when(lambda order: seen.append((order.id, order.version))).then_nothing()
    given(Order, PLACED, id="o-1").when(lambda order: seen.append((order.id, order.version))).then_nothing()
    assert seen == [("test-id", 0), ("o-1", 1)]


def test_each_action_begins_with_the_given_state():
    placed = given(Order, PLACED)
    first = placed.when(lambda order: order.ship("T-1"))
    placed.when(lambda order: order.ship("T-2")).then_state(lambda order: order.tracking == ["T-2"])
    first.then(OrderShipped("T-1")).then_state(lambda order: order.tracking == ["T-1"])


def test_a_field_that_differs_is_named_with_its_place():
    wrong = OrderPlaced(lines=[Line(product="tea"), Line(product="milk", pieces=3)])
    again = given(Order, PLACED).when(lambda order: order.record(PLACED))
    assert said(again.then, wrong) == (
        "Order: the new events are not those expected\n"
        "event 1, OrderPlaced:\n"
        "  lines[1].pieces: expected 3, got 2\n"
        f"given:\n  {PLACED!r}"
    )


def test_events_that_are_missing_or_unexpected_are_shown_without_those_that_are_right():
    shipped = given(Order).when(lambda order: order.ship("T-1", "T-2", "T-3"))
    one, two, three = map(OrderShipped, ("T-1", "T-2", "T-3"))
    head, end = "Order: the new events are not those expected\n", "\ngiven:\n  nothing"
    assert said(shipped.then, one, PLACED, two, three) == head + f"event 2 is missing: {PLACED!r}" + end
    assert said(shipped.then, one, three) == head + f"event 2 was not expected: {two!r}" + end
    assert said(shipped.then, one, PLACED, three) == head + f"event 2: expected {PLACED!r}, got {two!r}" + end
    assert said(shipped.then_nothing).count("was not expected") == 3


def test_lists_of_another_length_and_dictionaries_are_compared():
    recorded = given(Order).when(lambda order: order.record({"type": "order.closed", "by": "me"}))
    assert "event 1, dict:\n  by: expected 'you', got 'me'" in said(
        recorded.then, {"type": "order.closed", "by": "you"}
    )
    placed = given(Order).when(lambda order: order.record(PLACED))
    assert "  lines: expected [], got [Line(" in said(placed.then, OrderPlaced(lines=[]))


def test_events_without_an_equality_of_their_own_are_compared_by_their_fields():
    @dataclass(eq=False)
    class Noted:
        text: str

    noted = given(Order).when(lambda order: order.record(Noted("a")))
    noted.then(Noted("a"))
    assert "text: expected 'b', got 'a'" in said(noted.then, Noted("b"))


def test_an_error_is_expected_by_type_and_text():
    refused = given(Order, PLACED).when(lambda order: order.refuse())
    refused.then_raises(NotPossibleError).then_nothing().then_state(lambda order: order.status == "placed")
    refused.then_raises(Exception, match=r"on \w+")
    text = "NotPossibleError: order is on hold"
    assert f"LookupError was expected, got {text}" in said(refused.then_raises, LookupError)
    assert f"a text with 'off' was expected, got {text}" in said(
        refused.then_raises, NotPossibleError, match="off"
    )


def test_a_decider_that_yields_may_raise():
    given(counter).when("refuse").then_raises(NotPossibleError, match="cart is closed")


def test_an_error_that_was_not_expected_is_the_cause_of_the_failure():
    refused = given(Order).when(lambda order: order.refuse())
    for check in (refused.then, refused.then_nothing, lambda: refused.then_state(Order("test-id"))):
        with pytest.raises(AssertionError, match="no error was expected, got NotPossibleError") as failed:
            check()
        assert failed.value.__cause__.__traceback__.tb_next is not None


def test_an_error_that_did_not_come_is_missed():
    assert said(given(Order).when(lambda order: order.ship("T-1")).then_raises, LookupError) == (
        "Order: LookupError was expected, but not raised; new are:\n"
        "  OrderShipped(tracking='T-1')\n"
        "given:\n"
        "  nothing"
    )


def test_what_was_recorded_before_an_error_is_found():
    failed = given(Order).when(lambda order: order.ship_and_fail()).then_raises(NotPossibleError)
    assert "event 1 was not expected" in said(failed.then_nothing)


def test_the_state_is_compared_field_by_field():
    shipped = given(Order, PLACED).when(lambda order: order.ship("T-1"))
    shipped.then_state(Order("test-id", "shipped", ["T-1"], version=2))
    assert said(shipped.then_state, Order("test-id", "shipped", ["T-2"], version=3)) == (
        "Order: the state is not the one expected\n"
        "  version: expected 3, got 2\n"
        "  tracking[0]: expected 'T-2', got 'T-1'\n"
        f"given:\n  {PLACED!r}"
    )


def test_the_state_may_be_checked_by_a_function():
    def is_new(order):
        assert order.status == "new", order.status

    shipped = given(Order).when(lambda order: order.ship("T-1"))
    shipped.then_state(lambda order: order.status == "shipped")
    assert "status='shipped'" in said(shipped.then_state, lambda order: order.status == "new")
    assert said(shipped.then_state, is_new).startswith("shipped")
    with pytest.raises(ConfigurationError, match=r"not \['T-1'\]"):
        shipped.then_state(lambda order: order.tracking)


def test_the_state_is_the_one_that_the_next_load_gives():
    noted = given(Order).when(lambda order: order.note())
    assert "notes: expected 'not part of any event', got ''" in said(
        noted.then_state, Order("test-id", notes="not part of any event")
    )


async def test_what_has_to_be_awaited_is_awaited():
    (await given(Order).when_async(lambda order: order.ship_later())).then(OrderShipped("T-1"))
    (await given(Order).when_async(lambda order: order.ship("T-1"))).then(OrderShipped("T-1"))
    (await given(Order).when_async(lambda order: order.refuse_later())).then_raises(NotPossibleError)
    later = Decider("counter", int, lambda state, event: state + 1, decide_later)
    (await given(later, "a").when_async("b")).then("b", "b")


def test_what_has_to_be_awaited_is_refused_elsewhere():
    with pytest.raises(ConfigurationError, match="when_async"):
        given(Order).when(lambda order: order.ship_later())


def test_an_event_that_cannot_be_applied_is_named():
    with pytest.raises(LookupError) as failed:
        given(Order, PLACED, None).when(lambda order: order.ship("T-1"))
    assert failed.value.__notes__ == ["while Order applied None"]


@pytest.mark.parametrize("model", [Order("o-1"), "order", None])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ConfigurationError, match="aggregate class or a Decider"):
        given(model)


def test_with_a_registry_events_are_those_that_come_back_from_a_store():
    order = given(Order, PLACED, events=events).when(lambda order: order.ship("T-1"))
    order.then(OrderShipped("T-1")).then_state(lambda order: order.status == "shipped")
    closed = {"type": "order.closed", "by": "me"}
    given(Order, events=events).when(lambda order: order.record(closed)).then(closed)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Line(product="tea"), "a Line is not a registered event"),
        (OrderShipped(3), "it does not fit 'order.shipped': "),
        (OrderShipped("\x00"), "not JSON: "),
    ],
)
def test_with_a_registry_an_event_that_cannot_be_stored_is_found(event, reason):
    assert said(given, Order, PLACED, event, events=events).startswith(
        f"given event 2 cannot be stored: {reason}"
    )
    order = given(Order, events=events)
    assert f"new event 1 cannot be stored: {reason}" in said(order.when, lambda order: order.record(event))


def test_with_a_registry_an_event_that_comes_back_changed_is_found():
    assert said(given, counter, Measured(raw=Decimal("1.10")), events=events) == (
        "given event 1 does not come back as it was stored: Measured(values=(), raw=Decimal('1.10'))\n"
        "  raw: expected Decimal('1.10'), got '1.10'"
    )
    given(counter, Measured(values=(1.5, 2.0)), events=events)
    assert "cannot be stored: not JSON" in said(given, counter, Measured((math.nan,)), events=events)
