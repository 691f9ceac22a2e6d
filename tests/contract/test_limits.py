"""What is too large is refused by every store in the same words, before anything is sent."""

import asyncio
import io

import pytest

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    InMemoryEventStore,
    InMemorySnapshotStore,
    LimitExceededError,
    Limits,
    Message,
    PostgresEventStore,
    PostgresSnapshotStore,
    StoreUnavailableError,
    StreamId,
    SyncInMemoryEventStore,
    SyncInMemorySnapshotStore,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
    TransferError,
)
from k1s0_event_store.testing.adapters import ThreadedEventStore, ThreadedSnapshotStore
from k1s0_event_store.transfer.importing import import_events
from k1s0_event_store.transfer.lines import event_line, footer_line, header_line

ORDER = StreamId("order", "o-1")
LIMITS = Limits(payload=300, metadata=40, state=60, depth=5, events=3, name=8)
# Whoever sends something there hears that there is nobody.
NOWHERE = EventStoreConfig(dsn="postgresql://user@127.0.0.1:1/none", limits=LIMITS, connect_timeout=1)

EVENT_STORES = {
    "memory": lambda: InMemoryEventStore(limits=LIMITS),
    "memory, blocking": lambda: ThreadedEventStore(SyncInMemoryEventStore(limits=LIMITS)),
    "postgres": lambda: PostgresEventStore(NOWHERE),
    "postgres, coalescing": lambda: PostgresEventStore(NOWHERE, coalesce=True),
    "postgres, blocking": lambda: ThreadedEventStore(SyncPostgresEventStore(NOWHERE)),
}
SNAPSHOT_STORES = {
    "memory": lambda: InMemorySnapshotStore(limits=LIMITS),
    "memory, blocking": lambda: ThreadedSnapshotStore(SyncInMemorySnapshotStore(limits=LIMITS)),
    "postgres": lambda: PostgresSnapshotStore(NOWHERE),
    "postgres, blocking": lambda: ThreadedSnapshotStore(SyncPostgresSnapshotStore(NOWHERE)),
}


def placed(payload=None, event_type="Placed", stream_id=ORDER, **fields):
    return EventEnvelope(stream_id, event_type, payload, **fields)


def nested(depth, wrap=lambda value: [value]):
    value = "[" * 20  # brackets in a string are none
    for _ in range(depth):
        value = wrap(value)
    return value


# What is given, and limit, actual and index of the refusal.
TOO_MUCH = {
    "payload": ([placed(), placed("x" * 299)], ("payload", 301, 1)),
    "metadata": ([placed(metadata={"trace": "x" * 40})], ("metadata", 52, 0)),
    "lists": ([placed(), placed(), placed(nested(6))], ("depth", 6, 2)),
    "objects": ([placed(nested(6, lambda value: {"[": value}))], ("depth", 6, 0)),
    "deep metadata": ([placed(metadata={"[": [[[[[]]]]]})], ("depth", 6, 0)),
    "deeper than is encoded": ([placed(nested(300))], ("depth", None, 0)),
    "deeper than the interpreter goes": ([placed(nested(100_000))], ("depth", None, 0)),
    "events": ([placed() for _ in range(4)], ("events", 4, None)),
    "event type": ([placed(), placed(event_type="OrderPlaced")], ("name", 11, 1)),
    "aggregate id": ([placed(stream_id=StreamId("order", "o-1234567"))], ("name", 9, None)),
    "aggregate type": ([placed(stream_id=StreamId("warehouse", "w"))], ("name", 9, None)),
}
AT_THE_LIMIT = [
    placed("x" * 298, metadata={"a": "x" * 32}),
    placed(nested(5), event_type="OrderNew", metadata={"": {"": {"": {"": {"": "["}}}}}),
]


@pytest.fixture(params=EVENT_STORES)
async def store(request):
    async with EVENT_STORES[request.param]() as store:
        yield store


