"""Repositories on every store: what is loaded is the fold of what is stored, whatever it begins with."""

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from k1s0_event_store import (
    AggregateCache,
    AggregateNotFoundError,
    AggregateRoot,
    ConcurrencyError,
    ConfigurationError,
    Decider,
    DeciderRepository,
    EventEnvelope,
    EventRegistry,
    InMemoryEventStore,
    InMemorySnapshotStore,
    InvalidEventError,
    InvalidInputError,
    Repository,
    SnapshotPolicy,
    StreamId,
    UnknownEventTypeError,
    after,
    event_metadata,
    every,
    never,
    slower_than,
)

from .stores import InMemory, Postgres

events = EventRegistry()


@events.register("order.placed", version=2)
class OrderPlaced(BaseModel):
    total: Decimal
    currency: str


@events.upcast("order.placed", 1)
def _add_currency(old):
    return {**old, "currency": "EUR"}


@events.upcast("order.noted", 1, into=[])
def _leave_out(_old):
    return None


@events.register("order.shipped")
@dataclass(frozen=True)
class OrderShipped:
    tracking: str


class OrderClosed(TypedDict):
    type: Literal["order.closed"]
    by: str


events.register("order.closed")(OrderClosed)


class AlreadyClosedError(Exception):
    """A rule of the domain."""


@dataclass
class Order(AggregateRoot):
    aggregate_type = "order"

    total: Decimal = Decimal(0)
    parcels: list[str] = field(default_factory=list)
    is_closed: bool = False

    def place(self, total):
        self.record(OrderPlaced(total=total, currency="USD"))

    def ship(self, tracking):
        if self.is_closed:
            raise AlreadyClosedError(self.id)
        self.record(OrderShipped(tracking))

    def close(self, by):
        self.record({"type": "order.closed", "by": by})

    def apply(self, event):
        match event:
            case OrderPlaced():
                self.total += event.total
            case OrderShipped():
                self.parcels.append(event.tracking)
            case {"type": "order.closed"}:
                self.is_closed = True


class Basket(BaseModel):
    """State for functions that change it in place: nothing may be shared."""

    lines: list[str] = []


class Empty(BaseModel):
    """One of several classes of state."""

    model_config = ConfigDict(extra="forbid")

    @property
    def lines(self):
        return []


class Filled(BaseModel):
    """The other one."""

    lines: list[str]


@events.register("basket.item_added")
class ItemAdded(BaseModel):
    sku: str


def evolve(basket, event):
    basket.lines.append(event.sku)
    return basket


def decide(command, basket):
    if command in basket.lines:
        return []
    return [ItemAdded(sku=command)]


BASKET = Decider("basket", Basket, evolve, decide)
ORDER = StreamId("order", "o-1")


class Spy:
    """Counts what is asked of a store, and can let somebody else be first."""

    def __init__(self, store):
        self._store = store
        self.calls = Counter()
        self.read = []
        self.before_append = None

    def within(self, session):
        spy = Spy(self._store.within(session))
        spy.calls, spy.read = self.calls, self.read
        return spy

    async def append(self, *args):
        self.calls["append"] += 1
        action, self.before_append = self.before_append, None
        if action is not None:
            await action()
        return await self._store.append(*args)

    async def load_since_snapshot(self, stream_id, snapshots, **options):
        self.calls["read"] += 1
        snapshot, found = await self._store.load_since_snapshot(stream_id, snapshots, **options)
        self.read += [event.version for event in found]
        return snapshot, found

    async def stream(self, stream_id, from_version=0, to_version=None):
        self.calls["read"] += 1
        async for event in self._store.stream(stream_id, from_version, to_version):
            self.read.append(event.version)
            yield event


