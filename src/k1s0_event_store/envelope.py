"""Values: what a stream is called, what an event carries, which version is expected."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict
from uuid import UUID

from k1s0_event_store.exceptions import InvalidInputError

MAX_NAME_LENGTH: Final = 255
"""Characters that an aggregate type, an aggregate id or an event type may have."""

MAX_VERSION: Final = 2**63 - 1


class StreamState(Enum):
    """What may be expected of a stream besides a version."""

    EXISTS = "STREAM_EXISTS"

    def __str__(self) -> str:
        return self.value


STREAM_EXISTS: Final = StreamState.EXISTS
"""As `expected_version`: the stream must have events, at whatever version."""

ExpectedVersion: TypeAlias = int | Literal[StreamState.EXISTS] | None


class EventVersion(int):
    """Version of a stream: its number of events; the first event is 1, an unknown stream is 0."""

    def __new__(cls, value: int) -> Self:
        return super().__new__(cls, check_version(value, "a version"))


def check_version(value: object, what: str) -> int:
    """Return `value` if it is a whole number from 0 to 2**63 - 1, else raise InvalidInputError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_VERSION:
        raise InvalidInputError(f"{what} must be a whole number from 0 to 2**63 - 1, not {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """`value` for a message; Python refuses to print a number of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    return repr(value)


def check_expected_version(value: object) -> ExpectedVersion:
    """Return `value` if it can be expected of a stream, else raise InvalidInputError."""
    if value is None:
        return None
    if value is STREAM_EXISTS:
        return STREAM_EXISTS
    try:
        return check_version(value, "expected_version")
    except InvalidInputError as exc:
        raise InvalidInputError(
            f"{exc}. Use 0 for a new stream, n for a stream at version n, STREAM_EXISTS for any "
            "existing stream, None to append whatever the version is"
        ) from None


def check_name(value: object, what: str) -> str:
    """Return `value` if it can name a stream or an event type, else raise InvalidInputError."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a string, not {type(value).__name__}")
    if not 0 < len(value) <= MAX_NAME_LENGTH:
        raise InvalidInputError(f"{what} must have 1 to {MAX_NAME_LENGTH} characters, not {len(value)}")
    if "\x00" in value or not _is_unicode(value):
        raise InvalidInputError(f"{what} must not hold NUL or lone surrogates: {value!r}")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StreamId:
    """Name of a stream. Two ids are equal if both parts are; the printed form is for people."""

    aggregate_type: str
    aggregate_id: str

    def __post_init__(self) -> None:
        check_name(self.aggregate_type, "aggregate_type")
        check_name(self.aggregate_id, "aggregate_id")

    def __str__(self) -> str:
        return f"{self.aggregate_type}-{self.aggregate_id}"


def new_event_id() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7): milliseconds, then 74 random bits.

    Ids that grow with time keep the unique index on event ids compact. They are no secrets.
    """
    milliseconds = time.time_ns() // 1_000_000
    bits = random.getrandbits(74)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1)


@dataclass(frozen=True, init=False)
class EventEnvelope:
    """One event and what is known about it.

    New events need `stream_id`, `event_type` and `payload`. `version` (0 until stored),
    `recorded_at` (UTC, by the server) and `position` (place in the store-wide order) are set on
    the envelopes that a store returns. `occurred_at` is any timezone-aware time, kept in UTC with
    microseconds. `event_id` makes a repeated append harmless: it is unique per aggregate id.

    Raises InvalidInputError for parts of the wrong type. Payload and metadata are checked to be
    JSON when they are appended.
    """

    stream_id: StreamId
    event_type: str
    payload: Any
    metadata: Mapping[str, Any]
    event_id: UUID
    occurred_at: datetime
    version: int
    recorded_at: datetime | None
    position: int | None

    # Written out, because nine guarded assignments would be the dearest part of an append.
    def __init__(
        self,
        stream_id: StreamId,
        event_type: str,
        payload: Any,
        metadata: Mapping[str, Any] | None = None,
        event_id: UUID | None = None,
        occurred_at: datetime | None = None,
        version: int = 0,
        recorded_at: datetime | None = None,
        position: int | None = None,
    ) -> None:
        if not isinstance(stream_id, StreamId):
            raise InvalidInputError(f"stream_id must be a StreamId, not {stream_id!r}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidInputError(f"metadata must be a mapping, not {type(metadata).__name__}")
        if event_id is not None and not isinstance(event_id, UUID):
            raise InvalidInputError(f"event_id must be a uuid.UUID, not {event_id!r}")
        fields = {
            "stream_id": stream_id,
            "event_type": check_name(event_type, "event_type"),
            "payload": payload,
            "metadata": {} if metadata is None else metadata,
            "event_id": new_event_id() if event_id is None else event_id,
            "occurred_at": datetime.now(UTC) if occurred_at is None else _as_utc(occurred_at),
            "version": check_version(version, "version"),
            "recorded_at": recorded_at,
            "position": position,
        }
        object.__setattr__(self, "__dict__", fields)

    def __hash__(self) -> int:
        return hash(self.event_id)


def _as_utc(value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInputError(f"occurred_at must be a timezone-aware datetime, not {value!r}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(f"occurred_at must be in the years 1 to 9999 in UTC, not {value!r}") from None


class StoredFields(TypedDict):
    """All fields of an envelope that comes from a store; the times are UTC."""

    stream_id: StreamId
    event_type: str
    payload: Any
    metadata: Mapping[str, Any]
    event_id: UUID
    occurred_at: datetime
    version: int
    recorded_at: datetime
    position: int


def stored_envelope(fields: StoredFields) -> EventEnvelope:
    """An envelope of values that a store has checked before: several times faster than the class.

    For authors of backends. Takes `fields` over: give it a dictionary of its own.
    """
    envelope = object.__new__(EventEnvelope)
    object.__setattr__(envelope, "__dict__", fields)
    return envelope


def changed(envelope: EventEnvelope, **fields: Any) -> EventEnvelope:
    """A copy of a stored envelope with other values, taken as they are."""
    values = envelope.__dict__.copy()
    values.update(fields)
    copy = object.__new__(EventEnvelope)
    object.__setattr__(copy, "__dict__", values)
    return copy
