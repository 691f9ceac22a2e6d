"""Writing the events of a store to a file, in the order of the feed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, Self

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import TransferError
from k1s0_event_store.feed import AllEvents, Cursor, EventFilter, FeedPage
from k1s0_event_store.store import EventStore
from k1s0_event_store.transfer.files import Checkpoint, PartFile, compression_of
from k1s0_event_store.transfer.lines import event_line, footer_line, header_line

_MOST_EVENTS: Final = 5_000
_MOST_BYTES: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events: all, those of some aggregate types, or one stream. Raises InvalidInputError."""

    aggregate_types: tuple[str, ...] | None = None
    stream_id: StreamId | None = None

    def __post_init__(self) -> None:
        EventFilter.of(self.aggregate_types, None)
        if self.stream_id is not None and self.aggregate_types is not None:
            raise TransferError("give aggregate types or a stream, not both")

    def fields(self) -> dict[str, Any]:
        """As the header and the checkpoint have it."""
        stream = self.stream_id and [self.stream_id.aggregate_type, self.stream_id.aggregate_id]
        types = None if self.aggregate_types is None else sorted(self.aggregate_types)
        return {"aggregate_types": types, "stream": stream}


EVERYTHING: Final = Selection()


@dataclass(frozen=True, slots=True)
class Exported:
    """How far an export is, also what was written before an interruption; `position` is the last event's."""

    events: int
    size: int
    position: int | None


Watch = Callable[[Exported], object]


async def export_events(
    store: EventStore,
    to: Path | BinaryIO,
    selection: Selection = EVERYTHING,
    *,
    resume: bool = False,
    watch: Watch = lambda exported: None,
) -> Exported:
    """Write what was committed when the export began; `watch` is told how far it is.

    A path gets its file when it is whole; .gz and .zst are compressed. After an interruption
    `resume` goes on and gives the file that it would have been. Raises TransferError, ConfigurationError.
    """
    if isinstance(to, Path):
        return await _export_to_path(store, to, selection, resume, watch)
    if resume:
        raise TransferError("only an export to a file can be resumed")
    writing = _Writing(_Unnoted(to), bytes, await _beginning(store, selection), watch)
    return await writing.run(store, selection)


async def _export_to_path(
    store: EventStore, path: Path, selection: Selection, resume: bool, watch: Watch
) -> Exported:
    compression, file = compression_of(path), PartFile(path)
    checkpoint = file.checkpoint(resume)
    if checkpoint is None:
        checkpoint = await _beginning(store, selection)
    else:
        await _check_same(store, selection, checkpoint)
    with file.opened(checkpoint.size) as part:
        return await _Writing(part, compression.compress, checkpoint, watch).run(store, selection)


async def _beginning(store: EventStore, selection: Selection) -> Checkpoint:
    if selection.stream_id is None:
        until = str(await store.latest_cursor())
    else:
        until = str(await store.current_version(selection.stream_id))
    return Checkpoint(selection.fields(), until)


async def _check_same(store: EventStore, selection: Selection, checkpoint: Checkpoint) -> None:
    """The export that was interrupted is of the same events, of the same store."""
    if checkpoint.selection != selection.fields():
        raise TransferError(
            f"the export that was interrupted is of {_shown(checkpoint.selection)}, not of "
            f"{_shown(selection.fields())}: resume it with the same filters"
        )
    if checkpoint.last is not None:
        aggregate_type, aggregate_id, version, event_id = checkpoint.last
        found = await store.load(StreamId(aggregate_type, aggregate_id), version, version)
        if [str(event.event_id) for event in found] != [event_id]:
            raise TransferError(
                f"the export that was interrupted is of another store: this one has no event {event_id}"
            )


def _shown(selection: dict[str, Any]) -> str:
    chosen = [f"{name} {value}" for name, value in selection.items() if value is not None]
    return ", ".join(chosen) or "all events"


class _Sink(Protocol):
    """Where bytes and checkpoints go."""

    def write(self, data: bytes) -> int: ...

    def save(self, checkpoint: Checkpoint) -> None: ...


