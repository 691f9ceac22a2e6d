"""What every event store must show of `import_batch`: see contract.py for the fixtures."""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    DuplicateEventError,
    InvalidEventError,
    InvalidInputError,
    StoreClosedError,
)
from k1s0_event_store.memory import InMemoryEventStore
from k1s0_event_store.store import EventStore
from k1s0_event_store.testing.contract import NOT_JSON, ODD_JSON, events_of, numbers, outcomes, read_pages

ONE, TWO = StreamId("order", "o-1"), StreamId("order", "o-2")
CART = StreamId("cart", "o-1")
"""Of the same aggregate id as ONE, so that the two share their event ids."""


def copies(stream_id: StreamId, count: int, first: int = 1, **fields: Any) -> list[EventEnvelope]:
    """Events as another store has them: with versions from `first` on, and payloads that tell them."""
    return [
        EventEnvelope(stream_id, "Copied", {"n": n}, version=n, **fields) for n in range(first, first + count)
    ]


def identity(events: Sequence[EventEnvelope]) -> list[tuple[Any, ...]]:
    """What an import may not change."""
    return [
        (e.stream_id, e.version, e.event_id, e.event_type, e.payload, dict(e.metadata), e.occurred_at)
        for e in events
    ]


class ImportContract:
    """One caller after the other."""

    @pytest.fixture
    def feed_store(self, store: EventStore) -> EventStore:
        """`store`, such that what it imports is committed."""
        return store

    async def test_an_imported_event_is_what_it_was(self, store: EventStore) -> None:
        event = EventEnvelope(
            ONE,
            "OrderPlaced",
            {"total": 1.5, "lines": [1, None, True], "who": {"name": "Zoë 🚚"}},
            {"trace_id": "abc123", "tenant_id": None},
            UUID("018f3a2e-0000-7000-8000-000000000001"),
            datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
            version=1,
            recorded_at=datetime(2001, 1, 1, tzinfo=UTC),
            position=10**12,
        )
        assert await store.import_batch([event]) == 1
        (stored,) = await store.load(ONE)
        assert identity([stored]) == identity([event])
        assert stored.recorded_at is not None
        assert stored.recorded_at.year > 2001
        assert stored.position != event.position

    async def test_unusual_json_is_imported_as_it_is(self, store: EventStore) -> None:
        values = [value for value in ODD_JSON if len(str(value)) < 1000]
        events = [EventEnvelope(ONE, "Odd", value, version=n) for n, value in enumerate(values, 1)]
        assert await store.import_batch(events) == len(values)
        assert [event.payload for event in await store.load(ONE)] == values

    async def test_a_batch_holds_streams_of_any_kind_in_any_order(self, store: EventStore) -> None:
        one, two, cart = copies(ONE, 3), copies(TWO, 2), copies(CART, 2)
        mixed = [two[0], one[0], one[1], cart[0], two[1], one[2], cart[1]]
        assert await store.import_batch(mixed) == 7
        for stream_id, events in ((ONE, one), (TWO, two), (CART, cart)):
            assert identity(await store.load(stream_id)) == identity(events)
            assert await store.current_version(stream_id) == len(events)

    async def test_a_batch_imported_again_adds_nothing(self, store: EventStore) -> None:
        batch = [*copies(ONE, 3), *copies(TWO, 2)]
        assert [await store.import_batch(batch) for _ in range(3)] == [5, 0, 0]
        assert numbers(await store.load(ONE)) == [1, 2, 3]

    async def test_only_what_is_missing_is_added(self, store: EventStore) -> None:
        one, two, cart = copies(ONE, 5), copies(TWO, 2), copies(CART, 2)
        await store.import_batch([*one[:3], *two])
        assert await store.import_batch([two[0], *one, two[1], *cart]) == 4
        for stream_id, events in ((ONE, one), (TWO, two), (CART, cart)):
            assert identity(await store.load(stream_id)) == identity(events)

    async def test_an_import_and_appends_take_turns_on_a_stream(self, store: EventStore) -> None:
        await store.append(ONE, [EventEnvelope(ONE, "Appended", {"n": 1})])
        assert await store.import_batch(copies(ONE, 2, first=2)) == 2
        assert await store.append(ONE, [EventEnvelope(ONE, "Appended", {"n": 4})], expected_version=3) == 4
        assert numbers(await store.load(ONE)) == [1, 2, 3, 4]

    async def test_an_empty_batch_is_nothing(self, store: EventStore) -> None:
        assert await store.import_batch([]) == 0

    @pytest.mark.parametrize(
        ("versions", "index", "reason"),
        [
            ([1, 3], 1, "version 3 of order-o-1 follows version 1"),
            ([1, 2, 2], 2, "version 2 of order-o-1 follows version 2"),
            ([1, 2, 1], 2, "version 1 of order-o-1 follows version 2"),
            ([0], 0, "has no version"),
        ],
    )
    async def test_a_gap_in_a_batch_is_refused_before_anything_is_stored(
        self, store: EventStore, versions: list[int], index: int, reason: str
    ) -> None:
        events = [EventEnvelope(ONE, "Copied", {}, version=version) for version in versions]
        with pytest.raises(InvalidEventError, match=reason) as refused:
            await store.import_batch([*copies(TWO, 1), *events])
        assert refused.value.index == 1 + index
        assert refused.value.stream_id == ONE
        assert not await store.exists(TWO)

    async def test_a_gap_to_what_is_stored_is_refused(self, store: EventStore) -> None:
        cart = copies(CART, 1)
        await store.import_batch(copies(ONE, 1))
        for there, stream_id in ((1, ONE), (0, TWO)):
            with pytest.raises(InvalidEventError, match=f"the store has only {there}") as refused:
                await store.import_batch([*cart, *copies(stream_id, 2, first=3)])
            assert refused.value.index == 1
            assert await store.current_version(stream_id) == there

    @pytest.mark.parametrize("other", [{"event_type": "Other"}, {"event_id": UUID(int=7)}])
    async def test_another_event_than_the_one_that_is_stored_is_refused(
        self, store: EventStore, other: dict[str, Any]
    ) -> None:
        batch = copies(ONE, 3)
        await store.import_batch(batch[:2])
        fields = {"event_type": "Copied", "event_id": batch[1].event_id, **other}
        changed = EventEnvelope(ONE, payload={"n": 2}, version=2, **fields)
        with pytest.raises(
            InvalidEventError, match=f"but Copied {batch[1].event_id} in the store"
        ) as refused:
            await store.import_batch([batch[0], changed, batch[2]])
        assert refused.value.index == 1
        assert await store.current_version(ONE) == 2

    async def test_an_id_of_another_event_is_refused(self, store: EventStore) -> None:
        (taken,) = copies(CART, 1)
        await store.import_batch([taken])
        batch = [*copies(ONE, 1), *copies(ONE, 1, first=2, event_id=taken.event_id)]
        with pytest.raises(DuplicateEventError) as refused:
            await store.import_batch(batch)
        assert (refused.value.stream_id, refused.value.event_ids) == (ONE, (taken.event_id,))
        assert not await store.exists(ONE)
        (elsewhere,) = copies(TWO, 1, event_id=taken.event_id)
        assert await store.import_batch([elsewhere]) == 1

    async def test_an_id_twice_in_a_batch_is_refused(self, store: EventStore) -> None:
        (event,) = copies(ONE, 1)
        again = copies(ONE, 1, first=2, event_id=event.event_id)
        with pytest.raises(DuplicateEventError) as refused:
            await store.import_batch([event, *again])
        assert (refused.value.stream_id, refused.value.event_ids) == (ONE, (event.event_id,))
        assert not await store.exists(ONE)

    async def test_what_is_no_json_is_not_imported(self, store: EventStore) -> None:
        for value in NOT_JSON:
            for fields in ({"payload": value}, {"payload": {}, "metadata": {"a": value}}):
                bad = EventEnvelope(ONE, "Copied", version=2, **fields)
                with pytest.raises(InvalidEventError, match="payload or metadata not JSON") as refused:
                    await store.import_batch([*copies(ONE, 1), bad])
                assert refused.value.index == 1
        assert not await store.exists(ONE)

    async def test_what_is_no_list_of_events_is_not_imported(self, store: EventStore) -> None:
        nonsense: list[Any] = [None, 3, copies(ONE, 1)[0], [None], ["event"], [copies(ONE, 1)]]
        for events in nonsense:
            with pytest.raises(InvalidInputError, match="must be"):
                await store.import_batch(events)
        assert await store.import_batch(iter(copies(ONE, 2))) == 2

    async def test_what_was_passed_is_not_changed(self, store: EventStore) -> None:
        batch = copies(ONE, 2)
        before = [dict(event.__dict__) for event in batch]
        await store.import_batch(batch)
        assert [event.__dict__ for event in batch] == before

    async def test_the_feed_of_one_store_goes_into_another(self, feed_store: EventStore) -> None:
        source = InMemoryEventStore()
        for stream_id in (ONE, TWO, CART, ONE):
            await source.append(stream_id, [EventEnvelope(stream_id, "Placed", {"of": str(stream_id)})])
        page = await source.read_page()
        assert await feed_store.import_batch(page.events) == 4
        copied = await feed_store.read_page()
        assert sorted(identity(copied.events), key=str) == sorted(identity(page.events), key=str)
        back = InMemoryEventStore()
        assert await back.import_batch(copied.events) == 4
        assert identity(await back.load(ONE)) == identity(await source.load(ONE))

    async def test_the_feed_gives_what_was_imported_once_with_each_stream_in_order(
        self, feed_store: EventStore
    ) -> None:
        one, two = copies(ONE, 4), copies(TWO, 4)
        before = await feed_store.latest_cursor()
        await feed_store.import_batch([*one[:2], *two[:2]])
        between = await feed_store.latest_cursor()
        await feed_store.import_batch([event for pair in zip(one, two, strict=True) for event in pair])
        read = events_of(await read_pages(feed_store, before, limit=3))
        assert len(read) == 8
        for events in (one, two):
            assert identity([e for e in read if e.stream_id == events[0].stream_id]) == identity(events)
        later = events_of(await read_pages(feed_store, between, limit=3))
        assert sorted(numbers(later)) == [3, 3, 4, 4]

    async def test_a_closed_store_imports_nothing(self, store: EventStore) -> None:
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.import_batch(copies(ONE, 1))


class RacingImportContract:
    """Many callers at once."""

    async def test_one_batch_imported_many_times_at_once_is_stored_once(self, store: EventStore) -> None:
        batch = [*copies(ONE, 3), *copies(TWO, 3)]
        imported, refused = await outcomes(store.import_batch(batch) for _ in range(10))
        assert refused == []
        assert sum(imported) == 6
        assert identity(await store.load(ONE)) == identity(batch[:3])
