"""Values: what a stream is called, what an event carries, which version is expected."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict
from uuid import UUID, SafeUUID

from k1s0_event_store.exceptions import CorruptDataError, InvalidInputError, shown
from k1s0_event_store.jsontext import decode, decode_plain, encode

MAX_NAME_LENGTH: Final = 255
"""Characters that an aggregate type, an aggregate id or an event type may have."""

MAX_VERSION: Final = 2**63 - 1
_UNSTORED: Final = 0


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
        raise InvalidInputError(f"{what} must be a whole number from 0 to 2**63 - 1, not {shown(value)}")
    return value


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
    if 0 < len(value) <= MAX_NAME_LENGTH and value.isascii() and "\x00" not in value:
        return value
    return _check_unusual_name(value, what)


def _check_unusual_name(value: str, what: str) -> str:
    if not 0 < len(value) <= MAX_NAME_LENGTH:
        raise InvalidInputError(f"{what} must have 1 to {MAX_NAME_LENGTH} characters, not {len(value)}")
    if "\x00" in value or not _is_unicode(value):
        raise InvalidInputError(f"{what} must not hold NUL or lone surrogates: {shown(value)}")
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


_new: Final = object.__new__
_set_type: Final = StreamId.__dict__["aggregate_type"].__set__
_set_id: Final = StreamId.__dict__["aggregate_id"].__set__


def stored_stream_id(aggregate_type: str, aggregate_id: str) -> StreamId:
    """The name of a stream that is there: it was checked before."""
    stream_id = _new(StreamId)
    _set_type(stream_id, aggregate_type)
    _set_id(stream_id, aggregate_id)
    return stream_id


_set_int: Final = UUID.__dict__["int"].__set__
_set_is_safe: Final = UUID.__dict__["is_safe"].__set__
_UNKNOWN: Final = SafeUUID.unknown
_now: Final = time.time_ns
_random_bits: Final = random.getrandbits
_VERSION_7: Final = 0x7000 << 64 | 0b10 << 62


def new_event_id() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7): the time to a quarter of a microsecond, then 62 random bits.

    Ids that grow with time, also within a millisecond (section 6.2, method 3), keep the unique index on
    event ids compact. They are no secrets.
    """
    milliseconds, rest = divmod(_now(), 1_000_000)
    fraction = rest * 4_096 // 1_000_000
    return _uuid((milliseconds << 16 | fraction) << 64 | _VERSION_7 | _random_bits(62))


def _uuid(number: int) -> UUID:
    """The class itself checks its arguments for longer than all the rest of an event takes."""
    event_id = _new(UUID)
    _set_int(event_id, number)
    _set_is_safe(event_id, _UNKNOWN)
    return event_id


def event_id_of(text: str) -> UUID:
    """The UUID that `text` says, in half the time that the class takes; raises ValueError."""
    digits = text.replace("-", "")
    return _uuid(int(digits, 16)) if len(digits) == 32 else UUID(text)


@dataclass(frozen=True, init=False)
class EventEnvelope:
    """One event and what is known about it.

    New events need `stream_id`, `event_type` and `payload`. `version` (0 until stored),
    `recorded_at` (UTC, by the server) and `position` (place in the store-wide order) are set on
    the envelopes that a store returns. `occurred_at` is any timezone-aware time, kept in UTC with
    microseconds. `event_id` makes a repeated append harmless: it is unique per aggregate id.

    Raises InvalidInputError for parts of the wrong type. Payload and metadata are checked to be
    JSON when they are appended; those of stored events are decoded when you first look at them.
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
        version: int = _UNSTORED,
        recorded_at: datetime | None = None,
        position: int | None = None,
    ) -> None:
        if not isinstance(stream_id, StreamId):
            raise InvalidInputError(f"stream_id must be a StreamId, not {shown(stream_id)}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidInputError(f"metadata must be a mapping, not {type(metadata).__name__}")
        if event_id is not None and not isinstance(event_id, UUID):
            raise InvalidInputError(f"event_id must be a uuid.UUID, not {shown(event_id)}")
        fields = {
            "stream_id": stream_id,
            "event_type": check_name(event_type, "event_type"),
            "payload": payload,
            "metadata": {} if metadata is None else metadata,
            "event_id": new_event_id() if event_id is None else event_id,
            "occurred_at": datetime.now(UTC) if occurred_at is None else as_utc(occurred_at),
            "version": version if version is _UNSTORED else check_version(version, "version"),
            "recorded_at": recorded_at,
            "position": position,
        }
        _set_fields(self, fields)

    def __hash__(self) -> int:
        return hash(self.event_id)


def as_utc(value: object) -> datetime:
    """Return `value` in UTC if it is a timezone-aware time, else raise InvalidInputError."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInputError(f"occurred_at must be a timezone-aware datetime, not {shown(value)}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(
            f"occurred_at must be in the years 1 to 9999 in UTC, not {shown(value)}"
        ) from None


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
    envelope = _new(EventEnvelope)
    _set_fields(envelope, fields)
    return envelope


