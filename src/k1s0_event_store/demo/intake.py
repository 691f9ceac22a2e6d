"""Taking events in so that it can be interrupted, resumed and repeated: each is stored once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeAlias

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import ConcurrencyError, DuplicateEventError, InvalidEventError
from k1s0_event_store.store import EventStore

BATCH = 5_000
"""Events that are imported together, about."""

Streams: TypeAlias = Mapping[StreamId, Sequence[EventEnvelope]]


@dataclass(frozen=True, slots=True)
class Intake:
    """`events` were offered for `streams`, `appended` of them were new."""

    events: int
    appended: int
    streams: int
    seconds: float


async def take_in(
    store: EventStore, streams: Streams, advance: Callable[[int], object] = lambda events: None
) -> Intake:
    """Import what the streams do not hold yet, many streams at a time.

    `advance` is told the number of events whenever some streams are done.
    """
    started = perf_counter()
    appended = 0
    for some in _batches(streams):
        appended += await _take_in(store, some)
        advance(sum(map(len, some.values())))
    offered = sum(map(len, streams.values()))
    return Intake(offered, appended, len(streams), perf_counter() - started)


def _batches(streams: Streams) -> Iterator[Streams]:
    batch: dict[StreamId, Sequence[EventEnvelope]] = {}
    size = 0
    for stream_id, events in streams.items():
        batch[stream_id] = events
        size += len(events)
        if size >= BATCH:
            yield batch
            batch, size = {}, 0
    yield batch


async def _take_in(store: EventStore, streams: Streams) -> int:
    events = [
        replace(event, version=version)
        for events in streams.values()
        for version, event in enumerate(events, 1)
    ]
    try:
        return await store.import_batch(events)
    except (InvalidEventError, DuplicateEventError, ConcurrencyError):
        # A stream has these events in another order, as after a run with fewer of them.
        return sum([await append_missing(store, *stream) for stream in streams.items()])


async def append_missing(store: EventStore, stream_id: StreamId, events: Sequence[EventEnvelope]) -> int:
    """Append those of `events` that the stream does not hold, in their order; returns how many.

    Begins again whenever another writer was faster, such as the same demo in a second window.
    """
    while True:
        stored = await store.load(stream_id)
        version = stored[-1].version if stored else 0
        known = {event.event_id for event in stored}
        missing = [event for event in events if event.event_id not in known]
        try:
            await store.append(stream_id, missing, expected_version=version)
        except (ConcurrencyError, DuplicateEventError):
            if await store.current_version(stream_id) == version:
                raise
        else:
            return len(missing)