@pytest.mark.parametrize(("events", "refusal"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_an_append_of_too_much_is_refused_before_anything_is_sent(store, events, refusal):
    with pytest.raises(LimitExceededError) as refused:
        await store.append(events[0].stream_id, events)
    assert (refused.value.limit, refused.value.actual, refused.value.index) == refusal
    assert refused.value.most == getattr(LIMITS, refused.value.limit)
    assert f"Limits({refused.value.limit}=...)" in str(refused.value)


@pytest.mark.parametrize(("events", "refusal"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_an_import_of_too_much_is_refused_before_anything_is_sent(store, events, refusal):
    with pytest.raises(LimitExceededError) as refused:
        await store.import_batch(
            EventEnvelope(e.stream_id, e.event_type, e.payload, e.metadata, version=version)
            for version, e in enumerate(events, 1)
        )
    assert (refused.value.limit, refused.value.actual, refused.value.index) == refusal


async def test_a_message_that_is_too_large_is_not_kept(store):
    with pytest.raises(LimitExceededError) as refused:
        await store.enqueue(Message("orders", "o-1", b"x" * 300, message_id="m-1"))
    assert (refused.value.limit, refused.value.index) == ("payload", 0)


async def test_of_appends_that_travel_together_the_one_that_is_too_large_is_refused_alone(event_store_config):
    config = EventStoreConfig(dsn=event_store_config.dsn, limits=LIMITS)
    streams = [StreamId("order", str(number)) for number in range(20)]
    async with PostgresEventStore(config, coalesce=True) as store:
        calls = (
            store.append(stream, [placed("x" * (400 if number == 7 else 10), stream_id=stream)], 0)
            for number, stream in enumerate(streams)
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers.pop(7), LimitExceededError)
        assert answers == [1] * 19
        assert not await store.exists(streams[7])


@pytest.mark.parametrize("kind", SNAPSHOT_STORES)
async def test_a_state_that_is_too_large_is_not_saved(kind):
    async with SNAPSHOT_STORES[kind]() as snapshots:
        for state, facts in (
            ("x" * 60, ("state", 62)),
            ([[[[[["deep"]]]]]], ("depth", 6)),
            (nested(300), ("depth", None)),
        ):
            with pytest.raises(LimitExceededError) as refused:
                await snapshots.save(ORDER, 1, state)
            assert (refused.value.limit, refused.value.actual, refused.value.index) == (*facts, None)
        with pytest.raises(LimitExceededError, match="aggregate id"):
            await snapshots.save(StreamId("order", "o-1234567"), 1, {})


async def test_what_is_at_the_limit_is_stored(event_store_config):
    config = EventStoreConfig(dsn=event_store_config.dsn, limits=LIMITS)
    async with PostgresEventStore(config) as store, PostgresSnapshotStore(config) as snapshots:
        await store.append(ORDER, AT_THE_LIMIT, 0)
        assert [event.payload for event in await store.load(ORDER)] == [e.payload for e in AT_THE_LIMIT]
        await snapshots.save(ORDER, 2, "x" * 58)


async def test_what_one_store_took_another_with_lower_limits_reads(event_store):
    await event_store.append(ORDER, [placed("x" * 1000), placed(nested(200))])
    async with PostgresEventStore(EventStoreConfig(dsn=event_store.config.dsn, limits=LIMITS)) as careful:
        assert [event.payload for event in await careful.load(ORDER)] == ["x" * 1000, nested(200)]
        assert [event.version async for event in careful.read_all()] == [1, 2]


async def test_a_server_that_is_not_there_is_only_noticed_by_what_may_be_sent():
    async with PostgresEventStore(NOWHERE) as store:
        with pytest.raises(StoreUnavailableError):
            await store.append(ORDER, AT_THE_LIMIT)


def file_of(events):
    lines = [event_line(event) for event in events]
    return io.BytesIO(b"".join([header_line({}), *lines, footer_line(len(events))]))


def numbered(*payloads):
    return [placed(payload, version=version) for version, payload in enumerate(payloads, 1)]


async def test_a_file_with_an_event_that_is_too_large_is_refused_with_its_line():
    store = InMemoryEventStore(limits=LIMITS)
    with pytest.raises(TransferError, match="characters of the payload's JSON are 402") as refused:
        await import_events(store, file_of(numbered(1, "x" * 400, 3)))
    assert refused.value.line == 3
    assert await store.current_version(ORDER) == 1


async def test_a_file_may_hold_more_events_than_one_append(event_store_config):
    config = EventStoreConfig(dsn=event_store_config.dsn, limits=LIMITS)
    async with PostgresEventStore(config) as store:
        events = numbered(*range(11), "x" * 400)
        imported = await import_events(store, file_of(events[:10]))
        assert (imported.events, imported.appended) == (10, 10)
        assert [event.payload for event in await store.load(ORDER)] == [*range(10)]
        with pytest.raises(TransferError) as refused:
            await import_events(store, file_of(events))
        assert refused.value.line == 13
        assert await store.current_version(ORDER) == 11
