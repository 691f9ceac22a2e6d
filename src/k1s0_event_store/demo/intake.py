"""Taking events in so that it can be interrupted, resumed and repeated: each is stored once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import ConcurrencyError, DuplicateEventError
from k1s0_event_store.store import EventStore

WRITERS = 8


@dataclass(frozen=True, slots=True)
class Intake:
    """`events` were offered for `streams`, `appended` of them were new."""

    events: int
    appended: int
    streams: int
    seconds: float


async def take_in(
    store: EventStore,
    streams: Mapping[StreamId, Sequence[EventEnvelope]],
    advance: Callable[[int], object] = lambda events: None,
) -> Intake:
    """Append what the streams do not hold yet, several streams at a time.

    `advance` is told the number of events whenever a stream is done.
    """
    started = perf_counter()
    waiting = iter(streams.items())

    async def writer() -> int:
        appended = 0
        for stream_id, events in waiting:
            appended += await append_missing(store, stream_id, events)
            advance(len(events))
        return appended

    writers = [asyncio.ensure_future(writer()) for _ in range(WRITERS)]
    try:
        appended = sum(await asyncio.gather(*writers))
    finally:
        await _stop(writers)
    offered = sum(map(len, streams.values()))
    return Intake(offered, appended, len(streams), perf_counter() - started)


async def _stop(writers: Sequence[asyncio.Future[int]]) -> None:
    """After an error or Ctrl-C: nothing may write on while the caller closes the store."""
    for task in writers:
        task.cancel()
    await asyncio.gather(*writers, return_exceptions=True)


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
