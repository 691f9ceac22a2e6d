"""Rows as PostgreSQL's COPY reads them in its binary form: the same bytes for every driver.

Made here, because codecs and adapters that an app registers with its driver would meddle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Final

from k1s0_event_store.envelope import MAX_VERSION, EventEnvelope, StreamId, metadata_text, payload_text
from k1s0_event_store.exceptions import InvalidEventError
from k1s0_event_store.runs import Run

EVENT_COLUMNS: Final = (
    "aggregate_type", "aggregate_id", "version", "event_id", "event_type", "payload", "metadata",
    "occurred_at",
)  # fmt: skip
"""What `event_rows` gives of an event."""

_BEGINNING: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_CHUNK: Final = 1 << 16
"""Bytes that are given to a driver together."""

_COUNT: Final = Struct("!h").pack(len(EVENT_COLUMNS))
_length: Final = Struct("!i").pack
_version_and_id: Final = Struct("!iqi16s").pack
_moment: Final = Struct("!iq").pack
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def event_rows(events: Sequence[EventEnvelope], runs: Iterable[Run]) -> Iterator[bytes]:
    """The rows of those of `events` that stand in `runs`, in their order; JSON is made of them on the way.

    Raises InvalidEventError for payload or metadata of which there is none.
    """
    wanted = {run.stream_id: run for run in runs}
    chunk, size = [_BEGINNING], 0
    stream_id, stream, first = None, b"", 0
    for place, event in enumerate(events):
        if event.stream_id is not stream_id:
            stream_id = event.stream_id
            stream, first = _stream(stream_id), _first_of(wanted.get(stream_id))
        if event.version >= first:
            chunk.append(_row(stream, event, place))
            size += len(chunk[-1])
            if size >= _CHUNK:
                yield b"".join(chunk)
                chunk, size = [], 0
    yield b"".join([*chunk, _END])


def _first_of(run: Run | None) -> int:
    """The first version that is wanted of a stream."""
    return MAX_VERSION + 1 if run is None else run.first


@lru_cache(maxsize=1024)
def _stream(stream_id: StreamId) -> bytes:
    """The beginning of every row of a stream."""
    return _COUNT + _text(stream_id.aggregate_type) + _text(stream_id.aggregate_id)


def _row(stream: bytes, event: EventEnvelope, place: int) -> bytes:
    try:
        payload, metadata = payload_text(event).encode(), metadata_text(event)
    except ValueError as exc:
        raise InvalidEventError(event.stream_id, place, f"payload or metadata {exc}") from exc
    return b"".join(
        (
            stream,
            _version_and_id(8, event.version, 16, event.event_id.bytes),
            _name(event.event_type),
            _length(len(payload)),
            payload,
            _NO_METADATA if metadata == "{}" else _text(metadata),
            _moment(8, (event.occurred_at - _EPOCH) // _MICROSECOND),
        )
    )


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


_name: Final = lru_cache(maxsize=1024)(_text)
_NO_METADATA: Final = _text("{}")