class _Unnoted:
    """A file that cannot be gone on with."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._file.flush()
        self._size += len(data)
        return self._size

    def save(self, checkpoint: Checkpoint) -> None:
        """Nothing is kept."""


@dataclass(slots=True)
class _Writing:
    """One run of an export."""

    sink: _Sink
    compress: Callable[[bytes], bytes]
    checkpoint: Checkpoint
    watch: Watch

    async def run(self, store: EventStore, selection: Selection) -> Exported:
        if not self.checkpoint.size:
            self._write(header_line(self.checkpoint.selection))
        exported = self._exported(None)
        reading = _Reading.of(store, selection, self.checkpoint)
        try:
            async with aclosing(_chunks(reading.events)) as chunks:
                async for chunk in chunks:
                    exported = self._add(chunk, reading.place(chunk.last))
                    self.watch(exported)
        finally:
            await reading.close()
        self._write(footer_line(self.checkpoint.events))
        return replace(exported, size=self.checkpoint.size)

    def _add(self, chunk: _Chunk, place: str) -> Exported:
        last, key = chunk.last, chunk.last.stream_id
        self._write(b"".join(chunk.lines))
        self.checkpoint = replace(
            self.checkpoint,
            after=place,
            events=self.checkpoint.events + len(chunk.lines),
            last=(key.aggregate_type, key.aggregate_id, last.version, str(last.event_id)),
        )
        self.sink.save(self.checkpoint)
        return self._exported(last.position)

    def _write(self, text: bytes) -> None:
        self.checkpoint = replace(self.checkpoint, size=self.sink.write(self.compress(text)))

    def _exported(self, position: int | None) -> Exported:
        return Exported(self.checkpoint.events, self.checkpoint.size, position)


@dataclass(slots=True)
class _Chunk:
    """Lines that are written together."""

    last: EventEnvelope
    lines: list[bytes]


async def _chunks(events: AsyncIterator[EventEnvelope]) -> AsyncGenerator[_Chunk, None]:
    """Nothing is read beyond a chunk before it is used: a reading knows the place after its last event."""
    lines: list[bytes] = []
    size, last = 0, None
    async for last in events:
        lines.append(event_line(last))
        size += len(lines[-1])
        if len(lines) >= _MOST_EVENTS or size >= _MOST_BYTES:
            yield _Chunk(last, lines)
            lines, size = [], 0
    if last is not None and lines:
        yield _Chunk(last, lines)


class _Reading:
    """Events, and the place after each as text."""

    def __init__(self, events: AsyncIterator[EventEnvelope]) -> None:
        self.events = events

    @classmethod
    def of(cls, store: EventStore, selection: Selection, checkpoint: Checkpoint) -> _Reading:
        """From the place of the checkpoint to the end that was fixed."""
        if selection.stream_id is None:
            return _FeedReading.after(store, selection.aggregate_types, checkpoint)
        first = _version(checkpoint.after or "0") + 1
        return cls(store.stream(selection.stream_id, first, _version(checkpoint.until)))

    def place(self, last: EventEnvelope) -> str:
        return str(last.version)

    async def close(self) -> None:
        """Leave nothing under way."""


def _version(noted: str) -> int:
    try:
        return int(noted)
    except ValueError:
        raise TransferError("the place of the export that was interrupted is damaged: begin anew") from None


class _FeedReading(_Reading):
    """A reading of the feed, whose places are cursors."""

    def __init__(self, events: AllEvents) -> None:
        super().__init__(events)
        self._feed = events

    @classmethod
    def after(cls, store: EventStore, types: tuple[str, ...] | None, checkpoint: Checkpoint) -> Self:
        only, end = EventFilter.of(types, None), Cursor(checkpoint.until)

        async def read(after: Cursor | None, limit: int, *, until: Cursor | None = None) -> FeedPage:
            return await store.read_page(after, limit, only=only, until=end)

        after = None if checkpoint.after is None else Cursor(checkpoint.after)
        return cls(AllEvents(read, after, None, store.reads_ahead))

    def place(self, last: EventEnvelope) -> str:
        return str(self._feed.cursor)

    async def close(self) -> None:
        await self._feed.aclose()
