"""Reading events from a file into a store: each once, however often the import is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    DuplicateEventError,
    InvalidEventError,
    LimitExceededError,
    TransferError,
)
from k1s0_event_store.garbage import CollectionPaused
from k1s0_event_store.store import EventStore
from k1s0_event_store.transfer.files import PLAIN, Compression, compression_of
from k1s0_event_store.transfer.lines import FIRST_EVENT, read_events

_MOST_EVENTS: Final = 10_000
_MOST_BYTES: Final = 8_000_000
_BUFFER: Final = 1 << 18
_TAKEN: Final = "its event id is taken by another event"


@dataclass(frozen=True, slots=True)
class Imported:
    """How far an import is: `events` of the file were looked at, `appended` of them were new.

    `size` are the bytes that were read of the file, as it is on disk.
    """

    events: int
    appended: int
    size: int


Watch = Callable[[Imported], object]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events of lines that follow one another, and how far the file was read then."""

    first_line: int
    events: list[EventEnvelope]
    size: int
    error: TransferError | None = None
    """What is wrong with the line after them."""


async def import_events(
    store: EventStore, source: Path | BinaryIO, *, watch: Watch = lambda imported: None
) -> Imported:
    """Append the events of a file that the store does not hold yet; `watch` is told how far it is.

    What is there already must have the same id and type at the same version, and is skipped: an
    import that was interrupted is simply repeated. `recorded_at` and `position` are new. Raises
    TransferError, with the line: what stands before it is imported and stays.
    """
    if not isinstance(source, Path):
        return await _import(store, _as_they_come(_batches(source, PLAIN)), watch)
    compression = compression_of(source)
    with source.open("rb", _BUFFER) as file:
        return await _import(store, _read_ahead(_batches(file, compression)), watch)


async def _import(store: EventStore, batches: AsyncGenerator[_Batch, None], watch: Watch) -> Imported:
    imported = Imported(0, 0, 0)
    async with aclosing(batches):
        async for batch in batches:
            appended = imported.appended + await _import_batch(store, batch)
            if batch.error is not None:
                raise batch.error
            imported = Imported(imported.events + len(batch.events), appended, batch.size)
            watch(imported)
    return imported


async def _as_they_come(batches: Iterator[_Batch]) -> AsyncGenerator[_Batch, None]:
    """A pipe may have nothing to give: a thread that waits for it would not end with the process."""
    for batch in batches:
        yield batch


async def _read_ahead(batches: Iterator[_Batch]) -> AsyncGenerator[_Batch, None]:
    """The next batch is read in a thread while the server takes in this one."""
    reading = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
    try:
        while (batch := await asyncio.shield(reading)) is not None:
            reading = asyncio.ensure_future(asyncio.to_thread(next, batches, None))
            yield batch
    finally:
        # A thread cannot be stopped, and the file is closed after this.
        await asyncio.wait([reading])


def _batches(file: BinaryIO, compression: Compression) -> Iterator[_Batch]:
    """What an error leaves good is given with it."""
    lines = _Lines(file, compression)
    events, first_line = read_events(lines), FIRST_EVENT
    is_last = False
    while not is_last:
        found: list[EventEnvelope] = []
        error = None
        try:
            is_last = _fill(found, events, lines)
        except TransferError as exc:
            error, is_last = exc, True
        yield _Batch(first_line, found, lines.size, error)
        first_line += len(found)


def _fill(batch: list[EventEnvelope], events: Iterator[EventEnvelope], lines: _Lines) -> bool:
    """True after the last event; raises TransferError."""
    end = lines.read + _MOST_BYTES
    with CollectionPaused():
        for event in events:
            batch.append(event)
            if len(batch) >= _MOST_EVENTS or lines.read >= end:
                return False
    return True


class _Lines:
    """The lines of a file, counting bytes: `read` those of the lines."""

    def __init__(self, file: BinaryIO, compression: Compression) -> None:
        self._file = file
        self._compression = compression
        self.read = 0

    @property
    def size(self) -> int:
        """The bytes that were read; of a pipe those of the lines."""
        return self._file.tell() if self._file.seekable() else self.read

    def __iter__(self) -> Iterator[bytes]:
        for line in self._compression.lines(self._file):
            self.read += len(line)
            yield line


async def _import_batch(store: EventStore, batch: _Batch) -> int:
    """How many events were new; raises TransferError after what stands before the line is imported."""
    try:
        return await _import_or_retry(store, batch.events)
    except InvalidEventError as exc:
        place, refusal = exc.index, TransferError(exc.reason, batch.first_line + exc.index)
    except LimitExceededError as exc:
        if exc.index is None:
            return await _import_in_parts(store, batch, exc)
        place, refusal = exc.index, TransferError(str(exc), batch.first_line + exc.index)
    except DuplicateEventError as exc:
        place = _first_taken(batch.events, exc)
        refusal = TransferError(_TAKEN, batch.first_line + place)
    await _import_batch(store, replace(batch, events=batch.events[:place]))
    raise refusal


async def _import_in_parts(store: EventStore, batch: _Batch, error: LimitExceededError) -> int:
    """A batch that has more events than the store takes at once, in several; what else is wrong is raised."""
    if error.limit != "events":
        raise error
    starts = range(0, len(batch.events), error.most)
    parts = [
        replace(batch, first_line=batch.first_line + at, events=batch.events[at : at + error.most])
        for at in starts
    ]
    return sum([await _import_batch(store, part) for part in parts])


async def _import_or_retry(store: EventStore, events: Sequence[EventEnvelope]) -> int:
    """Others may be faster, also with the same events: then what they left is imported."""
    taken: tuple[UUID, ...] = ()
    while True:
        try:
            return await store.import_batch(events)
        except ConcurrencyError as exc:
            if exc.actual_version is None:  # The caller's transaction is over.
                raise
        except DuplicateEventError as exc:
            if exc.event_ids == taken:
                raise
            taken = exc.event_ids


def _first_taken(events: Sequence[EventEnvelope], error: DuplicateEventError) -> int:
    """Where an id stands for the second time, or one that the store has."""
    aggregate_id = error.stream_id.aggregate_id
    places = [
        place
        for place, event in enumerate(events)
        if event.event_id in error.event_ids and event.stream_id.aggregate_id == aggregate_id
    ]
    ids = [events[place].event_id for place in places]
    repeated = (place for number, place in enumerate(places) if events[place].event_id in ids[:number])
    return next(repeated, places[0])