def undecoded_envelope(
    stream_id: StreamId,
    event_type: str,
    payload: str,
    metadata: str,
    event_id: UUID,
    occurred_at: bytes,
    version: int,
    recorded_at: bytes,
    position: int,
) -> EventEnvelope:
    """An envelope of what a server sends: JSON as text, times as microseconds since 2000 in eight bytes.

    They are decoded when somebody first looks; CorruptDataError comes then.
    """
    envelope = _new(EventEnvelope)
    _set_fields(
        envelope,
        {
            "stream_id": stream_id,
            "event_type": event_type,
            "event_id": event_id,
            "version": version,
            "position": position,
            "_payload": payload,
            "_metadata": metadata,
            "_occurred_at": occurred_at,
            "_recorded_at": recorded_at,
        },
    )
    return envelope


def unread_envelope(
    stream_id: StreamId,
    event_type: str,
    payload: str,
    metadata: str,
    event_id: UUID,
    occurred_at: datetime,
    version: int,
) -> EventEnvelope:
    """An envelope of what was checked while it was read from elsewhere, with JSON as text.

    That is decoded when somebody first looks. `occurred_at` is UTC.
    """
    envelope = _new(EventEnvelope)
    _set_fields(
        envelope,
        {
            "stream_id": stream_id,
            "event_type": event_type,
            "event_id": event_id,
            "occurred_at": occurred_at,
            "version": version,
            "recorded_at": None,
            "position": None,
            "_payload": payload,
            "_metadata": metadata,
        },
    )
    return envelope


def changed(envelope: EventEnvelope, **fields: Any) -> EventEnvelope:
    """A copy of a stored envelope with other values, taken as they are."""
    copy = _new(EventEnvelope)
    _set_fields(copy, {**envelope.__dict__, **fields})
    return copy


def json_texts(envelope: EventEnvelope) -> tuple[str, str]:
    """Payload and metadata as JSON text: as it is stored, or made of the object once somebody looked at that.

    Raises ValueError for an object of which there is no JSON.
    """
    fields = envelope.__dict__
    payload = encode(fields["payload"]) if "payload" in fields else fields["_payload"]
    if "metadata" not in fields:
        return payload, fields["_metadata"]
    return payload, encode(dict(fields["metadata"])) if fields["metadata"] else "{}"


_set_fields: Final = EventEnvelope.__dict__["__dict__"].__set__
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def utc_moment(sent: bytes) -> datetime:
    """The time that a server sent as microseconds since 2000 in eight bytes; raises CorruptDataError."""
    try:
        return _EPOCH + timedelta(0, 0, int.from_bytes(sent, "big", signed=True))
    except OverflowError as exc:
        raise CorruptDataError("a time is infinite, or not in the years 1 to 9999") from exc


class _Undecoded:
    """A field that is decoded when somebody first looks, and then kept.

    What was sent stands under the field's name with `_` before it. Python asks a descriptor without
    `__set__` only for what is not in the object's own dictionary.
    """

    __slots__ = ("_decoded", "_name", "_quickly", "_sent")

    def __init__(
        self, name: str, decoded: Callable[[Any], Any], quickly: Callable[[Any], Any] | None = None
    ) -> None:
        """`quickly` does what `decoded` does for most; it raises ValueError for the others."""
        self._name = name
        self._sent = f"_{name}"
        self._decoded = decoded
        self._quickly = decoded if quickly is None else quickly

    def __get__(self, envelope: EventEnvelope | None, owner: type) -> Any:
        fields: dict[str, Any] = envelope.__dict__ if envelope is not None else {}
        try:
            value = self._quickly(fields[self._sent])
        except KeyError:
            raise AttributeError(f"{owner.__name__!r} has no attribute {self._name!r}") from None
        except (ValueError, CorruptDataError):
            value = self._decode(fields)
        return fields.setdefault(self._name, value)  # one object for all, even if two threads look

    def _decode(self, fields: Mapping[str, Any]) -> Any:
        try:
            return self._decoded(fields[self._sent])
        except CorruptDataError as exc:
            where = f"stream {fields['stream_id']}, version {fields['version']}, {self._name}"
            raise CorruptDataError(f"{where}: {exc}") from exc


# Set from outside: inside the class a dataclass would take them for defaults.
for _name in ("payload", "metadata"):
    setattr(EventEnvelope, _name, _Undecoded(_name, decode, decode_plain))
for _name in ("occurred_at", "recorded_at"):
    setattr(EventEnvelope, _name, _Undecoded(_name, utc_moment))
