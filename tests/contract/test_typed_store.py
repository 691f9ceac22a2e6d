"""Typed events on every store of the library: what is appended as an object is read as one, everywhere."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from k1s0_event_store import (
    As,
    ConcurrencyError,
    Cursor,
    EventDecodeError,
    EventEnvelope,
    EventRegistry,
    FailurePolicy,
    InvalidEventError,
    InvalidInputError,
    Projection,
    RegistryError,
    StreamId,
    Subscriber,
    TypedEventStore,
    UnknownEventTypeError,
)
from k1s0_event_store.testing.runner_contract import altered_store, runner_of

from ..long_form import one_in
from .stores import InMemory, Postgres

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")


class Placed(BaseModel):
    customer: str
    cents: int = 0


@dataclass
class Added:
    sku: str


@dataclass
class Noted:
    text: str


class Cancelled(TypedDict):
    type: Literal["cancelled"]
    reason: str


@pytest.fixture
def events():
    """`placed` was called `created` once, and `basket` became `added` (and `noted`, if it had a note)."""
    registry = EventRegistry()
    registry.register("placed", version=2, aliases=["created"])(Placed)
    registry.register("added")(Added)
    registry.register("noted")(Noted)
    registry.register("cancelled")(Cancelled)
    registry.upcast("placed", 1)(lambda old: {"customer": old["name"]})

    @registry.upcast("basket", 1, into=["added", "noted"])
    def added(old):
        return [As("added", {"sku": sku}) for sku in old["skus"]] + [
            As("noted", {"text": note}) for note in old.get("notes", ())
        ]

    return registry


def old(event_type, payload, stream_id=ORDER, **options):
    """An event as an older version of the app stored it."""
    return EventEnvelope(stream_id, event_type, payload, **options)


def basket(*skus, stream_id=ORDER, **options):
    return old("basket", {"skus": skus}, stream_id, **options)


HISTORY = [
    old("created", {"name": "ann"}),
    basket("a", "b", "c"),
    basket(),
    old("cancelled", {"reason": "late"}),
    old("basket", {"skus": ["d"], "notes": ["last"]}),
    basket(),
]
TODAY = [
    (1, Placed(customer="ann")),
    (2, Added("a")),
    (2, Added("b")),
    (2, Added("c")),
    (4, {"type": "cancelled", "reason": "late"}),
    (5, Added("d")),
    (5, Noted("last")),
]


def seen(envelopes):
    return [(each.version, each.payload) for each in envelopes]


def skus(envelopes):
    return [each.payload.sku for each in envelopes]


async def listed(iterator):
    return [each async for each in iterator]


class TypedStoreContract:
    """Needs the fixtures `store` and `snapshots`, and `commit` where appends need one."""

    @pytest.fixture
    def typed(self, store, events):
        return TypedEventStore(store, events)

    @pytest.fixture
    def commit(self):
        async def nothing():
            pass

        return nothing

    # Append

    async def test_objects_are_appended_and_loaded(self, store, typed):
        events = [Placed(customer="ann", cents=5), Added("a"), {"type": "cancelled", "reason": "late"}]
        assert await typed.append(ORDER, events, 0) == 3
        assert seen(await typed.load(ORDER)) == list(enumerate(events, 1))
        stored = await store.load(ORDER)
        assert [(each.event_type, each.payload, each.metadata) for each in stored] == [
            ("placed", {"customer": "ann", "cents": 5}, {"schema_version": 2}),
            ("added", {"sku": "a"}, {}),
            ("cancelled", {"reason": "late"}, {}),
        ]

    async def test_objects_and_envelopes_that_hold_them_are_mixed(self, typed):
        mine = EventEnvelope(ORDER, "added", Added("b"), {"x": 1}, UUID(int=5))
        await typed.append(ORDER, [Added("a"), mine], metadata={"actor": "ann"})
        found = await typed.load(ORDER)
        assert skus(found) == ["a", "b"]
        assert found[1].event_id == UUID(int=5)
        assert [each.metadata for each in found] == [{"actor": "ann"}, {"actor": "ann", "x": 1}]

    async def test_the_same_batch_again_is_stored_once(self, store, typed):
        envelopes = await typed.envelopes(ORDER, [Added("a"), Added("b")])
        for _ in range(2):
            assert await store.append(ORDER, envelopes, 0) == 2
        assert skus(await typed.load(ORDER)) == ["a", "b"]

    async def test_the_version_is_checked(self, typed):
        await typed.append(ORDER, [Added("a")], 0)
        with pytest.raises(ConcurrencyError):
            await typed.append(ORDER, [Added("b")], 0)
        assert await typed.append(ORDER, [], 1) == 1
        assert skus(await typed.load(ORDER)) == ["a"]

    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (old, "a function is not a registered event; register its class first"),
            (Added(5), "it does not fit 'added': sku: Input should be a valid string"),
            ({"type": "cancelled"}, "it does not fit 'cancelled': reason: Field required"),
            (old("added", Placed(customer="ann")), "its event_type is 'added', but it is a 'placed'"),
            (old("added", {"sku": "a"}), "a dict is not a registered event"),
        ],
    )
    async def test_a_bad_event_is_refused_with_its_index_before_anything_is_sent(
        self, store, events, event, reason
    ):
        calls = []
        watched = TypedEventStore(altered_store(store, append=calls.append), events)
        with pytest.raises(InvalidEventError) as error:
            await watched.append(ORDER, [Added("a"), event, Added("b")])
        assert (error.value.stream_id, error.value.index) == (ORDER, 1)
        assert reason in error.value.reason
        assert calls == []
        assert await store.load(ORDER) == []

    async def test_an_envelope_of_another_stream_is_refused(self, typed):
        with pytest.raises(InvalidEventError, match="belongs to stream order-o-2") as error:
            await typed.append(ORDER, [Added("a"), old("added", Added("b"), OTHER)])
        assert error.value.index == 1
        assert await typed.load(ORDER) == []

    @pytest.mark.parametrize(
        "one", [Placed(customer="ann"), {"type": "cancelled", "reason": "late"}, Added("a")]
    )
    async def test_one_event_without_a_list_is_refused(self, typed, one):
        with pytest.raises(
            InvalidInputError, match=f"events must be a list of events, not {type(one).__name__}"
        ):
            await typed.append(ORDER, one)
        assert await typed.load(ORDER) == []

    async def test_a_stream_is_named_by_a_stream_id(self, typed):
        with pytest.raises(InvalidInputError, match="stream_id must be a StreamId"):
            await typed.append("order-o-1", [Added("a")])

    async def test_a_registry_with_a_gap_is_told_as_such(self, typed, events):
        events.register("broken", version=2)(dataclass(type("Broken", (), {})))
        with pytest.raises(RegistryError, match="nothing leads from version 1 to 2"):
            await typed.append(ORDER, [Added("a")])
        assert await typed.store.load(ORDER) == []

    # Load, stream, decoded

    async def test_every_way_of_reading_gives_what_old_events_are_today(self, store, typed):
        await store.append(ORDER, HISTORY)
        assert seen(await typed.load(ORDER)) == TODAY
        assert seen(await listed(typed.stream(ORDER))) == TODAY
        assert seen(await typed.decode(await store.load(ORDER))) == TODAY
        pairs = await listed(typed.decoded(ORDER))
        assert [stored for stored, _ in pairs] == await store.load(ORDER)
        assert seen(part for _, parts in pairs for part in parts) == TODAY
        assert [len(parts) for _, parts in pairs] == [1, 3, 0, 1, 2, 0]

    @pytest.mark.parametrize(
        ("first", "last"), [(0, None), (2, None), (0, 4), (2, 5), (3, 3), (6, None), (7, 9)]
    )
    async def test_ranges_are_those_of_stored_events(self, store, typed, first, last):
        await store.append(ORDER, HISTORY)
        expected = [(n, payload) for n, payload in TODAY if first <= n <= (last or 9)]
        assert seen(await typed.load(ORDER, first, last)) == expected
        assert seen(await listed(typed.stream(ORDER, first, last))) == expected
        assert (
            seen(part for _, parts in await listed(typed.decoded(ORDER, first, last)) for part in parts)
            == expected
        )

    async def test_backwards_turns_the_parts_of_an_event_too(self, store, typed):
        await store.append(ORDER, HISTORY)
        assert seen(await typed.load(ORDER, backwards=True)) == TODAY[::-1]

    async def test_a_limit_counts_stored_events(self, store, typed):
        await store.append(ORDER, HISTORY)
        assert seen(await typed.load(ORDER, limit=2)) == TODAY[:4]
        assert seen(await typed.load(ORDER, limit=1, backwards=True)) == []
        assert seen(await typed.load(ORDER, limit=2, backwards=True)) == TODAY[:-3:-1]
        assert await typed.load(ORDER, limit=0) == []

    async def test_a_stream_without_events_is_empty(self, typed):
        assert await typed.load(ORDER) == []
        assert await listed(typed.stream(ORDER)) == []
        assert await listed(typed.decoded(ORDER)) == []

    @pytest.mark.parametrize("count", [99, 100, 101, 250])
    async def test_long_streams_are_read_in_order(self, store, typed, count):
        await store.append(ORDER, [basket(str(n), f"{n}b") for n in range(count)])
        expected = [sku for n in range(count) for sku in (str(n), f"{n}b")]
        assert skus(await listed(typed.stream(ORDER))) == expected
        assert skus(await typed.load(ORDER)) == expected

    async def test_a_reader_may_stop_in_the_middle(self, store, typed):
        await store.append(ORDER, [basket("a", "b") for _ in range(150)])
        async for event in typed.stream(ORDER):
            if event.version == 120:
                break
        assert (event.version, event.payload) == (120, Added("a"))
        assert len(await typed.load(ORDER, 150)) == 2

    # What is not registered, or does not fit

    async def test_each_reading_says_what_becomes_of_the_unknown(self, store, events, commit):
        lost = old("lost", {"n": 1})
        await store.append(ORDER, [old("added", {"sku": "a"}), lost, old("added", {"sku": "b"})])
        await commit()
        (raw,) = await store.load(ORDER, 2, 2)

        async def replayed(typed):
            return (await typed.replay(ORDER, lambda state, event: [*state, event], [])).state

        for read in (
            lambda typed: typed.load(ORDER),
            lambda typed: listed(typed.stream(ORDER)),
            lambda typed: listed(typed.read_all()),
            replayed,
        ):
            with pytest.raises(UnknownEventTypeError, match="version 2 of order-o-1: event type 'lost'"):
                await read(TypedEventStore(store, events))
            assert skus(await read(TypedEventStore(store, events, unknown="skip"))) == ["a", "b"]
            first, second, third = await read(TypedEventStore(store, events, unknown="raw"))
            assert (first.payload, second, third.payload) == (Added("a"), raw, Added("b"))

    async def test_each_reading_names_an_event_that_does_not_fit(self, store, typed, commit):
        await store.append(ORDER, [old("added", {"sku": "a"}), old("added", {"sku": 5})])
        await commit()
        for reading in (
            partial(typed.load, ORDER),
            lambda: listed(typed.stream(ORDER)),
            lambda: listed(typed.read_all()),
            partial(typed.replay, ORDER, lambda state, event: state, None),
        ):
            with pytest.raises(EventDecodeError, match=r"version 2 of order-o-1 .* 'added': sku: ") as error:
                await reading()
            assert (error.value.version, error.value.fields) == (2, ("sku",))

    # Replay

    async def test_replay_folds_what_events_are_today(self, store, typed):
        await store.append(ORDER, HISTORY)

        def apply(state, event):
            return [*state, (event.version, event.payload)]

        for last in (None, 6, 5, 3, 2):
            replayed = await typed.replay(ORDER, apply, [], to_version=last)
            assert replayed.state == [each for each in TODAY if each[0] <= (last or 6)]
            assert (replayed.version, replayed.snapshot_version) == (last or 6, 0)
        assert (await typed.replay(OTHER, apply, [])).version == 0

    async def test_replay_goes_on_from_a_snapshot_to_the_last_stored_event(self, store, typed, snapshots):
        def apply(count, event):
            return count + 1

        await store.append(ORDER, HISTORY)
        await snapshots.save(ORDER, 3, {"n": 40})
        restored = await typed.replay(ORDER, apply, 0, snapshots, restore=lambda state: state["n"])
        assert (restored.state, restored.version, restored.snapshot_version) == (43, 6, 3)
        await snapshots.save(ORDER, 6, 50)
        at_the_end = await typed.replay(ORDER, apply, 0, snapshots)
        assert (at_the_end.state, at_the_end.version, at_the_end.snapshot_version) == (50, 6, 6)
        earlier = await typed.replay(ORDER, apply, 0, snapshots, to_version=2)
        assert (earlier.state, earlier.version, earlier.snapshot_version) == (4, 2, 0)
        other = await typed.replay(ORDER, apply, 0, snapshots, schema_version=2)
        assert (other.state, other.version, other.snapshot_version) == (7, 6, 0)

    async def test_an_append_at_the_version_of_a_replay_fits(self, store, typed):
        await store.append(ORDER, HISTORY)
        replayed = await typed.replay(ORDER, lambda state, event: state, None)
        assert await typed.append(ORDER, [Added("e")], replayed.version) == 7

    # The feed

    async def test_the_feed_gives_what_old_events_are_today(self, store, typed, commit):
        await store.append(ORDER, HISTORY)
        await commit()
        assert seen(await listed(typed.read_all())) == TODAY

    @pytest.mark.parametrize(
        ("types", "expected"),
        [
            ([Placed], TODAY[:1]),
            (["created"], TODAY[:1]),
            (["placed", Noted], [TODAY[0], TODAY[-1]]),
            ([Added], [*TODAY[1:4], TODAY[-2]]),
            ([Noted], TODAY[-1:]),
            ([Cancelled, "added"], TODAY[1:-1]),
            ([], []),
        ],
    )
    async def test_the_feed_gives_events_of_the_types_that_are_wanted(
        self, store, typed, commit, types, expected
    ):
        await store.append(ORDER, [*HISTORY, old("lost", {})])
        await commit()
        assert seen(await listed(typed.read_all(event_types=types))) == expected

    @pytest.mark.parametrize("types", ["placed", Placed, ["lost"], [Counter], ["basket"]])
    async def test_types_that_nothing_is_today_are_refused(self, typed, types):
        with pytest.raises(InvalidInputError, match=r"event types must be a list|is no event type of today"):
            typed.read_all(event_types=types)

    async def test_the_feed_is_filtered_by_streams_and_by_what_events_are_today(self, store, typed, commit):
        plane = StreamId("plane", "p-1")
        await store.append(ORDER, [basket("a", "b")])
        await store.append(plane, [basket("a", "c", stream_id=plane)])
        await commit()
        assert skus(await listed(typed.read_all(aggregate_types=["plane"]))) == ["a", "c"]
        found = await listed(typed.read_all(where=lambda event: event.payload.sku == "a"))
        assert [each.stream_id for each in found] == [ORDER, plane]

    @pytest.mark.parametrize("types", [None, [Added]])
    async def test_from_every_place_in_the_feed_nothing_is_lost(self, store, typed, commit, types):
        """An event comes again as long as not all its parts were given, and only then."""
        for number in range(60):
            stream_id = StreamId("order", f"o-{number % 7}")
            names = [f"{number}.{part}" for part in range(number % 4)]
            notes = ["n"] * (number % 3)
            await store.append(stream_id, [old("basket", {"skus": names, "notes": notes}, stream_id)])
        await commit()
        everything = [
            (event.position, event.payload) for event in await listed(typed.read_all(event_types=types))
        ]
        assert len(everything) > 80
        reading, places = typed.read_all(event_types=types), []
        assert reading.cursor is None
        async for event in reading:
            places.append((event, reading.cursor))
        groups = [list(group) for _, group in groupby(everything, key=lambda each: each[0])]
        ends = {group[-1][0]: sum(map(len, groups[: number + 1])) for number, group in enumerate(groups)}
        for number, (event, cursor) in enumerate(places, 1):
            again = await listed(typed.read_all(Cursor(str(cursor)), event_types=types))
            finished = number == ends[event.position]
            began = max((end for end in ends.values() if end < number), default=0)
            expected = everything[number if finished else began :]
            assert [(each.position, each.payload) for each in again] == expected
        assert await listed(typed.read_all(reading.cursor, event_types=types)) == []

    async def test_a_place_before_the_first_event_is_one_too(self, store, typed, commit):
        await store.append(ORDER, [basket("a", "b", "c")])
        await commit()
        reading = typed.read_all()
        for sku in "ab":
            assert (await anext(reading)).payload == Added(sku)
            assert skus(await listed(typed.read_all(reading.cursor))) == ["a", "b", "c"]
        assert (await anext(reading)).payload == Added("c")
        assert await listed(typed.read_all(reading.cursor)) == []
        await reading.aclose()

    async def test_a_place_is_right_where_two_streams_have_the_same_event_id(self, store, typed, commit):
        """Event ids are unique per aggregate id only."""
        twin = UUID(int=5)
        await store.append(ORDER, [basket("a", "b", event_id=twin)])
        await store.append(OTHER, [basket("c", "d", stream_id=OTHER, event_id=twin)])
        await commit()
        reading = typed.read_all()
        for rest in (["a", "b", "c", "d"], ["c", "d"], ["c", "d"], []):
            await anext(reading)
            assert skus(await listed(typed.read_all(reading.cursor))) == rest
        await reading.aclose()

    async def test_the_feed_is_read_over_many_pages(self, store, typed, commit):
        for _ in range(4):
            await store.append(ORDER, [basket(*names) for _ in range(80) for names in ("ab", "")])
        await commit()
        reading = typed.read_all()
        found = await listed(reading)
        assert skus(found) == ["a", "b"] * 320
        assert [each.version for each in found] == [n for n in range(1, 641, 2) for _ in "ab"]
        await typed.append(ORDER, [Added("c")])
        await commit()
        assert skus(await listed(typed.read_all(reading.cursor))) == ["c"]

    async def test_an_event_that_does_not_fit_ends_the_feed_before_its_page(self, store, typed, commit):
        await store.append(ORDER, [old("added", {"sku": str(n)}) for n in range(400)])
        await store.append(ORDER, [old("added", {"sku": None}), old("added", {"sku": "late"})])
        await commit()
        found = []
        reading = typed.read_all(where=lambda event: found.append(event) or True)
        with pytest.raises(EventDecodeError, match="version 401"):
            await listed(reading)
        assert len(found) >= 100
        assert skus(found) == [str(n) for n in range(len(found))]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(EventDecodeError, match="version 401"):
            await listed(typed.read_all(reading.cursor))


class TestInMemory(InMemory, TypedStoreContract):
    pass


class TestPostgres(Postgres, TypedStoreContract):
    async def test_numbers_come_back_as_they_went(self, store):
        @dataclass
        class Measured:
            values: list[float]
            count: int

        events = EventRegistry()
        events.register("measured")(Measured)
        typed = TypedEventStore(store, events)
        measured = Measured([1e300, 5e-324, 0.1, -0.0, 1e22, 3.0], 10**40)
        await typed.append(ORDER, [measured])
        (found,) = await typed.load(ORDER)
        assert found.payload == measured


@one_in(3)
class TestWithinAsyncSession(TypedStoreContract):
    @pytest.fixture
    async def session(self, event_store):
        async with AsyncSession(event_store.bind) as session:
            yield session

    @pytest.fixture
    def store(self, event_store, session):
        return event_store.within(session)

    @pytest.fixture
    def snapshots(self, snapshot_store, session):
        return snapshot_store.within(session)

    @pytest.fixture
    def commit(self, session):
        return session.commit

    async def test_what_is_appended_is_part_of_the_transaction(self, event_store, session, events):
        typed = TypedEventStore(event_store, events)
        inside = typed.within(session)
        await inside.append(ORDER, [Added("a"), Added("b")])
        assert skus(await inside.load(ORDER)) == ["a", "b"]
        assert await typed.load(ORDER) == []
        await session.rollback()
        assert await inside.load(ORDER) == []
        await inside.append(ORDER, [Added("c")])
        await session.commit()
        assert skus(await typed.load(ORDER)) == ["c"]

    async def test_a_refused_event_leaves_the_transaction_usable(self, event_store, session, events):
        inside = TypedEventStore(event_store, events, unknown="skip").within(session)
        assert (inside.events, inside.unknown) == (events, "skip")
        await inside.append(ORDER, [Added("a")])
        with pytest.raises(InvalidEventError):
            await inside.append(ORDER, [Added("b"), Added(5)])
        await inside.append(ORDER, [Added("c")], 1)
        await session.commit()
        assert skus(await inside.load(ORDER)) == ["a", "c"]


FAST = FailurePolicy(attempts=2, wait=0.001, longest_wait=0.01)


class Handling:
    """An object that handles events one by one, with a side effect."""

    def __init__(self):
        self.handled = []
        self.fired = []
        self.sessions = set()

    async def handle(self, event, *session):
        self.handled.append((event.version, event.payload))
        self.sessions |= {bool(session)}

    async def side_effect(self, event):
        self.fired.append((event.version, event.payload))


class HandlingMany:
    """An object that handles many events at a time."""

    def __init__(self):
        self.batches = []

    async def handle_batch(self, events, *session):
        self.batches.append(seen(events))


class HandlerContract:
    """Typed handlers in subscriptions. Needs the fixtures `store` and `storage`."""

    @pytest.fixture
    def typed(self, store, events):
        return TypedEventStore(store, events)

    @pytest.mark.parametrize("kind", [Projection, Subscriber])
    async def test_handlers_of_every_form_get_what_old_events_are_today(self, store, storage, typed, kind):
        await store.append(ORDER, HISTORY)
        one, many, by_function, by_functions = Handling(), HandlingMany(), [], []

        async def function(event, *session):
            by_function.append((event.version, event.payload))

        async def functions(events, *session):
            by_functions.append(seen(events))

        await runner_of(
            store,
            storage,
            kind("one", typed.handler(one)),
            kind("many", typed.handler(many)),
            kind("function", typed.handler(function)),
            kind("functions", typed.handler(functions, batch=True)),
        ).run_until_caught_up()
        assert await storage.parked() == []
        assert one.handled == one.fired == by_function == TODAY
        assert many.batches == by_functions == [TODAY]
        assert one.sessions == {kind is Projection}

    async def test_batches_are_those_of_stored_events_and_none_is_empty(self, store, storage, typed):
        await store.append(ORDER, HISTORY)
        many = HandlingMany()
        await runner_of(
            store, storage, Subscriber("many", typed.handler(many), batch_size=1)
        ).run_until_caught_up()
        assert many.batches == [TODAY[:1], TODAY[1:4], TODAY[4:5], TODAY[5:]]

    async def test_a_handler_is_asked_for_side_effects_only_if_it_has_one(self, typed):
        assert typed.handler(Handling()).side_effect is not None
        assert typed.handler(HandlingMany()).side_effect is None
        with pytest.raises(InvalidInputError, match="a handler is an async function, or an object"):
            typed.handler(5)

    async def test_a_handler_gets_events_of_the_types_that_are_wanted(self, store, storage, typed):
        """What is of no such type is not even decoded."""
        await store.append(ORDER, [*HISTORY, old("lost", {}), old("noted", {"text": 5})])
        one, many, read = Handling(), HandlingMany(), Handling()
        only = typed.events.names_of(Added, Placed)
        assert only == ["added", "basket", "created", "placed"]
        await runner_of(
            store,
            storage,
            Projection("one", typed.handler(one, types=[Added, "created"])),
            Projection("many", typed.handler(many, types=["added"])),
            Projection("read", typed.handler(read, types=[Added, Placed]), event_types=only),
        ).run_until_caught_up()
        assert await storage.parked() == []
        wanted = [*TODAY[:4], TODAY[5]]
        assert one.handled == one.fired == read.handled == wanted
        assert many.batches == [wanted[1:]]

    @pytest.mark.parametrize("types", ["added", Added, ["lost"], ["basket"]])
    async def test_types_that_nothing_is_today_are_refused(self, typed, types):
        with pytest.raises(InvalidInputError, match=r"event types must be a list|is no event type of today"):
            typed.handler(Handling(), types=types)

    async def test_unknown_events_are_left_out_or_given_raw_as_the_store_says(self, store, storage, events):
        await store.append(ORDER, [old("added", {"sku": "a"}), old("lost", {"n": 1})])
        skipping, raw = Handling(), Handling()
        await runner_of(
            store,
            storage,
            Projection("skip", TypedEventStore(store, events, unknown="skip").handler(skipping)),
            Projection("raw", TypedEventStore(store, events, unknown="raw").handler(raw)),
        ).run_until_caught_up()
        assert skipping.handled == [(1, Added("a"))]
        assert raw.handled == [(1, Added("a")), (2, {"n": 1})]

    @pytest.mark.parametrize("kind", [Projection, Subscriber])
    @pytest.mark.parametrize("many", [False, True])
    async def test_an_event_that_cannot_be_decoded_is_parked_and_handled_once_it_can(
        self, store, storage, typed, kind, many
    ):
        await store.append(ORDER, [old("added", {"sku": "a"}), old("noted", {"txt": "x"}), basket("b", "c")])
        await store.append(OTHER, [old("added", {"sku": "z"}, OTHER)])
        handling = HandlingMany() if many else Handling()
        got = (
            (lambda: [each for batch in handling.batches for each in batch])
            if many
            else lambda: handling.handled
        )
        subscription = kind("orders", typed.handler(handling), failure=FAST)
        await runner_of(store, storage, subscription).run_until_caught_up()
        parked = await storage.parked()
        assert [(each.event_version, each.attempts) for each in parked] == [(2, 2), (3, 0)]
        assert parked[0].error == (
            "EventDecodeError: version 2 of order-o-1 cannot be read as 'noted': text: Field required"
        )
        assert (1, Added("z")) in got()
        assert Noted("x") not in [payload for _, payload in got()]

        repaired = EventRegistry()
        repaired.register("added")(Added)
        repaired.register("noted", version=2)(Noted)
        repaired.upcast("noted", 1)(lambda old: {"text": old["txt"]})
        repaired.upcast("basket", 1, into=["added"])(
            lambda old: [As("added", {"sku": sku}) for sku in old["skus"]]
        )
        again = HandlingMany() if many else Handling()
        subscription = kind("orders", TypedEventStore(store, repaired).handler(again), failure=FAST)
        await storage.retry_parked("orders")
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert await storage.parked() == []
        late = [each for batch in again.batches for each in batch] if many else again.handled
        assert late == [(2, Noted("x")), (3, Added("b")), (3, Added("c"))]


class TestInMemoryHandlers(InMemory, HandlerContract):
    pass


class TestPostgresHandlers(Postgres, HandlerContract):
    pass
