"""The contract suite: what every backend must show. For authors of backends.

Subclass the classes in a test module and provide the fixtures `store` (an EventStore) and
`snapshots` (a SnapshotStore), new and empty for each test:

    class TestMyStore(EventStoreContract, RacingContract, SnapshotContract):
        @pytest.fixture
        def store(self): ...

Blocking stores go through `testing.adapters`. RacingContract is for stores that can be called
concurrently; one bound to a session cannot. Where appends have to be committed to come into the
feed, the fixture `feed_store` gives the store with appends that are. Needs pytest-asyncio in auto
mode.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import re
from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from k1s0_event_store.envelope import STREAM_EXISTS, EventEnvelope, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    DuplicateEventError,
    EventStoreError,
    InvalidEventError,
    InvalidInputError,
    StoreClosedError,
    StreamNotFoundError,
)
from k1s0_event_store.feed import EVERYTHING, Cursor, EventFilter, FeedPage
from k1s0_event_store.snapshot import SnapshotStore
from k1s0_event_store.store import EventStore

ORDER = StreamId("order", "o-1")

ODD_JSON: list[Any] = [
    None, True, 0, -1, 1.25, "", "text", [], [[]], {}, {"": {"": []}}, 2**63, -(2**70), 10**40,
    {"a\u2028b": "\u0001\u007f\ufffe"}, "NaN", ["Infinity", "\\u0000", "\\\\u0000"], {"NaN": 1},
    "😀" * 300, "x" * 1_000_000, {"k" * 300: [0.1, 1e-7, 123456789.123456789]},
]  # fmt: skip

NOT_JSON: list[Any] = [
    float("nan"), {"a": [float("inf")]}, float("-inf"), "\x00", {"\x00": 1}, ["a\x00b"], "\ud800", object(),
    b"\xff",
]  # fmt: skip

ODD_NAMES = [
    "a-b", "-", "'; DROP TABLE events; --", '"', "\\", "%s", "$1", "{events}", " padded ", "é" * 255,
    "😀" * 255, "line\nbreak", "\u202eright-to-left", "NULL",
]  # fmt: skip

SPANS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5]),
    ({"from_version": 0}, [1, 2, 3, 4, 5]),
    ({"from_version": 1, "to_version": 5}, [1, 2, 3, 4, 5]),
    ({"from_version": 2, "to_version": 4}, [2, 3, 4]),
    ({"from_version": 3, "to_version": 3}, [3]),
    ({"from_version": 5}, [5]),
    ({"from_version": 6}, []),
    ({"from_version": 4, "to_version": 2}, []),
    ({"to_version": 0}, []),
    ({"to_version": 99}, [1, 2, 3, 4, 5]),
    ({"limit": 2}, [1, 2]),
    ({"limit": 0}, []),
    ({"from_version": 2, "limit": 2}, [2, 3]),
    ({"backwards": True}, [5, 4, 3, 2, 1]),
    ({"backwards": True, "limit": 2}, [5, 4]),
    ({"from_version": 2, "to_version": 4, "backwards": True, "limit": 2}, [4, 3]),
    ({"from_version": 2**63 - 1}, []),
]


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def new_events(stream_id: StreamId, count: int, **fields: Any) -> list[EventEnvelope]:
    """`count` new events with the payloads {"n": 1}, {"n": 2}, ..."""
    return [EventEnvelope(stream_id, "Counted", {"n": n}, **fields) for n in range(1, count + 1)]


def numbers(events: Iterable[EventEnvelope]) -> list[int]:
    """The payloads of `new_events`."""
    return [event.payload["n"] for event in events]


def versions(events: Iterable[EventEnvelope]) -> list[int]:
    """The versions of `events`."""
    return [event.version for event in events]


async def outcomes(calls: Iterable[Awaitable[Any]]) -> tuple[list[Any], list[EventStoreError]]:
    """Run `calls` at once; what they returned, and the library's errors. Any other error is raised."""
    done: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException) and not isinstance(result, EventStoreError):
            raise result
    failed = [result for result in done if isinstance(result, EventStoreError)]
    return [result for result in done if not isinstance(result, EventStoreError)], failed


async def append_each(store: EventStore, *names: str, event_type: str = "Counted") -> list[EventEnvelope]:
    """Append one event to each of these streams, one after the other; the events as stored."""
    stored = []
    for name in names:
        stream_id = StreamId(*name.split("-")) if "-" in name else StreamId("order", name)
        await store.append(stream_id, [EventEnvelope(stream_id, event_type, {})])
        stored += await store.load(stream_id, backwards=True, limit=1)
    return stored


async def read_pages(
    store: EventStore,
    after: Cursor | None = None,
    limit: int = 100,
    only: EventFilter = EVERYTHING,
    until: Cursor | None = None,
) -> list[FeedPage]:
    """The pages of the feed from `after` on, until there is no more."""
    pages = [await store.read_page(after, limit, only=only, until=until)]
    while pages[-1].more:
        pages.append(await store.read_page(pages[-1].cursor, limit, only=only, until=until))
    return pages


