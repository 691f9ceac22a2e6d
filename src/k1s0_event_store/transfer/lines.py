"""The format: a header, a line for each event in the order of the feed, a footer that counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from k1s0_event_store.envelope import EventEnvelope, StreamId, check_version
from k1s0_event_store.exceptions import CorruptDataError, InvalidInputError, TransferError
from k1s0_event_store.jsontext import decode, encode

T = TypeVar("T")

FORMAT: Final = "k1s0-event-store"
FORMAT_VERSION: Final = 1
_NEEDED: Final = frozenset(
    {"aggregate_type", "aggregate_id", "version", "event_id", "event_type", "payload", "occurred_at"}
)
_OPTIONAL: Final = frozenset({"metadata", "recorded_at", "position"})


@dataclass(frozen=True, slots=True)
class EventLine:
    """A new event, the version it has to get, and where it stands in the file."""

    number: int
    version: int
    event: EventEnvelope


def header_line(selection: Mapping[str, Any]) -> bytes:
    """The first line; `selection` says what the file is about."""
    return _line({"format": FORMAT, "version": FORMAT_VERSION, **selection})


def footer_line(events: int) -> bytes:
    """The last line: a file without it was cut."""
    return _line({"events": events})


def event_line(event: EventEnvelope) -> bytes:
    """One event; raises CorruptDataError for what is stored but is no JSON."""
    fields = {
        "aggregate_type": event.stream_id.aggregate_type,
        "aggregate_id": event.stream_id.aggregate_id,
        "version": event.version,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
        "position": event.position,
    }
    try:
        # Each on its own: inside another object the deepest payload would be one level too deep.
        payload, metadata = encode(event.payload), encode(dict(event.metadata))
    except ValueError as exc:
        raise CorruptDataError(
            f"version {event.version} of {event.stream_id} cannot be exported: {exc}"
        ) from exc
    return f'{encode(fields)[:-1]},"metadata":{metadata},"payload":{payload}}}\n'.encode()


def _line(fields: Mapping[str, Any]) -> bytes:
    return f"{encode(dict(fields))}\n".encode()


def read_lines(lines: Iterable[bytes]) -> Iterator[EventLine]:
    """The events of a file; raises TransferError where it is none, is damaged, or was cut."""
    numbered = enumerate(lines, 1)
    _check_header(next(numbered, (1, b""))[1])
    events = number = 0
    for number, text in numbered:
        fields = _object(text, number)
        if "events" in fields:
            _check_end(fields, events, number)
            if next(numbered, None) is not None:
                raise TransferError("something stands after the last line of the file", number + 1)
            return
        yield _event(fields, number)
        events += 1
    raise TransferError(f"the file was cut after {events:,} events: its last line is missing", number or 1)


def _check_header(text: bytes) -> None:
    fields = _object(text, 1) if text else {}
    if fields.get("format") != FORMAT:
        raise TransferError(f'this is no export of events: the first line must have "format": "{FORMAT}"', 1)
    if fields.get("version") != FORMAT_VERSION:
        raise TransferError(
            f"format version {fields.get('version')!r:.50} is not known to this version of the library, "
            f"which reads {FORMAT_VERSION}",
            1,
        )


def _check_end(fields: dict[str, Any], events: int, number: int) -> None:
    if fields != {"events": events}:
        raise TransferError(
            f"the last line counts {fields['events']!r:.50} events, but {events:,} stand before it", number
        )


def _object(text: bytes, number: int) -> dict[str, Any]:
    if not text.endswith(b"\n"):
        raise TransferError("the file was cut in the middle of this line", number)
    try:
        fields = decode(text.decode())
    except (CorruptDataError, UnicodeDecodeError) as exc:
        raise TransferError(f"this is no JSON: {exc.__cause__ or exc}", number) from exc
    if not isinstance(fields, dict):
        raise TransferError("this is no JSON object", number)
    return fields


def _event(fields: dict[str, Any], number: int) -> EventLine:
    missing, unknown = _NEEDED - fields.keys(), fields.keys() - _NEEDED - _OPTIONAL
    if missing:
        raise TransferError(f"the event has no {', '.join(sorted(missing))}", number)
    if unknown:
        raise TransferError(f"nothing is known of {', '.join(sorted(unknown))!r:.200}", number)
    if fields["version"] == 0:
        raise TransferError("the first version of a stream is 1, not 0", number)
    try:
        return EventLine(number, check_version(fields["version"], "version"), _envelope(fields))
    except InvalidInputError as exc:
        raise TransferError(str(exc), number) from exc


def _envelope(fields: dict[str, Any]) -> EventEnvelope:
    return EventEnvelope(
        StreamId(fields["aggregate_type"], fields["aggregate_id"]),
        fields["event_type"],
        fields["payload"],
        fields.get("metadata"),
        _parsed(UUID, fields["event_id"], "event_id must be a UUID"),
        _parsed(datetime.fromisoformat, fields["occurred_at"], "occurred_at must be an ISO 8601 time"),
    )


def _parsed(parse: Callable[[str], T], text: object, rule: str) -> T:
    try:
        if isinstance(text, str):
            return parse(text)
    except ValueError:
        pass
    raise InvalidInputError(f"{rule}, not {text!r:.100}")