class RepositoryContract:
    """Fixtures: store, snapshots."""

    @pytest.fixture
    def spy(self, store):
        return Spy(store)

    @pytest.fixture
    def orders(self, store):
        return Repository(store, events, Order)

    # Loading and saving

    async def test_what_is_saved_is_loaded(self, orders):
        order = Order("o-1")
        order.place(Decimal("9.90"))
        order.ship("T-1")
        assert await orders.save(order) == 2
        assert (order.version, order.recorded) == (2, [])
        found = await orders.load("o-1")
        assert found == order
        assert found is not order

    async def test_there_is_no_aggregate_without_events(self, orders):
        with pytest.raises(AggregateNotFoundError, match="no order 'o-1'") as missing:
            await orders.load("o-1")
        assert missing.value.stream_id == ORDER

    async def test_saving_without_new_events_writes_nothing(self, orders, store):
        order = Order("o-1")
        assert await orders.save(order) == 0
        assert await store.current_version(ORDER) == 0

    async def test_a_stale_aggregate_is_not_saved(self, orders):
        await orders.transact("o-1", lambda order: order.place(Decimal(1)))
        first, second = await orders.load("o-1"), await orders.load("o-1")
        first.ship("T-1")
        second.ship("T-2")
        await orders.save(first)
        with pytest.raises(ConcurrencyError) as conflict:
            await orders.save(second)
        assert (conflict.value.expected_version, conflict.value.actual_version) == (1, 2)
        assert second.recorded == [OrderShipped("T-2")]
        assert (await orders.load("o-1")).parcels == ["T-1"]

    async def test_old_events_are_upcast_and_dropped_ones_count(self, orders, store):
        await store.append(
            ORDER,
            [
                EventEnvelope(ORDER, "order.placed", {"total": "5"}),
                EventEnvelope(ORDER, "order.noted", {"text": "call back"}),
            ],
        )
        order = await orders.load("o-1")
        assert (order.total, order.version) == (Decimal(5), 2)
        order.ship("T-1")
        assert await orders.save(order) == 3

    async def test_as_of_a_version(self, orders, snapshots, store):
        keeping = Repository(store, events, Order, snapshots=snapshots, snapshot=every(2))
        for number in range(6):
            await keeping.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))
        for repository in (orders, keeping):
            for version in range(1, 7):
                order = await repository.load("o-1", version=version)
                assert (order.version, len(order.parcels)) == (version, version)
        with pytest.raises(InvalidInputError, match="at version 6, not yet at 7"):
            await orders.load("o-1", version=7)

    async def test_as_of_a_time(self, store, snapshots):
        orders = Repository(
            store, events, Order, snapshots=snapshots, snapshot=every(1), cache=AggregateCache()
        )
        for number in range(4):
            await orders.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))
            await asyncio.sleep(0.002)
        times = [event.recorded_at for event in await store.load(ORDER)]
        for number, moment in enumerate(times, 1):
            assert (await orders.load("o-1", at=moment)).version == number
        assert (await orders.load("o-1", at=datetime.now(UTC) + timedelta(days=1))).version == 4
        with pytest.raises(AggregateNotFoundError):
            await orders.load("o-1", at=times[0] - timedelta(microseconds=1))

    @pytest.mark.parametrize(
        "moment",
        [
            {"version": 0},
            {"version": True},
            {"version": "1"},
            {"at": datetime(2026, 1, 1)},
            {"at": "2026-01-01"},
            {"version": 1, "at": datetime(2026, 1, 1, tzinfo=UTC)},
        ],
        ids=str,
    )
    async def test_a_moment_that_makes_no_sense_is_refused(self, orders, moment):
        with pytest.raises(InvalidInputError):
            await orders.load("o-1", **moment)

    async def test_an_event_that_is_not_registered_is_refused_before_anything_is_sent(self, spy):
        order = Order("o-1")
        order.place(Decimal(1))
        order.recorded.append(object())
        with pytest.raises(InvalidEventError, match="object is not a registered event") as refused:
            await Repository(spy, events, Order).save(order)
        assert (refused.value.stream_id, refused.value.index) == (ORDER, 1)
        assert spy.calls["append"] == 0

    async def test_a_stored_event_that_is_not_registered_stops_loading_unless_told(self, orders, store):
        await store.append(ORDER, [EventEnvelope(ORDER, "order.lost", {})])
        with pytest.raises(UnknownEventTypeError):
            await orders.load("o-1")
        assert (await Repository(store, events, Order, unknown="skip").load("o-1")).version == 1

    async def test_what_apply_raises_says_at_which_event(self, store):
        class Fragile(Order):
            def apply(self, event):
                raise ZeroDivisionError

        await store.append(ORDER, [EventEnvelope(ORDER, "order.shipped", {"tracking": "T"})])
        with pytest.raises(ZeroDivisionError) as raised:
            await Repository(store, events, Fragile).load("o-1")
        assert "version 1 of order-o-1 (order.shipped)" in raised.value.__notes__[0]

    # Transactions

    async def test_transact_loads_decides_and_appends(self, orders):
        order = await orders.transact("o-1", lambda order: order.place(Decimal(3)))
        assert (order.version, order.recorded, order.total) == (1, [], Decimal(3))

        async def ship(order):
            assert order.version == 1
            await asyncio.sleep(0)
            order.ship("T-1")

        assert (await orders.transact("o-1", ship)).parcels == ["T-1"]
        assert (await orders.load("o-1")).version == 2

    async def test_transact_makes_a_new_aggregate_unless_it_must_exist(self, orders, store):
        with pytest.raises(AggregateNotFoundError):
            await orders.transact("o-1", lambda order: order.ship("T"), must_exist=True)
        with pytest.raises(AggregateNotFoundError):
            await DeciderRepository(store, events, BASKET).execute("b-1", "apple", must_exist=True)
        await orders.transact("o-1", lambda order: order.ship("T"))
        assert (await orders.transact("o-1", lambda order: order.ship("T"), must_exist=True)).version == 2

    async def test_what_decide_raises_comes_through_and_nothing_is_stored(self, orders):
        await orders.transact("o-1", lambda order: order.close("me"))
        with pytest.raises(AlreadyClosedError):
            await orders.transact("o-1", lambda order: order.ship("T-1"))
        assert (await orders.load("o-1")).version == 1

    async def test_deciding_nothing_appends_nothing(self, spy):
        assert (await Repository(spy, events, Order).transact("o-1", lambda order: None)).version == 0
        assert spy.calls["append"] == 0

    @pytest.mark.parametrize("cache", [False, True], ids=["", "cache"])
    async def test_after_a_conflict_only_what_is_new_is_loaded_and_decided_on(self, spy, orders, cache):
        options = {"cache": AggregateCache()} if cache else {}
        repository = Repository(spy, events, Order, **options)
        for number in range(3):
            await repository.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))

        async def be_first():
            await orders.transact("o-1", lambda order: order.ship("first"))

        seen = []

        def decide(order):
            seen.append((order.version, list(order.parcels)))
            order.ship("second")

        spy.read.clear()
        spy.before_append = be_first
        order = await repository.transact("o-1", decide)
        assert seen == [(3, ["T-0", "T-1", "T-2"]), (4, ["T-0", "T-1", "T-2", "first"])]
        assert order.parcels == ["T-0", "T-1", "T-2", "first", "second"]
        assert spy.read == ([2, 3] if cache else [1, 2, 3]) + [3, 4]

    async def test_a_state_that_cannot_be_copied_is_loaded_anew_after_a_conflict(self, spy, store):
        class Held(Order):
            def __post_init__(self):
                self.secret = lambda: None  # cannot be pickled

        repository = Repository(spy, events, Held, cache=AggregateCache())

        async def be_first():
            await Repository(store, events, Order).transact("o-1", lambda order: order.ship("first"))

        spy.before_append = be_first
        order = await repository.transact("o-1", lambda order: order.ship("second"))
        assert order.parcels == ["first", "second"]

    async def test_attempts_are_bounded(self, store, orders):
        spy = Spy(store)
        calls = []

        async def be_first():
            await orders.transact("o-1", lambda order: order.ship("first"))

        def decide(order):
            calls.append(order.version)
            spy.before_append = be_first
            order.ship("second")

        with pytest.raises(ConcurrencyError):
            await Repository(spy, events, Order, attempts=3).transact("o-1", decide)
        assert calls == [0, 1, 2]

    async def test_racing_transactions_all_succeed_one_after_the_other(self, store, snapshots):
        options = {"snapshots": snapshots, "snapshot": every(3), "cache": AggregateCache(), "attempts": 50}
        repositories = [Repository(store, events, Order, **options) for _ in range(4)]

        async def work(number):
            for turn in range(5):
                await repositories[number].transact("o-1", lambda o, turn=turn: o.ship(f"{number}.{turn}"))

        await asyncio.gather(*map(work, range(4)))
        order = await repositories[0].load("o-1")
        assert order == await Repository(store, events, Order).load("o-1")
        assert sorted(order.parcels) == [f"{number}.{turn}" for number in range(4) for turn in range(5)]
        for number in range(4):
            own = [parcel for parcel in order.parcels if parcel.startswith(f"{number}.")]
            assert own == sorted(own)

    # Functions

    async def test_functions_do_the_same(self, store):
        baskets = DeciderRepository(store, events, BASKET)
        assert (await baskets.execute("b-1", "apple")).state.lines == ["apple"]
        assert (await baskets.execute("b-1", "apple")).version == 1
        found = await baskets.transact("b-1", lambda basket: [ItemAdded(sku=s) for s in ("fig", "kiwi")])
        assert (found.state.lines, found.version) == (["apple", "fig", "kiwi"], 3)
        assert await baskets.load("b-1") == found
        assert (await baskets.load("b-1", version=2)).state.lines == ["apple", "fig"]

    async def test_functions_may_be_async(self, store):
        async def decide_slowly(basket):
            await asyncio.sleep(0)
            return [ItemAdded(sku="fig")]

        baskets = DeciderRepository(store, events, BASKET)
        assert (await baskets.transact("b-1", decide_slowly)).state.lines == ["fig"]

    async def test_states_are_never_shared(self, store, snapshots):
        cache = AggregateCache()
        baskets = DeciderRepository(
            store, events, BASKET, cache=cache, snapshots=snapshots, snapshot=every(1)
        )
        await baskets.execute("b-1", "apple")
        for _ in range(3):
            found = await baskets.load("b-1")
            assert found.state.lines == ["apple"]
            found.state.lines.append("by hand")
        found = await baskets.execute("b-1", "fig")
        assert found.state.lines == ["apple", "fig"]

    # Metadata

    async def test_metadata_flows_into_what_is_saved(self, orders, store):
        with event_metadata(actor="ann", tenant="acme"):
            await orders.transact("o-1", lambda order: order.place(Decimal(1)), metadata={"tenant": "other"})
            order = await orders.load("o-1")
            order.ship("T-1")
            await orders.save(order, metadata={"why": "paid"})
        first, second = await store.load(ORDER)
        assert first.metadata == {"actor": "ann", "tenant": "other", "schema_version": 2}
        assert second.metadata == {"actor": "ann", "tenant": "acme", "why": "paid"}

    # Snapshots

    async def test_loading_goes_on_from_the_newest_snapshot(self, spy, snapshots):
        orders = Repository(spy, events, Order, snapshots=snapshots, snapshot=every(5))
        for number in range(12):
            await orders.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))
        assert (await snapshots.load_latest(ORDER)).version == 10
        spy.read.clear()
        assert len((await orders.load("o-1")).parcels) == 12
        assert spy.read == [10, 11, 12]

    async def test_every_is_not_missed_by_an_append_that_jumps_over_it(self, store, snapshots):
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(5))
        await orders.transact("o-1", lambda order: [order.ship(str(n)) for n in range(4)])
        assert await snapshots.load_latest(ORDER) is None
        await orders.transact("o-1", lambda order: [order.ship(str(n)) for n in range(9)])
        assert (await snapshots.load_latest(ORDER)).version == 13

    async def test_after_an_event_of_a_type(self, store, snapshots):
        for policy in (after(OrderPlaced), after("order.closed") | never()):
            orders = Repository(store, events, Order, snapshots=snapshots, snapshot=policy)
            order = await orders.transact("o-1", lambda order: order.ship("T"))
            assert await snapshots.load_latest(ORDER, max_version=order.version) is None or order.version > 1
        await orders.transact("o-1", lambda order: order.close("me"))
        assert (await snapshots.load_latest(ORDER)).version == 3

    async def test_when_loading_was_slow(self, store, snapshots):
        slow = Repository(store, events, Order, snapshots=snapshots, snapshot=slower_than(0))
        fast = Repository(store, events, Order, snapshots=snapshots, snapshot=slower_than(1e6))
        await fast.transact("o-1", lambda order: order.ship("T"))
        assert await snapshots.load_latest(ORDER) is None
        order = await slow.load("o-1")
        order.ship("T")
        await slow.save(order)
        assert (await snapshots.load_latest(ORDER)).version == 2

    async def test_policies_combine(self, store, snapshots):
        both = every(2) & after(OrderShipped)
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=both)
        await orders.transact("o-1", lambda order: order.ship("T"))
        await orders.transact("o-1", lambda order: order.place(Decimal(1)))
        assert await snapshots.load_latest(ORDER) is None
        await orders.transact("o-1", lambda order: order.place(Decimal(1)))
        await orders.transact("o-1", lambda order: order.ship("T"))
        assert (await snapshots.load_latest(ORDER)).version == 4

    async def test_a_policy_of_ones_own_sees_what_was_saved(self, store, snapshots):
        seen = []

        def is_due(saved):
            seen.append(saved)
            return False

        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=SnapshotPolicy(is_due))
        await orders.transact("o-1", lambda order: order.ship("T"))
        await orders.transact("o-1", lambda order: order.close("me"))
        assert [(s.version_before, s.version, s.event_types) for s in seen] == [
            (0, 1, {"order.shipped"}),
            (1, 2, {"order.closed"}),
        ]
        assert seen[0].events == [OrderShipped("T")]
        assert all(saved.seconds > 0 for saved in seen)

    async def test_in_the_background_nobody_waits(self, store, snapshots):
        begun, go_on = asyncio.Event(), asyncio.Event()

        class Slow(InMemorySnapshotStore):
            async def save(self, *args, **options):
                begun.set()
                await go_on.wait()
                await super().save(*args, **options)

        slow = Slow()
        options = {"snapshots": slow, "snapshot": every(1), "background_snapshots": True}
        async with Repository(store, events, Order, **options) as orders:
            await orders.transact("o-1", lambda order: order.ship("T"))
            await begun.wait()
            assert await slow.load_latest(ORDER) is None
            go_on.set()
        assert (await slow.load_latest(ORDER)).version == 1

    @pytest.mark.parametrize("background", [False, True])
    async def test_a_snapshot_that_fails_does_not_fail_what_was_saved(self, store, caplog, background):
        class Broken(InMemorySnapshotStore):
            async def save(self, *args, **options):
                raise OSError("disk full")

        options = {"snapshots": Broken(), "snapshot": every(1), "background_snapshots": background}
        async with Repository(store, events, Order, **options) as orders:
            assert (await orders.transact("o-1", lambda order: order.ship("T"))).version == 1
        assert "order-o-1: no snapshot was taken" in caplog.text

    async def test_a_snapshot_of_another_layout_is_not_used(self, spy, store, snapshots, caplog):
        caplog.set_level(logging.INFO)
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(1))
        await orders.transact("o-1", lambda order: order.place(Decimal(7)))

        @dataclass
        class Changed(Order):
            currency: str = ""

            def apply(self, event):
                super().apply(event)
                self.currency = getattr(event, "currency", self.currency)

        found = await Repository(spy, events, Changed, snapshots=snapshots).load("o-1")
        assert found.currency == "USD"
        assert spy.read == [1, 1]  # with the snapshot, and then from the beginning
        assert "another layout" in caplog.text

    async def test_a_snapshot_of_another_schema_version_is_not_used(self, store, snapshots):
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(1))
        await orders.transact("o-1", lambda order: order.place(Decimal(7)))

        class Cents(Order):
            def apply(self, event):
                self.total = event.total * 100

        cents = Repository(store, events, Cents, snapshots=snapshots, schema_version=2)
        assert (await cents.load("o-1")).total == Decimal(700)

    @pytest.mark.parametrize(
        "damage", [{"state": {"total": "x"}}, {"event_id": "?"}, {"fingerprint": None}, None]
    )
    async def test_a_snapshot_that_cannot_be_read_is_logged_and_ignored(
        self, store, snapshots, caplog, damage
    ):
        caplog.set_level(logging.INFO)
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(1))
        await orders.transact("o-1", lambda order: order.place(Decimal(7)))
        state = (await snapshots.load_latest(ORDER)).state
        await snapshots.save(ORDER, 1, None if damage is None else {**state, **damage})
        assert (await orders.load("o-1")).total == Decimal(7)
        assert "order-o-1: the snapshot" in caplog.text

    async def test_a_snapshot_of_events_that_are_not_there_is_not_used(self, store, snapshots):
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(1))
        await orders.transact("o-1", lambda order: order.place(Decimal(7)))
        state = (await snapshots.load_latest(ORDER)).state
        wrong = {**state, "event_id": "00000000-0000-0000-0000-000000000000"}
        wrong["state"] = {**state["state"], "total": "1000"}
        await snapshots.save(ORDER, 1, wrong)
        assert (await orders.load("o-1")).total == Decimal(7)
        await snapshots.save(ORDER, 5, wrong)
        assert (await orders.load("o-1")).version == 1

    async def test_what_a_caller_did_to_an_aggregate_is_not_in_its_snapshot(self, store, snapshots):
        orders = Repository(
            store, events, Order, snapshots=snapshots, snapshot=every(1), cache=AggregateCache()
        )

        def tamper(order):
            order.ship("T")
            order.total = Decimal(10**6)

        await orders.transact("o-1", tamper)
        order = await orders.load("o-1")
        assert order.total == 0
        order.total = Decimal(10**6)
        order.ship("T")
        await orders.save(order)
        assert (await orders.load("o-1")).total == 0

    async def test_strict_models_and_rich_fields_come_back_from_snapshots(self, store, snapshots):
        class Detail(BaseModel):
            model_config = ConfigDict(strict=True)
            since: datetime
            total: Decimal

        @dataclass
        class Rich(AggregateRoot):
            seen: set[str] = field(default_factory=set)
            detail: Detail | None = None

            def apply(self, event):
                self.seen.add(event.tracking)
                self.detail = Detail(since=datetime(2026, 1, 1, tzinfo=UTC), total=Decimal("1.10"))

        await store.append(ORDER, [EventEnvelope(ORDER, "order.shipped", {"tracking": t}) for t in "abca"])
        keeping = Repository(
            store, events, Rich, aggregate_type="order", snapshots=snapshots, snapshot=every(1)
        )
        plain = Repository(store, events, Rich, aggregate_type="order")
        await keeping.transact("o-1", lambda order: order.recorded.append(OrderShipped("d")))
        assert (await snapshots.load_latest(ORDER)).version == 5
        assert await keeping.load("o-1") == await plain.load("o-1")

    async def test_states_of_several_classes_come_back_as_what_they_were(self, store, snapshots):
        decider = Decider(
            "basket",
            Empty,
            lambda state, event: Filled(lines=[*state.lines, event.sku]),
            decide,
            Empty | Filled,
        )
        baskets = DeciderRepository(store, events, decider, snapshots=snapshots, snapshot=every(1))
        await baskets.execute("b-1", "apple")
        assert (await snapshots.load_latest(StreamId("basket", "b-1"))).version == 1
        assert (await baskets.load("b-1")).state == Filled(lines=["apple"])

    @pytest.mark.parametrize(
        ("initial", "evolved"),
        [
            (lambda: None, lambda: Filled(lines=["fig"])),
            (lambda: Empty(), lambda: Filled(lines=["fig"])),
            (dict, lambda: {"total": Decimal(1), "pair": (1, 2)}),
            (dict, lambda: {"call": print}),
        ],
        ids=["None", "class", "dict", "no JSON"],
    )
    async def test_a_state_that_would_come_back_changed_is_no_snapshot(
        self, store, snapshots, caplog, initial, evolved
    ):
        decider = Decider("basket", initial, lambda state, event: evolved(), lambda command, state: [command])
        baskets = DeciderRepository(store, events, decider, snapshots=snapshots, snapshot=every(1))
        for _ in range(2):
            assert (await baskets.execute("b-1", ItemAdded(sku="fig"))).state == evolved()
        assert (await baskets.load("b-1")).state == evolved()
        assert await snapshots.load_latest(StreamId("basket", "b-1")) is None
        assert "no snapshot was taken" in caplog.text

    async def test_kinds_of_aggregates_do_not_read_each_others_snapshots(self, store, snapshots):
        def count(basket, event):
            return Basket(lines=[*basket.lines, str(len(basket.lines))])

        options = {"snapshots": snapshots, "snapshot": every(1), "cache": AggregateCache()}
        baskets = DeciderRepository(store, events, BASKET, **options)
        counted = DeciderRepository(store, events, replace(BASKET, evolve=count), **options)
        await baskets.execute("b-1", "apple")
        assert (await counted.load("b-1")).state.lines == ["0"]
        assert (await baskets.load("b-1")).state.lines == ["apple"]

    async def test_prose_in_a_class_does_not_make_its_snapshots_useless(self, spy, snapshots):
        def made(doc):
            @dataclass
            class Told(Order):
                pass

            Told.__doc__ = doc
            return Repository(spy, events, Told, snapshots=snapshots, snapshot=every(2))

        first = made("What it was called.")
        for _ in range(2):
            await first.transact("o-1", lambda order: order.ship("T"))
        spy.read.clear()
        await made("What it is called now.").load("o-1")
        assert spy.read == [2]

    async def test_a_class_can_say_itself_what_its_snapshot_is(self, spy, snapshots):
        class Counting:
            aggregate_type = "order"

            def __init__(self, id):
                self.id, self.version, self.recorded, self.parcels = id, 0, [], 0

            def apply(self, event):
                self.parcels += 1

            def to_snapshot(self):
                return {"id": self.id, "parcels": self.parcels}

            @classmethod
            def from_snapshot(cls, value):
                found = cls(value["id"])
                found.parcels = value["parcels"]
                return found

        orders = Repository(spy, events, Counting, snapshots=snapshots, snapshot=every(2))
        for _ in range(3):
            await orders.transact("o-1", lambda order: order.recorded.append(OrderShipped("T")))
        spy.read.clear()
        assert (await orders.load("o-1")).parcels == 3
        assert spy.read == [2, 3]

    # The cache

    async def test_a_cached_aggregate_costs_one_read_of_what_came_after_it(self, spy):
        cache = AggregateCache()
        orders = Repository(spy, events, Order, cache=cache)
        for number in range(5):
            await orders.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))
        await orders.load("o-1")
        spy.read.clear()
        spy.calls.clear()
        assert len((await orders.load("o-1")).parcels) == 5
        assert (spy.read, dict(spy.calls)) == ([5], {"read": 1})

    async def test_what_others_append_is_seen_through_the_cache(self, store):
        cached, plain = (
            Repository(store, events, Order, cache=AggregateCache()),
            Repository(store, events, Order),
        )
        for number in range(3):
            await plain.transact("o-1", lambda order, number=number: order.ship(f"T-{number}"))
            assert await cached.load("o-1") == await plain.load("o-1")

    async def test_a_cached_state_of_another_history_is_found_out(self, store):
        cache = AggregateCache()
        other = InMemoryEventStore()
        for one, parcel in ((other, "other"), (store, "own")):
            await Repository(one, events, Order).transact("o-1", lambda order, p=parcel: order.ship(p))
        assert (await Repository(other, events, Order, cache=cache).load("o-1")).parcels == ["other"]
        assert (await Repository(store, events, Order, cache=cache).load("o-1")).parcels == ["own"]
        await Repository(other, events, Order, cache=cache).load("o-1")
        empty = Repository(InMemoryEventStore(), events, Order, cache=cache)
        with pytest.raises(AggregateNotFoundError):
            await empty.load("o-1")

    async def test_kinds_of_aggregates_do_not_meet_in_a_shared_cache(self, store):
        cache = AggregateCache()

        @dataclass
        class Other(Order):
            pass

        await Repository(store, events, Order, cache=cache).transact("o-1", lambda order: order.ship("T"))
        await Repository(store, events, Order, cache=cache).load("o-1")
        assert type(await Repository(store, events, Other, cache=cache).load("o-1")) is Other

    # A policy changes cost, never meaning

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8),
        interval=st.integers(1, 9),
        extras=st.sets(st.sampled_from(["after", "slow"])),
        with_cache=st.booleans(),
        background=st.booleans(),
    )
    async def test_state_is_the_same_with_and_without_policies(
        self, store, snapshots, sizes, interval, extras, with_cache, background
    ):
        policy = every(interval)
        policy = policy | after(OrderPlaced) if "after" in extras else policy
        policy = policy | slower_than(0) if "slow" in extras else policy
        options = {"cache": AggregateCache()} if with_cache else {}
        name = f"o-{id(sizes)}-{interval}-{len(sizes)}-{sum(sizes)}-{datetime.now(UTC).timestamp()}"
        keeping = Repository(
            store,
            events,
            Order,
            snapshots=snapshots,
            snapshot=policy,
            background_snapshots=background,
            **options,
        )
        plain = Repository(store, events, Order)
        async with keeping:
            for turn, size in enumerate(sizes):

                def act(order, turn=turn, size=size):
                    for number in range(size):
                        order.ship(f"{turn}.{number}") if number % 3 else order.place(Decimal(turn) / 10)

                saved = await keeping.transact(name, act)
                assert saved == await keeping.load(name) == await plain.load(name)
        for version in range(1, sum(sizes) + 1):
            assert await keeping.load(name, version=version) == await plain.load(name, version=version)