def events_of(pages: Iterable[FeedPage]) -> list[EventEnvelope]:
    """The events of `pages`."""
    return [event for page in pages for event in page.events]


class EventStoreContract:
    """One caller after the other."""

    @pytest.fixture
    def feed_store(self, store: EventStore) -> EventStore:
        """`store`, such that what it appends is committed."""
        return store

    async def test_events_of_a_new_stream_get_the_versions_from_1_on(self, store: EventStore) -> None:
        answer = await store.append(ORDER, new_events(ORDER, 3), expected_version=0)
        assert answer == 3
        assert isinstance(answer, EventVersion)
        assert versions(await store.load(ORDER)) == [1, 2, 3]

    async def test_a_second_creator_is_refused(self, store: EventStore) -> None:
        await store.append(ORDER, new_events(ORDER, 2), expected_version=0)
        with pytest.raises(ConcurrencyError) as refused:
            await store.append(ORDER, new_events(ORDER, 1), expected_version=0)
        assert (refused.value.expected_version, refused.value.actual_version) == (0, 2)
        assert await store.current_version(ORDER) == 2

    @pytest.mark.parametrize("expected", [0, 2, 4, 2**40])
    async def test_a_conflict_tells_the_true_versions_and_writes_nothing(
        self, store: EventStore, expected: int
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 3))
        with pytest.raises(ConcurrencyError) as refused:
            await store.append(ORDER, new_events(ORDER, 5), expected_version=expected)
        assert refused.value.stream_id == ORDER
        assert refused.value.expected_version == expected
        assert refused.value.actual_version == 3
        assert str(refused.value).startswith(f"Concurrency conflict: expected {expected}, got 3")
        assert versions(await store.load(ORDER)) == [1, 2, 3]

    async def test_a_version_expected_of_a_missing_stream_is_a_conflict_with_0(
        self, store: EventStore
    ) -> None:
        with pytest.raises(ConcurrencyError) as refused:
            await store.append(ORDER, new_events(ORDER, 1), expected_version=1)
        assert (refused.value.expected_version, refused.value.actual_version) == (1, 0)
        assert not await store.exists(ORDER)

    async def test_stream_exists_is_refused_for_a_missing_stream_with_its_own_error(
        self, store: EventStore
    ) -> None:
        with pytest.raises(StreamNotFoundError) as refused:
            await store.append(ORDER, new_events(ORDER, 1), expected_version=STREAM_EXISTS)
        assert (refused.value.expected_version, refused.value.actual_version) == (STREAM_EXISTS, 0)
        assert not await store.exists(ORDER)

    async def test_stream_exists_appends_at_any_version_but_0(self, store: EventStore) -> None:
        await store.append(ORDER, new_events(ORDER, 2))
        assert await store.append(ORDER, new_events(ORDER, 2), expected_version=STREAM_EXISTS) == 4

    async def test_none_appends_to_new_and_existing_streams(self, store: EventStore) -> None:
        assert await store.append(ORDER, new_events(ORDER, 2)) == 2
        assert await store.append(ORDER, new_events(ORDER, 2), expected_version=None) == 4
        assert versions(await store.load(ORDER)) == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("expected", "met"), [(0, False), (2, True), (None, True), (STREAM_EXISTS, True)]
    )
    async def test_an_empty_append_only_checks(
        self, store: EventStore, expected: ExpectedVersion, met: bool
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 2))
        if met:
            assert await store.append(ORDER, [], expected_version=expected) == 2
        else:
            with pytest.raises(ConcurrencyError):
                await store.append(ORDER, [], expected_version=expected)
        assert await store.current_version(ORDER) == 2

    @pytest.mark.parametrize(
        ("expected", "met"), [(0, True), (None, True), (1, False), (STREAM_EXISTS, False)]
    )
    async def test_an_empty_append_creates_nothing(
        self, store: EventStore, expected: ExpectedVersion, met: bool
    ) -> None:
        if met:
            assert await store.append(ORDER, [], expected_version=expected) == 0
        else:
            with pytest.raises(ConcurrencyError):
                await store.append(ORDER, [], expected_version=expected)
        assert not await store.exists(ORDER)
        assert await store.load(ORDER) == []

    @pytest.mark.parametrize("count", [1, 1_000, 1_001, 10_000])
    async def test_a_batch_of_any_size_is_one_append(self, store: EventStore, count: int) -> None:
        assert await store.append(ORDER, new_events(ORDER, count), expected_version=0) == count
        loaded = await store.load(ORDER)
        assert versions(loaded) == list(range(1, count + 1))
        assert numbers(loaded) == list(range(1, count + 1))

    # Duplicates

    @pytest.mark.parametrize("expected", [0, None])
    async def test_repeating_a_first_batch_returns_its_answer(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        batch = new_events(ORDER, 3)
        assert await store.append(ORDER, batch, expected_version=expected) == 3
        await store.append(ORDER, new_events(ORDER, 2))
        assert await store.append(ORDER, batch, expected_version=expected) == 3
        assert await store.current_version(ORDER) == 5

    @pytest.mark.parametrize("expected", [2, None, STREAM_EXISTS])
    async def test_repeating_a_later_batch_returns_its_answer(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 2))
        batch = new_events(ORDER, 2)
        for _ in range(3):
            assert await store.append(ORDER, batch, expected_version=expected) == 4
        assert await store.current_version(ORDER) == 4

    async def test_an_id_twice_in_one_batch_is_refused(self, store: EventStore) -> None:
        event = new_events(ORDER, 1)[0]
        with pytest.raises(DuplicateEventError) as refused:
            await store.append(ORDER, [event, *new_events(ORDER, 1), event])
        assert refused.value.event_ids == (event.event_id,)
        assert not await store.exists(ORDER)

    @pytest.mark.parametrize("expected", [0, 1, 3, None, STREAM_EXISTS])
    async def test_part_of_an_old_batch_with_something_new_is_refused(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        batch = new_events(ORDER, 3)
        await store.append(ORDER, batch)
        with pytest.raises(DuplicateEventError):
            await store.append(ORDER, [*batch[1:], *new_events(ORDER, 1)], expected_version=expected)
        assert await store.current_version(ORDER) == 3

    @pytest.mark.parametrize("expected", [3, 5, None, STREAM_EXISTS])
    async def test_an_old_batch_in_another_order_is_refused(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        batch = new_events(ORDER, 3)
        await store.append(ORDER, batch)
        with pytest.raises(DuplicateEventError):
            await store.append(ORDER, batch[::-1], expected_version=expected)
        assert await store.current_version(ORDER) == 3

    async def test_an_old_id_at_another_version_is_refused(self, store: EventStore) -> None:
        batch = new_events(ORDER, 2)
        await store.append(ORDER, batch)
        with pytest.raises(DuplicateEventError):
            await store.append(ORDER, batch[:1], expected_version=2)
        assert await store.current_version(ORDER) == 2

    async def test_an_id_may_stand_in_streams_of_different_aggregate_ids(self, store: EventStore) -> None:
        event, other = new_events(ORDER, 1)[0], StreamId("order", "o-2")
        await store.append(ORDER, [event])
        assert await store.append(other, [dataclasses.replace(event, stream_id=other)]) == 1

    @pytest.mark.parametrize("expected", [0, None])
    async def test_an_id_taken_under_the_same_aggregate_id_of_another_type_is_refused(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        event, invoice = new_events(ORDER, 1)[0], StreamId("invoice", ORDER.aggregate_id)
        await store.append(ORDER, [event])
        with pytest.raises(DuplicateEventError):
            await store.append(invoice, [dataclasses.replace(event, stream_id=invoice)], expected)

    # What is kept

    async def test_an_event_comes_back_as_it_was_given(self, store: EventStore) -> None:
        before = datetime.now(UTC) - timedelta(minutes=1)
        event = EventEnvelope(
            stream_id=ORDER,
            event_type="OrderPlaced",
            payload={"total": 1.5, "lines": [1, None, True], "who": {"name": "Zoë 🚚"}},
            metadata={"trace_id": "abc123", "tenant_id": None},
            event_id=UUID("018f3a2e-0000-7000-8000-000000000001"),
            occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=9))),
        )
        await store.append(ORDER, [event])
        (loaded,) = await store.load(ORDER)
        assert dataclasses.replace(loaded, version=0, recorded_at=None, position=None) == event
        assert loaded.occurred_at.tzinfo is UTC
        assert loaded.occurred_at.isoformat() == "2026-01-01T18:04:05.678901+00:00"
        assert loaded.recorded_at is not None
        assert before < loaded.recorded_at < before + timedelta(minutes=2)
        assert loaded.recorded_at.utcoffset() == timedelta(0)
        assert loaded.position is not None
        assert loaded.position > 0

    async def test_each_event_of_a_batch_keeps_what_is_its_own(self, store: EventStore) -> None:
        kinds: list[tuple[str, dict[str, int]]] = [("A", {}), ("A", {"k": 1}), ("B", {})]
        for number, (first, second) in enumerate(itertools.product(kinds, repeat=2)):
            stream_id = StreamId("order", str(number))
            given = [
                EventEnvelope(stream_id, event_type, n, metadata)
                for n, (event_type, metadata) in enumerate([first, first, second])
            ]
            await store.append(stream_id, given)
            loaded = await store.load(stream_id)
            assert [
                dataclasses.replace(event, version=0, recorded_at=None, position=None) for event in loaded
            ] == given

    async def test_unusual_json_comes_back_the_same(self, store: EventStore) -> None:
        for number, payload in enumerate([*ODD_JSON, *map(_nested, (100, 200, 240))]):
            stream_id = StreamId("odd", str(number))
            await store.append(stream_id, [EventEnvelope(stream_id, "Odd", payload, {"copy": payload})])
            (loaded,) = await store.load(stream_id)
            assert loaded.payload == payload
            assert type(loaded.payload) is type(payload)
            assert loaded.metadata == {"copy": payload}

    async def test_python_values_are_kept_as_pydantic_writes_them(self, store: EventStore) -> None:
        key, at = UUID("018f3a2e-0000-7000-8000-000000000001"), datetime(2026, 1, 2, tzinfo=UTC)
        payload = {"price": Decimal("1.10"), "key": key, "at": at, "set": {1}, "pair": (1, 2)}
        await store.append(ORDER, [EventEnvelope(ORDER, "Typed", payload)])
        assert (await store.load(ORDER))[0].payload == {
            "price": "1.10",
            "key": str(key),
            "at": "2026-01-02T00:00:00Z",
            "set": [1],
            "pair": [1, 2],
        }

    async def test_what_is_no_json_is_refused_with_the_index_of_the_event(self, store: EventStore) -> None:
        for value in NOT_JSON:
            for parts in ({"payload": value}, {"payload": 1, "metadata": {"k": value}}):
                with pytest.raises(InvalidEventError) as refused:
                    await store.append(ORDER, [*new_events(ORDER, 1), EventEnvelope(ORDER, "Bad", **parts)])
                assert (refused.value.stream_id, refused.value.index) == (ORDER, 1)
        assert not await store.exists(ORDER)

    async def test_any_text_can_name_things(self, store: EventStore) -> None:
        for name in ODD_NAMES:
            stream_id = StreamId(name, name)
            await store.append(stream_id, [EventEnvelope(stream_id, name, 1)])
            (loaded,) = await store.load(stream_id)
            assert (loaded.stream_id, loaded.event_type) == (stream_id, name)
            assert await store.exists(stream_id)
            assert not await store.exists(StreamId(name, "x"))

    async def test_ids_that_print_alike_are_different_streams(self, store: EventStore) -> None:
        one, two = StreamId("a-b", "c"), StreamId("a", "b-c")
        assert str(one) == str(two)
        await store.append(one, new_events(one, 1))
        assert not await store.exists(two)

    async def test_what_the_caller_passed_is_not_changed(self, store: EventStore) -> None:
        events = new_events(ORDER, 2, metadata={"deep": {"list": [1]}})
        before = copy.deepcopy(events)
        await store.append(ORDER, events)
        assert events == before
        assert versions(events) == [0, 0]

    async def test_what_is_returned_is_not_shared(self, store: EventStore) -> None:
        payload = {"list": [1]}
        await store.append(ORDER, [EventEnvelope(ORDER, "Shared", payload)])
        payload["list"].append(2)
        (first,) = await store.load(ORDER)
        assert first.payload == {"list": [1]}
        first.payload["list"].append(3)
        assert (await store.load(ORDER))[0].payload == {"list": [1]}

    # Bad input

    async def test_nonsense_as_expected_version_is_refused(self, store: EventStore) -> None:
        nonsense: list[Any] = [-1, -2, True, 1.0, "1", 2**63]
        for expected in nonsense:
            with pytest.raises(InvalidInputError, match=r"expected_version must be .* STREAM_EXISTS"):
                await store.append(ORDER, new_events(ORDER, 1), expected_version=expected)
        assert not await store.exists(ORDER)

    async def test_what_is_no_stream_id_is_refused(self, store: EventStore) -> None:
        nonsense: list[Any] = [None, "order-o-1", ("order", "o-1")]
        for stream_id in nonsense:
            for call in (
                store.append(stream_id, []),
                store.load(stream_id),
                store.current_version(stream_id),
                store.exists(stream_id),
                store.lock(stream_id),
            ):
                with pytest.raises(InvalidInputError, match="StreamId"):
                    await call
            with pytest.raises(InvalidInputError, match="StreamId"):
                [event async for event in store.stream(stream_id)]

    async def test_an_event_of_another_stream_is_refused(self, store: EventStore) -> None:
        other = StreamId("order", "o-2")
        with pytest.raises(InvalidEventError, match="belongs to stream order-o-2"):
            await store.append(ORDER, [*new_events(ORDER, 1), *new_events(other, 1)])
        assert not await store.exists(ORDER)

    async def test_an_event_that_is_stored_already_is_refused(self, store: EventStore) -> None:
        await store.append(ORDER, new_events(ORDER, 1))
        with pytest.raises(InvalidEventError, match="is stored already, as version 1"):
            await store.append(ORDER, await store.load(ORDER))

    async def test_what_is_no_list_of_events_is_refused(self, store: EventStore) -> None:
        nonsense: list[Any] = [None, 1, {"a": 1}, ["x"], [None], EventEnvelope(ORDER, "Single", 1)]
        for events in nonsense:
            with pytest.raises(InvalidInputError, match="EventEnvelope"):
                await store.append(ORDER, events)
        assert not await store.exists(ORDER)

    async def test_nonsense_as_a_range_is_refused(self, store: EventStore) -> None:
        nonsense: list[dict[str, Any]] = [
            {"from_version": -1},
            {"to_version": -1},
            {"limit": -1},
            {"from_version": "1"},
            {"limit": True},
        ]
        for span in nonsense:
            with pytest.raises(InvalidInputError, match=next(iter(span))):
                await store.load(ORDER, **span)

    # Reading

    async def test_a_missing_stream_is_empty_at_version_0(self, store: EventStore) -> None:
        assert await store.load(ORDER) == []
        assert [event async for event in store.stream(ORDER)] == []
        assert await store.current_version(ORDER) == 0
        assert not await store.exists(ORDER)

    async def test_load_takes_ranges_with_both_ends(self, store: EventStore) -> None:
        await store.append(ORDER, new_events(ORDER, 5))
        other = StreamId("order", "o-2")
        await store.append(other, new_events(other, 9))
        for span, found in SPANS:
            assert versions(await store.load(ORDER, **span)) == found, span

    async def test_stream_gives_what_load_gives(self, store: EventStore) -> None:
        for count in (1, 99, 100, 101, 1_500):
            stream_id = StreamId("order", str(count))
            await store.append(stream_id, new_events(stream_id, count))
            assert [event async for event in store.stream(stream_id)] == await store.load(stream_id)
            part = [event async for event in store.stream(stream_id, 40, 1_200)]
            assert part == await store.load(stream_id, 40, 1_200)

    # The feed

    async def test_read_all_gives_every_event_with_each_stream_in_order(self, feed_store: EventStore) -> None:
        streams = [StreamId("order", f"o-{i}") for i in range(3)]
        for _ in range(60):
            for stream_id in streams:
                await feed_store.append(stream_id, new_events(stream_id, 1))
        events = [event async for event in feed_store.read_all()]
        positions = [event.position or 0 for event in events]
        assert positions == sorted(set(positions))
        for stream_id in streams:
            assert [e for e in events if e.stream_id == stream_id] == await feed_store.load(stream_id)
        assert len(events) == 180

    async def test_read_all_of_an_empty_store_is_empty_and_can_be_gone_on_from(
        self, feed_store: EventStore
    ) -> None:
        reading = feed_store.read_all()
        assert reading.cursor is None
        assert [event async for event in reading] == []
        assert reading.cursor is not None
        events = await append_each(feed_store, "a", "b")
        assert [event async for event in feed_store.read_all(reading.cursor)] == events

    async def test_a_reading_goes_on_from_every_place_of_an_earlier_one(self, feed_store: EventStore) -> None:
        events = await append_each(feed_store, *"abacab")
        reading = feed_store.read_all()
        places = [reading.cursor]
        async for _event in reading:
            places.append(reading.cursor)
        end = reading.cursor
        assert end is not None
        for _ in range(2):
            for number, place in enumerate(places):
                text = None if place is None else Cursor(str(place))
                assert [event async for event in feed_store.read_all(text)] == events[number:]
            assert [event async for event in feed_store.read_all(Cursor(str(end)))] == events[6:]
            events += await append_each(feed_store, *"cab")

    async def test_read_all_gives_the_types_that_are_wanted(self, feed_store: EventStore) -> None:
        placed = await append_each(feed_store, "order-1", "invoice-1", "order-2", event_type="Placed")
        paid = await append_each(feed_store, "invoice-1", "order-2", "parcel-1", event_type="Paid")
        wanted: list[tuple[dict[str, Any], list[EventEnvelope]]] = [
            ({"aggregate_types": ["order"]}, [placed[0], placed[2], paid[1]]),
            ({"aggregate_types": ("order", "parcel")}, [placed[0], placed[2], *paid[1:]]),
            ({"event_types": ["Paid"]}, paid),
            ({"event_types": {"Paid", "Placed"}}, [*placed, *paid]),
            ({"aggregate_types": ["invoice"], "event_types": ["Paid"]}, [paid[0]]),
            ({"aggregate_types": ["order"], "event_types": ["Lost"]}, []),
            ({"aggregate_types": []}, []),
            ({"where": lambda event: event.version == 2}, paid[:2]),
            ({"where": lambda event: event.version == 2, "event_types": ["Placed"]}, []),
        ]
        for filters, events in wanted:
            reading = feed_store.read_all(**filters)
            assert [event async for event in reading] == events, filters
            assert [event async for event in feed_store.read_all(reading.cursor)] == []

    async def test_a_filtered_reading_can_be_gone_on_from_without_the_filter(
        self, feed_store: EventStore
    ) -> None:
        events = await append_each(feed_store, *"abcabc")
        for reading in (
            feed_store.read_all(where=lambda event: event.stream_id.aggregate_id == "b"),
            feed_store.read_all(),
        ):
            while (await anext(reading)).stream_id.aggregate_id != "b":
                pass
            await reading.aclose()
            assert [event async for event in feed_store.read_all(reading.cursor)] == events[2:]

    async def test_where_sees_only_events_of_the_types_that_are_wanted(self, feed_store: EventStore) -> None:
        await append_each(feed_store, "order-1", "invoice-1")
        seen: list[EventEnvelope] = []

        def where(event: EventEnvelope) -> bool:
            seen.append(event)
            return True

        reading = feed_store.read_all(aggregate_types=["order"], where=where)
        assert [event.stream_id.aggregate_type async for event in reading] == ["order"]
        assert len(seen) == 1

    async def test_pages_are_no_longer_than_asked_for_and_can_be_gone_on_from_after_each_event(
        self, feed_store: EventStore
    ) -> None:
        events = await append_each(feed_store, *"abacaba")
        for limit in (1, 2, 7, 8, 100_000):
            pages = await read_pages(feed_store, None, limit)
            assert events_of(pages) == events
            assert all(len(page.events) <= limit for page in pages)
            for page in pages:
                for event in page.events:
                    place = Cursor(str(page.cursor_after(event)))
                    assert events_of(await read_pages(feed_store, place)) == events[events.index(event) + 1 :]
            assert events_of(await read_pages(feed_store, pages[-1].cursor)) == []

    async def test_a_page_in_which_nothing_is_wanted_moves_the_cursor(self, feed_store: EventStore) -> None:
        only = EventFilter(event_types=("Paid",))
        await append_each(feed_store, *"abcde")
        first = await feed_store.read_page(None, 2, only=only)
        assert (first.events, first.more) == ([], True)
        assert len(events_of(await read_pages(feed_store, first.cursor))) == 3
        pages = await read_pages(feed_store, first.cursor, 2, only)
        assert events_of(pages) == []
        moved = [page.cursor for page in (first, *pages) if page.more]
        assert len(set(moved)) == len(moved) >= 2
        paid = await append_each(feed_store, "a", event_type="Paid")
        assert events_of(await read_pages(feed_store, pages[-1].cursor)) == paid

    async def test_a_reading_ends_exactly_at_an_earlier_place(self, feed_store: EventStore) -> None:
        events: list[EventEnvelope] = []
        start = (await feed_store.read_page()).cursor
        places: list[tuple[int, Cursor | None]] = [(0, None), (0, start)]
        for names in ("abaca", "c", "bb"):
            events += await append_each(feed_store, *names)
            for page in await read_pages(feed_store, places[-1][1], 3):
                places += [(events.index(event) + 1, page.cursor_after(event)) for event in page.events]
                places.append((places[-1][0], page.cursor))
        await append_each(feed_store, "c")
        for first, after in places:
            for last, until in places:
                if until is None:
                    continue
                for limit in (2, 100):
                    pages = await read_pages(feed_store, after, limit, until=until)
                    assert events_of(pages) == events[first:last], (after, until)
                    if first < last:
                        assert pages[-1].cursor == until

    async def test_every_stream_is_in_exactly_one_partition(self, feed_store: EventStore) -> None:
        events = await append_each(feed_store, *"abcdefgh", "invoice-a", "invoice-b", *"abcd")
        for partitions in (1, 2, 3, 7):
            found: list[EventEnvelope] = []
            for partition in range(partitions):
                only = EventFilter(partition=partition, partitions=partitions)
                part = events_of(await read_pages(feed_store, None, 4, only))
                names = {event.stream_id for event in part}
                assert [event for event in events if event.stream_id in names] == part
                found += part
            assert sorted(found, key=lambda event: event.position or 0) == events

    async def test_nonsense_as_a_place_limit_or_filter_of_the_feed_is_refused(
        self, feed_store: EventStore
    ) -> None:
        await append_each(feed_store, *"abc")
        end = (await feed_store.read_page()).cursor
        inside = (await feed_store.read_page(None, 2)).cursor
        limits: list[Any] = [0, -1, True, 1.0, "x", None, 100_001]
        for limit in limits:
            with pytest.raises(InvalidInputError, match="limit must be"):
                await feed_store.read_page(None, limit)
        texts: list[Any] = ["", None, 7, b"cursor", "x" * 1_000_000]
        for text in texts:
            with pytest.raises(InvalidInputError, match="cursor"):
                Cursor(text)
        cursors: list[Any] = [str(end), 7, Cursor("nonsense"), Cursor(" ")]
        for good in map(str, (end, inside)):
            spoilt = [
                good + "x",
                " " + good,
                good + " 1 2",
                re.sub(r"\d+", "x", good),
                re.sub(r"(\d)", r"-\1", good),
            ]
            cursors += map(Cursor, spoilt)
        for cursor in cursors:
            with pytest.raises(InvalidInputError, match="ursor"):
                await feed_store.read_page(cursor)
            with pytest.raises(InvalidInputError, match="ursor"):
                await feed_store.read_page(None, until=cursor)
            with pytest.raises(InvalidInputError, match="ursor"):
                await anext(feed_store.read_all(cursor))
        names: list[Any] = ["order", 7, [7], [""], ["a\x00"]]
        for wrong in names:
            for filters in ({"aggregate_types": wrong}, {"event_types": wrong}):
                with pytest.raises(InvalidInputError, match=next(iter(filters))):
                    feed_store.read_all(**filters)
        assert len(events_of(await read_pages(feed_store))) == 3

    async def test_nonsense_as_a_limit_of_a_lock_is_refused(self, store: EventStore) -> None:
        nonsense: list[Any] = [-1, "1", True, float("nan"), float("inf")]
        for wait in nonsense:
            with pytest.raises(InvalidInputError, match="wait must be seconds"):
                await store.lock(ORDER, wait)

    async def test_a_closed_store_refuses_every_call(self, store: EventStore) -> None:
        await store.close()
        for call in (
            store.append(ORDER, new_events(ORDER, 1)),
            store.load(ORDER),
            store.exists(ORDER),
            store.read_page(),
        ):
            with pytest.raises(StoreClosedError):
                await call
        for events in (store.stream(ORDER), store.read_all()):
            with pytest.raises(StoreClosedError):
                [event async for event in events]


