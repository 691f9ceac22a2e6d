"""Rows as PostgreSQL's COPY reads them in its binary form: the same bytes for every driver.

Made here, because codecs and adapters that an app registers with its driver would meddle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from struct import Struct
from typing import Final
from uuid import UUID

from k1s0_event_store.batch import Batch
from k1s0_event_store.envelope import MAX_VERSION, EventEnvelope, StreamId
from k1s0_event_store.postgres.connection import Steps
from k1s0_event_store.postgres.errors import RowsDroppedError
from k1s0_event_store.postgres.statements import Copy, Statement, schema_names, statement
from k1s0_event_store.runs import Run
from k1s0_event_store.texts import Texts

EVENT_COLUMNS: Final = (
    "aggregate_type", "aggregate_id", "version", "event_id", "event_type", "payload", "metadata",
    "occurred_at",
)  # fmt: skip
"""What stands in a row."""
_COPY_EVENTS: Final = """
COPY {events} ({copied}) FROM STDIN (FORMAT binary)"""

_BEGINNING: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_CHUNK: Final = 1 << 14
"""Bytes that are given to a driver together."""

_COUNT: Final = Struct("!h").pack(len(EVENT_COLUMNS))
_length: Final = Struct("!i").pack
_version_and_id: Final = Struct("!iqi16s").pack
_moment: Final = Struct("!iq").pack
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def copy_events(schema: str, rows: Iterator[bytes], events: int) -> Steps[None]:
    """Store `event_rows` or `batch_rows` of so many events; raises RowsDroppedError.

    COPY draws position and tx as an insert does, and the unique keys watch over versions and ids.
    """
    ((stored,),) = yield Copy(
        _copy_statement(schema), schema=schema, table="events", columns=EVENT_COLUMNS, data=rows
    )
    if stored < events:
        raise RowsDroppedError("a trigger on the events table dropped a row; nothing was stored", "22012")


@lru_cache(maxsize=64)
def _copy_statement(schema: str) -> Statement:
    return statement(_COPY_EVENTS, **schema_names(schema), copied=", ".join(EVENT_COLUMNS))


def event_rows(events: Sequence[EventEnvelope], texts: Texts, runs: Iterable[Run]) -> Iterator[bytes]:
    """The rows of those of `events` that stand in `runs`, in their order."""
    return _chunks(_rows_of_runs(events, texts, {run.stream_id: run for run in runs}))


def batch_rows(stream_id: StreamId, batch: Batch, first: int) -> Iterator[bytes]:
    """The rows of a batch whose first event has the version `first`."""
    stream = _stream(stream_id)
    return _chunks(_row(stream, *values) for values in zip(count(first), *batch.columns(), strict=False))


def _chunks(rows: Iterable[bytes]) -> Iterator[bytes]:
    chunk, size = [_BEGINNING], 0
    for row in rows:
        chunk.append(row)
        size += len(row)
        if size >= _CHUNK:
            yield b"".join(chunk)
            chunk, size = [], 0
    yield b"".join([*chunk, _END])


def _rows_of_runs(
    events: Sequence[EventEnvelope], texts: Texts, runs: Mapping[StreamId, Run]
) -> Iterator[bytes]:
    stream_id, stream, first = None, b"", 0
    for event, payload, metadata in zip(events, *texts, strict=True):
        if event.stream_id is not stream_id:
            stream_id = event.stream_id
            stream, first = _stream(stream_id), _first_of(runs.get(stream_id))
        if event.version < first:
            continue
        yield _row(
            stream, event.version, event.event_id, event.event_type, payload, metadata, event.occurred_at
        )


def _first_of(run: Run | None) -> int:
    """The first version that is wanted of a stream."""
    return MAX_VERSION + 1 if run is None else run.first


@lru_cache(maxsize=1024)
def _stream(stream_id: StreamId) -> bytes:
    """The beginning of every row of a stream."""
    return _COUNT + _text(stream_id.aggregate_type) + _text(stream_id.aggregate_id)


def _row(
    stream: bytes,
    version: int,
    event_id: UUID,
    event_type: str,
    payload: str,
    metadata: str,
    occurred_at: datetime,
) -> bytes:
    data = payload.encode()
    return b"".join(
        (
            stream,
            _version_and_id(8, version, 16, event_id.bytes),
            _name(event_type),
            _length(len(data)),
            data,
            _NO_METADATA if metadata == "{}" else _text(metadata),
            _moment(8, (occurred_at - _EPOCH) // _MICROSECOND),
        )
    )


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


_name: Final = lru_cache(maxsize=1024)(_text)
_NO_METADATA: Final = _text("{}")
