"""What a refused append means: pure rules, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from k1s0_event_store.envelope import STREAM_EXISTS, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.exceptions import ConcurrencyError, DuplicateEventError, StreamNotFoundError


def is_met(expected: ExpectedVersion, actual: int) -> bool:
    """True if a stream at `actual` is what `expected` asks for."""
    if expected is None:
        return True
    if expected is STREAM_EXISTS:
        return actual > 0
    return expected == actual


def require(stream_id: StreamId, expected: ExpectedVersion, actual: int) -> EventVersion:
    """`actual` if it meets `expected`; else raises ConcurrencyError or StreamNotFoundError."""
    if is_met(expected, actual):
        return EventVersion(actual)
    kind = StreamNotFoundError if expected is STREAM_EXISTS else ConcurrencyError
    raise kind(stream_id, expected, actual)


def first_answer(
    stream_id: StreamId,
    expected: ExpectedVersion,
    event_ids: Sequence[UUID],
    known: Mapping[UUID, int | None],
) -> EventVersion:
    """What the first append of this very batch returned; else raises DuplicateEventError.

    `known` holds the ids of the batch that are taken under this aggregate id, with their version
    in this stream (None: in a stream of another aggregate type). It must not be empty.
    """
    first = known.get(event_ids[0])
    if first is None:
        raise _duplicate(stream_id, known)
    if any(known.get(event_id) != first + i for i, event_id in enumerate(event_ids)):
        raise _duplicate(stream_id, known)
    if isinstance(expected, int) and first != expected + 1:
        raise _duplicate(stream_id, known)
    return EventVersion(first + len(event_ids) - 1)


def _duplicate(stream_id: StreamId, known: Mapping[UUID, int | None]) -> DuplicateEventError:
    return DuplicateEventError(stream_id, tuple(known), "an event with this id is stored already")