class RacingContract:
    """Many callers at once."""

    async def test_of_many_creators_exactly_one_wins(self, store: EventStore) -> None:
        batches = [new_events(ORDER, 3, metadata={"writer": w}) for w in range(10)]
        won, refused = await outcomes(store.append(ORDER, batch, expected_version=0) for batch in batches)
        assert won == [3]
        assert [type(error) for error in refused] == [ConcurrencyError] * 9
        loaded = await store.load(ORDER)
        assert [e.event_id for e in loaded] in [[e.event_id for e in batch] for batch in batches]

    async def test_of_many_with_the_same_expected_version_exactly_one_wins(self, store: EventStore) -> None:
        await store.append(ORDER, new_events(ORDER, 2))
        batches = [new_events(ORDER, 2) for _ in range(10)]
        won, refused = await outcomes(store.append(ORDER, batch, expected_version=2) for batch in batches)
        assert won == [4]
        assert {
            (e.expected_version, e.actual_version) for e in refused if isinstance(e, ConcurrencyError)
        } == {(2, 4)}
        assert len(refused) == 9
        assert versions(await store.load(ORDER)) == [1, 2, 3, 4]

    @pytest.mark.parametrize("existing", [0, 3])
    async def test_of_many_with_any_version_all_succeed_without_a_gap(
        self, store: EventStore, existing: int
    ) -> None:
        await store.append(ORDER, new_events(ORDER, existing))
        won, refused = await outcomes(store.append(ORDER, new_events(ORDER, 2)) for _ in range(20))
        assert refused == []
        assert sorted(won) == list(range(existing + 2, existing + 41, 2))
        assert versions(await store.load(ORDER)) == list(range(1, existing + 41))

    @pytest.mark.parametrize("expected", [0, None])
    async def test_one_batch_sent_many_times_at_once_is_stored_once(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        batch = new_events(ORDER, 3)
        won, refused = await outcomes(
            store.append(ORDER, batch, expected_version=expected) for _ in range(10)
        )
        assert (won, refused) == ([3] * 10, [])
        assert versions(await store.load(ORDER)) == [1, 2, 3]


class SnapshotContract:
    """Snapshots, alone and under a replay."""

    async def test_without_a_snapshot_there_is_none(self, snapshots: SnapshotStore) -> None:
        assert await snapshots.load_latest(ORDER) is None

    async def test_the_newest_snapshot_is_found_in_whatever_order_they_were_saved(
        self, snapshots: SnapshotStore
    ) -> None:
        for version in (3, 9, 6):
            await snapshots.save(ORDER, version, {"at": version})
        found = await snapshots.load_latest(ORDER)
        assert found is not None
        assert (found.stream_id, found.version, found.state) == (ORDER, 9, {"at": 9})
        assert found.taken_at.tzinfo is UTC
        assert await snapshots.load_latest(StreamId("order", "o-2")) is None

    async def test_the_same_version_again_replaces(self, snapshots: SnapshotStore) -> None:
        await snapshots.save(ORDER, 3, "old", schema_version=1)
        await snapshots.save(ORDER, 3, "new", schema_version=2)
        found = await snapshots.load_latest(ORDER)
        assert found is not None
        assert (found.state, found.schema_version) == ("new", 2)
        assert await snapshots.load_latest(ORDER, schema_version=1) is None

    async def test_old_snapshots_are_pruned_and_the_newest_stay(self, snapshots: SnapshotStore) -> None:
        for version in (10, 20, 30, 40):
            await snapshots.save(ORDER, version, version)
        kept = [await snapshots.load_latest(ORDER, max_version=limit) for limit in (40, 39, 29)]
        assert [found and found.version for found in kept] == [40, 30, None]

    async def test_a_snapshot_can_be_asked_for_by_layout_and_limit(self, snapshots: SnapshotStore) -> None:
        await snapshots.save(ORDER, 5, "first", schema_version=1)
        await snapshots.save(ORDER, 8, "second", schema_version=2)
        first = await snapshots.load_latest(ORDER, schema_version=1)
        limited = await snapshots.load_latest(ORDER, max_version=7)
        assert first is not None
        assert first == limited
        assert first.state == "first"
        assert await snapshots.load_latest(ORDER, schema_version=3) is None

    async def test_a_version_without_events_has_no_snapshot(self, snapshots: SnapshotStore) -> None:
        nonsense: list[Any] = [0, -1, True, "3", None]
        for version in nonsense:
            with pytest.raises(InvalidInputError, match="version"):
                await snapshots.save(ORDER, version, {})

    async def test_a_state_that_is_no_json_is_refused(self, snapshots: SnapshotStore) -> None:
        for state in NOT_JSON:
            with pytest.raises(InvalidInputError, match="state of order-o-1"):
                await snapshots.save(ORDER, 1, state)
        assert await snapshots.load_latest(ORDER) is None

    async def test_a_returned_state_is_not_shared(self, snapshots: SnapshotStore) -> None:
        state = {"list": [1]}
        await snapshots.save(ORDER, 1, state)
        state["list"].append(2)
        found = await snapshots.load_latest(ORDER)
        assert found is not None
        found.state["list"].append(3)
        again = await snapshots.load_latest(ORDER)
        assert again is not None
        assert again.state == {"list": [1]}

    async def test_a_snapshot_is_due_after_the_interval_even_if_a_batch_jumps_over_it(
        self, snapshots: SnapshotStore
    ) -> None:
        interval = snapshots.snapshot_interval
        assert not snapshots.is_due(interval - 1)
        assert snapshots.is_due(interval)
        assert snapshots.is_due(interval + 7)
        assert not snapshots.is_due(interval + 7, last_snapshot_version=interval)
        assert snapshots.is_due(2 * interval + 7, last_snapshot_version=interval + 7)

    async def test_replay_from_a_snapshot_equals_the_full_replay(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 120))
        full = await store.replay(ORDER, _add, 0)
        halfway = await store.replay(ORDER, _add, 0, to_version=70)
        await snapshots.save(ORDER, halfway.version, halfway.state)
        replayed = await store.replay(ORDER, _add, 0, snapshots)
        assert (full.state, full.version, full.snapshot_version) == (7260, 120, 0)
        assert (replayed.state, replayed.version, replayed.snapshot_version) == (7260, 120, 70)

    async def test_a_snapshot_comes_with_the_events_from_it_on(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 12))
        await snapshots.save(ORDER, 4, {"at": 4}, schema_version=1)
        await snapshots.save(ORDER, 8, {"at": 8}, schema_version=2)
        wanted: list[tuple[dict[str, Any], int | None, list[int]]] = [
            ({}, 8, [8, 9, 10, 11, 12]),
            ({"limit": 2}, 8, [8, 9]),
            ({"schema_version": 1}, 4, [4, 5, 6, 7, 8, 9, 10, 11, 12]),
            ({"max_version": 7}, 4, [4, 5, 6, 7]),
            ({"max_version": 3}, None, [1, 2, 3]),
            ({"schema_version": 3, "limit": 4}, None, [1, 2, 3, 4]),
        ]
        everything = await store.load(ORDER)
        for options, version, versions in wanted:
            snapshot, events = await store.load_since_snapshot(ORDER, snapshots, **options)
            assert snapshot == (
                None if version is None else await snapshots.load_latest(ORDER, max_version=version)
            )
            assert events == [everything[number - 1] for number in versions]

    async def test_a_snapshot_comes_with_nothing_if_there_are_no_events(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        assert await store.load_since_snapshot(ORDER, snapshots) == (None, [])
        await snapshots.save(ORDER, 5, "state")
        snapshot, events = await store.load_since_snapshot(ORDER, snapshots)
        assert (snapshot and snapshot.version, events) == (5, [])
        nonsense: Any
        for nonsense in ({"limit": -1}, {"max_version": "5"}, {"schema_version": 1.5}):
            with pytest.raises(InvalidInputError):
                await store.load_since_snapshot(ORDER, snapshots, **nonsense)

    async def test_replay_ignores_snapshots_of_another_layout_or_beyond_the_end(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 9))
        await snapshots.save(ORDER, 8, "wrong", schema_version=2)
        assert (await store.replay(ORDER, _add, 0, snapshots)).state == 45
        past = await store.replay(ORDER, _add, 0, snapshots, schema_version=2, to_version=7)
        assert (past.state, past.version, past.snapshot_version) == (28, 7, 0)

    async def test_replay_restores_the_state_from_the_snapshots_json(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        await store.append(ORDER, new_events(ORDER, 3))
        await snapshots.save(ORDER, 2, {"sum": "3"})
        replayed = await store.replay(ORDER, _add, 0, snapshots, restore=lambda kept: int(kept["sum"]))
        assert (replayed.state, replayed.version) == (6, 3)

    async def test_replay_of_a_missing_stream_is_the_initial_state(
        self, store: EventStore, snapshots: SnapshotStore
    ) -> None:
        replayed = await store.replay(ORDER, _add, 7, snapshots)
        assert (replayed.state, replayed.version) == (7, 0)


def _add(total: int, event: EventEnvelope) -> int:
    return total + int(event.payload["n"])
