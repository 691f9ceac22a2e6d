"""Reading events from a file into a store: each once, however often the import is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    DuplicateEventError,
    InvalidEventError,
    TransferError,
)
from k1s0_event_store.lanes import in_lanes
from k1s0_event_store.store import EventStore
from k1s0_event_store.transfer.files import PLAIN, Compression, compression_of
from k1s0_event_store.transfer.lines import EventLine, read_lines

_MOST_EVENTS: Final = 5_000
_MOST_BYTES: Final = 8_000_000
_LANES: Final = 16
_MOST_ENDS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Imported:
    """How far an import is: `events` of the file were looked at, `appended` of them were new.

    `size` are the bytes that were read of the file, as it is on disk.
    """

    events: int
    appended: int
    size: int


Watch = Callable[[Imported], object]
Run = Sequence[EventLine]
"""Lines of one stream, in their order."""


async def import_events(
    store: EventStore, source: Path | BinaryIO, *, watch: Watch = lambda imported: None
) -> Imported:
    """Append the events of a file that the store does not hold yet; `watch` is told how far it is.

    What is there already must have the same id and type at the same version, and is skipped: an
    import that was interrupted is simply repeated. `recorded_at` and `position` are new. Raises
    TransferError, with the line: what stands before it is imported and stays.
    """
    if not isinstance(source, Path):
        return await _Importing(store, watch).run(_Source(source, PLAIN))
    compression = compression_of(source)
    with source.open("rb") as file:
        return await _Importing(store, watch).run(_Source(file, compression))


class _Source:
    """A file, read in batches."""

    def __init__(self, file: BinaryIO, compression: Compression) -> None:
        self._file = file
        self._compression = compression
        self._read = 0

    @property
    def size(self) -> int:
        """The bytes that were read; of a pipe those of the lines."""
        return self._file.tell() if self._file.seekable() else self._read

    def batches(self) -> Iterator[list[EventLine]]:
        """Raises TransferError after what was good has been given."""
        batch: list[EventLine] = []
        begun = 0
        try:
            for line in read_lines(self._lines()):
                batch.append(line)
                if len(batch) >= _MOST_EVENTS or self._read - begun >= _MOST_BYTES:
                    yield batch
                    batch, begun = [], self._read
        except TransferError:
            if batch:
                yield batch
            raise
        yield batch

    def _lines(self) -> Iterator[bytes]:
        for line in self._compression.lines(self._file):
            self._read += len(line)
            yield line


@dataclass(slots=True)
class _Importing:
    """One run of an import."""

    store: EventStore
    watch: Watch
    events: int = 0
    appended: int = 0
    lanes: int = field(init=False)
    ends: dict[StreamId, int] = field(default_factory=dict)
    """Where streams ended when this import appended to them: what follows needs no look before."""

    def __post_init__(self) -> None:
        # A caller's session does one thing at a time.
        self.lanes = _LANES if self.store.reads_ahead else 1

    async def run(self, source: _Source) -> Imported:
        imported = Imported(0, 0, 0)
        for batch in source.batches():
            await self._import(batch)
            imported = Imported(self.events, self.appended, source.size)
            self.watch(imported)
        return imported

    async def _import(self, batch: Sequence[EventLine]) -> None:
        """Several streams side by side; an error ends its stream, the first is raised when all are done."""
        errors: list[TransferError] = []

        async def one(run: Run) -> None:
            good, error = _contiguous(run)
            try:
                await self._append_missing(good)
            except TransferError as exc:
                error = exc
            if error is not None:
                errors.append(error)

        await in_lanes([[run] for run in _runs(batch).values()], one, self.lanes)
        if errors:
            raise min(errors, key=lambda error: error.line or 0)
        self.events += len(batch)

    async def _append_missing(self, run: Run) -> None:
        """Append what the stream does not hold; others may be faster, also with the same events."""
        run = await self._without_stored(run)
        while run:
            try:
                await self._send(run)
                run = ()
            except InvalidEventError as exc:
                await self._refuse(run, exc.index, exc.reason)
            except ConcurrencyError as exc:
                _refuse_gap(run[0], exc)
                run = await self._without_stored(run)
            except DuplicateEventError as exc:
                left = await self._without_stored(run)
                if len(left) == len(run):
                    await self._refuse(run, _first_taken(run, exc), "its event id is taken by another event")
                run = left

    async def _without_stored(self, run: Run) -> Run:
        """Skip what is there already; raises TransferError where something else is."""
        if not run or self.ends.pop(run[0].event.stream_id, None) == run[0].version - 1:
            return run
        stream_id = run[0].event.stream_id
        stored = await self.store.load(stream_id, run[0].version, run[-1].version)
        for line, event in zip(run, stored, strict=False):
            _check_same(line, event)
        return run[len(stored) :]

    async def _refuse(self, run: Run, place: int, reason: str) -> NoReturn:
        """Append what stands before the line that is refused; raises TransferError."""
        await self._append_missing(run[:place])
        raise TransferError(reason, run[place].number)

    async def _send(self, run: Run) -> None:
        events = [line.event for line in run]
        await self.store.append(run[0].event.stream_id, events, run[0].version - 1)
        self.appended += len(run)
        self.ends[run[-1].event.stream_id] = run[-1].version
        if len(self.ends) > _MOST_ENDS:
            del self.ends[next(iter(self.ends))]


def _runs(batch: Sequence[EventLine]) -> dict[StreamId, list[EventLine]]:
    runs: dict[StreamId, list[EventLine]] = {}
    for line in batch:
        runs.setdefault(line.event.stream_id, []).append(line)
    return runs


def _contiguous(run: Run) -> tuple[Run, TransferError | None]:
    """The lines up to the first one that does not follow, and what is wrong with that."""
    for place, (line, following) in enumerate(pairwise(run), 1):
        if following.version != line.version + 1:
            return run[:place], TransferError(
                f"version {following.version} of {line.event.stream_id} follows version {line.version}",
                following.number,
            )
    return run, None


def _check_same(line: EventLine, stored: EventEnvelope) -> None:
    mine = (line.event.event_id, line.event.event_type)
    if mine != (stored.event_id, stored.event_type):
        raise TransferError(
            f"version {line.version} of {stored.stream_id} is {mine[1]} {mine[0]} in the file, but "
            f"{stored.event_type} {stored.event_id} in the store",
            line.number,
        )


def _refuse_gap(line: EventLine, error: ConcurrencyError) -> None:
    """A stream that is further than expected was only looked at too early."""
    if error.actual_version is not None and error.actual_version < line.version:
        raise TransferError(
            f"version {line.version} of {error.stream_id} is next in the file, but the store has only "
            f"{error.actual_version}: import what comes before it first",
            line.number,
        ) from error


def _first_taken(run: Run, error: DuplicateEventError) -> int:
    """Where an id stands for the second time, or one that the store has."""
    ids = [line.event.event_id for line in run]
    taken = {event_id for event_id in error.event_ids if ids.count(event_id) == 1}
    places = (place for place, event_id in enumerate(ids) if event_id in taken or event_id in ids[:place])
    return next(places, 0)
