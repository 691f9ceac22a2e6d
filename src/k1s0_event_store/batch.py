"""A batch of events, checked and encoded: what every backend's append starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

from k1s0_event_store.envelope import MAX_NAME_LENGTH, EventEnvelope, StreamId
from k1s0_event_store.exceptions import DuplicateEventError, InvalidEventError, InvalidInputError, shown
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits
from k1s0_event_store.texts import texts_of


@dataclass(frozen=True, slots=True)
class Batch:
    """Columns of the events, in their order; all lists have the same length."""

    event_ids: list[UUID]
    event_types: list[str]
    payloads: list[str]
    metadata: list[str]
    occurred_at: list[datetime]

    def __len__(self) -> int:
        return len(self.event_ids)

    def columns(self) -> tuple[list[UUID], list[str], list[str], list[str], list[datetime]]:
        """All of them, as they stand above."""
        return self.event_ids, self.event_types, self.payloads, self.metadata, self.occurred_at

    def extend(self, other: Batch) -> None:
        """Add the events of `other`."""
        self.event_ids.extend(other.event_ids)
        self.event_types.extend(other.event_types)
        self.payloads.extend(other.payloads)
        self.metadata.extend(other.metadata)
        self.occurred_at.extend(other.occurred_at)


def check_stream_id(stream_id: object) -> StreamId:
    """Return `stream_id` if it is one, else raise InvalidInputError."""
    if not isinstance(stream_id, StreamId):
        raise InvalidInputError(
            f"stream_id must be a StreamId(aggregate_type=..., aggregate_id=...), not {shown(stream_id)}"
        )
    return stream_id


def encode_batch(
    stream_id: StreamId, events: Iterable[EventEnvelope], limits: Limits = DEFAULT_LIMITS
) -> Batch:
    """Check and encode `events` for `stream_id`; the caller's objects are only read.

    Raises InvalidInputError, InvalidEventError (with the index of the event), LimitExceededError or
    DuplicateEventError (an id twice in this batch).
    """
    check_stream_id(stream_id)
    if isinstance(events, EventEnvelope) or not isinstance(events, Iterable):
        raise InvalidInputError(f"events must be a list of EventEnvelope, not {type(events).__name__}")
    given = list(islice(events, limits.events + 1))
    event_ids, event_types, occurred_at = _checked(stream_id, given)
    limits.check_events(len(given))
    if limits.name != MAX_NAME_LENGTH:
        limits.check_names((stream_id.aggregate_type, stream_id.aggregate_id))
        limits.check_names(event_types, each_of_an_event=True)
    payloads, metadata = texts_of(given, limits)
    batch = Batch(event_ids, event_types, payloads, metadata, occurred_at)
    # The numbers are hashed several times faster than the ids.
    if len(batch) > 1 and len({event_id.int for event_id in batch.event_ids}) < len(batch):
        twice = tuple(i for i, times in Counter(batch.event_ids).items() if times > 1)
        raise DuplicateEventError(stream_id, twice, "an id stands twice in one batch")
    return batch


def _checked(stream_id: StreamId, events: Iterable[object]) -> tuple[list[UUID], list[str], list[datetime]]:
    """Ids, types and times of `events`, if they can be appended to the stream."""
    event_ids, event_types, occurred_at = [], [], []
    for index, event in enumerate(events):
        if not isinstance(event, EventEnvelope):
            raise InvalidEventError(stream_id, index, f"must be an EventEnvelope, not {type(event).__name__}")
        if event.stream_id is not stream_id and event.stream_id != stream_id:
            raise InvalidEventError(stream_id, index, f"belongs to stream {event.stream_id}")
        if event.version:
            raise InvalidEventError(
                stream_id, index, f"is stored already, as version {event.version}; make a new EventEnvelope"
            )
        event_ids.append(event.event_id)
        event_types.append(event.event_type)
        occurred_at.append(event.occurred_at)
    return event_ids, event_types, occurred_at