class TestInMemory(InMemory, RepositoryContract):
    pass


class TestPostgres(Postgres, RepositoryContract):
    @asynccontextmanager
    async def session(self, store):
        async with AsyncSession(store.bind) as session, session.begin():
            yield session

    async def test_in_a_transaction_everything_is_rolled_back_together(self, store, snapshots):
        cache = AggregateCache()
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(1), cache=cache)
        async with AsyncSession(store.bind) as session:
            bound = orders.within(session)
            await bound.transact("o-1", lambda order: order.ship("lost"))
            assert (await bound.load("o-1")).parcels == ["lost"]
            await session.rollback()
        assert await snapshots.load_latest(ORDER) is None
        with pytest.raises(AggregateNotFoundError):
            await orders.load("o-1")
        await orders.transact("o-1", lambda order: order.ship("kept"))
        assert (await orders.load("o-1")).parcels == ["kept"]

    async def test_in_a_transaction_everything_is_committed_together(self, store, snapshots):
        orders = Repository(
            store, events, Order, snapshots=snapshots, snapshot=every(1), background_snapshots=True
        )
        async with self.session(store) as session:
            await orders.within(session).transact("o-1", lambda order: order.ship("T"))
            with pytest.raises(AggregateNotFoundError):
                await orders.load("o-1")
            assert await snapshots.load_latest(ORDER) is None
        assert (await orders.load("o-1")).parcels == ["T"]
        assert (await snapshots.load_latest(ORDER)).version == 1

    async def test_what_is_not_committed_is_not_seen_by_others_through_the_cache(self, store):
        orders = Repository(store, events, Order, cache=AggregateCache())
        await orders.transact("o-1", lambda order: order.ship("old"))
        async with self.session(store) as session:
            bound = orders.within(session)
            await bound.transact("o-1", lambda order: order.ship("new"))
            assert (await bound.load("o-1")).parcels == ["old", "new"]
            assert (await orders.load("o-1")).parcels == ["old"]
        assert (await orders.load("o-1")).parcels == ["old", "new"]

    async def test_in_a_transaction_a_conflict_is_told_and_not_retried(self, store):
        orders = Repository(store, events, Order)
        calls = []

        async def decide(order):
            calls.append(order.version)
            await orders.transact("o-1", lambda order: order.ship("first"))
            order.ship("second")

        async with self.session(store) as session:
            with pytest.raises(ConcurrencyError) as conflict:
                await orders.within(session).transact("o-1", decide)
            assert "not retried" in conflict.value.__notes__[0]
            await orders.within(session).transact("o-1", lambda order: order.ship("third"))
        assert calls == [0]
        assert (await orders.load("o-1")).parcels == ["first", "third"]

    async def test_loading_and_saving_are_part_of_the_callers_transaction(self, store, snapshots):
        orders = Repository(store, events, Order, snapshots=snapshots, snapshot=every(2))
        await orders.transact("o-1", lambda order: order.place(Decimal(3)))
        for commits in (False, True):
            async with AsyncSession(store.bind) as session:
                order = await orders.within(session).load("o-1")
                order.ship("TRACK-001")
                assert await orders.within(session).save(order) == 2
                await (session.commit() if commits else session.rollback())
            assert (await orders.load("o-1")).parcels == (["TRACK-001"] if commits else [])
            assert (await snapshots.load_latest(ORDER) is not None) == commits

    async def test_with_a_lock_nobody_can_be_first(self, store):
        orders = Repository(store, events, Order)

        async def work(number):
            async with self.session(store) as session:
                await store.within(session).lock(ORDER)
                await orders.within(session).transact("o-1", lambda order: order.ship(str(number)))

        await asyncio.gather(*map(work, range(8)))
        assert len((await orders.load("o-1")).parcels) == 8


