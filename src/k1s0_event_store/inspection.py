"""What an operator sees of a store: values, as the command line and the browser show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from k1s0_event_store.envelope import StreamId


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFilter:
    """Which streams are wanted; what is None or empty wants all.

    `aggregate_type`: exactly this one. `contains`: a text anywhere in the aggregate id, letters as
    they are. `min_events`, `max_events`: how many events a stream has. `changed_since`,
    `changed_before`: when its latest event was appended.
    """

    aggregate_type: str | None = None
    contains: str = ""
    min_events: int | None = None
    max_events: int | None = None
    changed_since: datetime | None = None
    changed_before: datetime | None = None

    @property
    def leaves_out(self) -> bool:
        """True if streams of the type may be unwanted."""
        return replace(self, aggregate_type=None) != ALL_STREAMS


ALL_STREAMS: Final = StreamFilter()


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream without its events; `version` is the number of its events."""

    stream_id: StreamId
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Streams by key. The next page comes after `next_after`; None: there are no more.

    A page with fewer streams than were asked for, and a next one, was ended by how many were looked at.
    """

    streams: Sequence[StreamHead]
    next_after: StreamId | None


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as text: what is shown of it is never decoded, so that nothing stored can break a page.

    `payload` and `metadata` are JSON as it was written, cut at the length that was asked for;
    `payload_length` is the whole payload's, in characters.
    """

    stream_id: StreamId
    version: int
    position: int
    event_id: UUID
    event_type: str
    occurred_at: datetime
    recorded_at: datetime
    payload: str
    payload_length: int
    metadata: str
    correlation_id: str | None
    causation_id: str | None


@dataclass(frozen=True, slots=True)
class Relatives:
    """Events of one correlation, by position, with all ancestors of the one in question.

    `complete`: False where only the events around it were searched, or there were more than asked for.
    """

    events: Sequence[EventView]
    complete: bool


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How many events of one type there are, about; `last_seen` is the newest of those looked at."""

    aggregate_type: str
    event_type: str
    events: int
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class TypeShares:
    """Types by frequency. Unless `exact`, from a sample of `looked_at` events: rare types may miss."""

    types: Sequence[TypeShare]
    looked_at: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Interval:
    """How many events were recorded from `begins` on, until the next interval; about, by positions."""

    begins: datetime
    events: int


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table on disk, in bytes; `rows` is what the server estimates, None before it ever did."""

    name: str
    rows: int | None
    table_bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """A stored snapshot without its state; `length` is that of its JSON, in characters."""

    version: int
    schema_version: int
    taken_at: datetime
    length: int


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What was committed since the last look, newest last; about `more` were left out.

    `seen` is where the next look begins.
    """

    events: Sequence[EventView]
    more: int
    seen: str