@pytest.mark.parametrize(
    "options",
    [
        {"snapshot": every(5)},
        {"attempts": 0},
        {"attempts": True},
        {"attempts": "3"},
        {"unknown": "perhaps"},
        {"aggregate_type": ""},
    ],
    ids=lambda options: next(iter(options)),
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInputError):
        Repository(InMemoryEventStore(), events, Order, **options)


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="no option 'snapsho'"):
        Repository(InMemoryEventStore(), events, Order, snapsho=every(3))


def test_streams_need_a_name():
    class Nameless:
        pass

    with pytest.raises(ConfigurationError, match="aggregate_type="):
        Repository(InMemoryEventStore(), events, Nameless)


def test_snapshots_need_a_class_that_can_be_saved():
    class Opaque:
        aggregate_type = "opaque"

    with pytest.raises(ConfigurationError, match=r"to_snapshot\(\)"):
        Repository(InMemoryEventStore(), events, Opaque, snapshots=InMemorySnapshotStore())


@pytest.mark.parametrize("number", [0, -1, True, "5", 2.5])
def test_every_needs_a_number_of_events(number):
    with pytest.raises(ConfigurationError):
        every(number)


@pytest.mark.parametrize("types", [(), (5,), (OrderClosed,)])
def test_after_needs_types_that_it_can_tell(types):
    with pytest.raises(ConfigurationError):
        after(*types)


@pytest.mark.parametrize("seconds", [-1, True, "1", float("nan")])
def test_slower_than_needs_seconds(seconds):
    with pytest.raises(ConfigurationError):
        slower_than(seconds)


def test_the_root_class_needs_apply():
    with pytest.raises(NotImplementedError, match="AggregateRoot needs a method apply"):
        AggregateRoot("a-1").record("event")


def test_orders_differ_by_their_state_and_not_by_what_is_recorded():
    order = Order("o-1")
    order.ship("T")
    assert replace(order, version=0) == Order("o-1", parcels=["T"])
