"""The format: a header, a line for each event in the order of the feed, a footer that counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic_core import from_json

from k1s0_event_store.envelope import (
    EventEnvelope,
    StreamId,
    as_utc,
    check_name,
    check_version,
    event_id_of,
    json_texts,
    unread_envelope,
)
from k1s0_event_store.exceptions import CorruptDataError, InvalidInputError, TransferError, shown
from k1s0_event_store.jsontext import as_written, decode, encode

T = TypeVar("T")

FORMAT: Final = "k1s0-event-store"
FORMAT_VERSION: Final = 1
_NEEDED: Final = frozenset(
    {"aggregate_type", "aggregate_id", "version", "event_id", "event_type", "payload", "occurred_at"}
)
_OPTIONAL: Final = frozenset({"metadata", "recorded_at", "position"})
_EXPORTED: Final = (
    "aggregate_type", "aggregate_id", "version", "event_id", "event_type", "occurred_at", "recorded_at",
    "position", "metadata",
)  # fmt: skip
"""What stands before the payload, as `event_line` writes it."""
_PAYLOAD: Final = b',"payload":'

FIRST_EVENT: Final = 2
"""The line of the first event; each has a line of its own."""


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
        payload, metadata = map(_one_line, json_texts(event))
    except (CorruptDataError, ValueError) as exc:
        raise CorruptDataError(
            f"version {event.version} of {event.stream_id} cannot be exported: {exc}"
        ) from exc
    return f'{encode(fields)[:-1]},"metadata":{metadata},"payload":{payload}}}\n'.encode()


def _one_line(text: str) -> str:
    """JSON text as it is stored, if that is one line and can be read back; else written anew."""
    kept = None if "\n" in text else as_written(text.encode())
    return encode(decode(text)) if kept is None else kept


def _line(fields: Mapping[str, Any]) -> bytes:
    return f"{encode(dict(fields))}\n".encode()


def read_events(lines: Iterable[bytes]) -> Iterator[EventEnvelope]:
    """The events of a file, with their versions; JSON stays the text that it is.

    Raises TransferError where it is no such file, is damaged, or was cut.
    """
    numbered = enumerate(lines, 1)
    _check_header(next(numbered, (1, b""))[1])
    number = FIRST_EVENT - 1
    for number, text in numbered:
        fields, payload = _quickly_split(text) or _split(text, number)
        if "events" in fields:
            _check_end(fields, payload, number)
            if next(numbered, None) is not None:
                raise TransferError("something stands after the last line of the file", number + 1)
            return
        yield _event(fields, payload, number)
    events = number - FIRST_EVENT + 1
    raise TransferError(f"the file was cut after {events:,} events: its last line is missing", number)


def _check_header(text: bytes) -> None:
    fields = _object(text, 1) if text else {}
    if fields.get("format") != FORMAT:
        raise TransferError(f'this is no export of events: the first line must have "format": "{FORMAT}"', 1)
    if fields.get("version") != FORMAT_VERSION:
        raise TransferError(
            f"format version {shown(fields.get('version')):.50} is not known to this version of the library, "
            f"which reads {FORMAT_VERSION}",
            1,
        )


def _check_end(fields: dict[str, Any], payload: str, number: int) -> None:
    events = number - FIRST_EVENT
    if payload or fields != {"events": events}:
        raise TransferError(
            f"the last line counts {shown(fields['events']):.50} events, but {events:,} stand before it",
            number,
        )


def _quickly_split(text: bytes) -> tuple[dict[str, Any], str] | None:
    """The fields but for the payload, and that as it is written, of a line as `event_line` writes it.

    None for any other line. What stands before the first payload must be an object of its own, so it was
    none inside another field.
    """
    head, found, payload = text.partition(_PAYLOAD)
    if not found or not payload.endswith(b"}\n"):
        return None
    kept = as_written(payload[:-2])
    if kept is None:
        return None
    try:
        return from_json(head + b"}", cache_strings="keys"), kept
    except ValueError:
        return None


def _split(text: bytes, number: int) -> tuple[dict[str, Any], str]:
    """The fields but for the payload, and that as JSON (empty: there is none), of any line.

    Raises TransferError.
    """
    fields = _object(text, number)
    if "payload" not in fields:
        return fields, ""
    try:
        return fields, encode(fields.pop("payload"))
    except ValueError as exc:
        raise TransferError(f"payload {exc}", number) from exc


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


def _event(fields: dict[str, Any], payload: str, number: int) -> EventEnvelope:
    try:
        _check_names(fields, payload)
        return _envelope(fields, payload)
    except InvalidInputError as exc:
        raise TransferError(str(exc), number) from exc


def _check_names(fields: dict[str, Any], payload: str) -> None:
    if tuple(fields) == _EXPORTED and payload:
        return
    there = fields.keys() | ({"payload"} if payload else set())
    missing, unknown = _NEEDED - there, there - _NEEDED - _OPTIONAL
    if missing:
        raise InvalidInputError(f"the event has no {', '.join(sorted(missing))}")
    if unknown:
        raise InvalidInputError(f"nothing is known of {', '.join(sorted(unknown))!r:.200}")


def _envelope(fields: dict[str, Any], payload: str) -> EventEnvelope:
    version = check_version(fields["version"], "version")
    if not version:
        raise InvalidInputError("the first version of a stream is 1, not 0")
    return unread_envelope(
        _stream_id(fields["aggregate_type"], fields["aggregate_id"]),
        check_name(fields["event_type"], "event_type"),
        payload,
        _metadata(fields.get("metadata")),
        _parsed(event_id_of, fields["event_id"], "event_id must be a UUID"),
        as_utc(
            _parsed(datetime.fromisoformat, fields["occurred_at"], "occurred_at must be an ISO 8601 time")
        ),
        version,
    )


def _stream_id(aggregate_type: object, aggregate_id: object) -> StreamId:
    check_name(aggregate_type, "aggregate_type")
    return _known_stream_id(aggregate_type, check_name(aggregate_id, "aggregate_id"))


_known_stream_id: Final = lru_cache(maxsize=10_000)(StreamId)
"""Streams come again; one object for each is quicker to compare."""


def _metadata(value: object) -> str:
    if value is None or value == {}:
        return "{}"
    if not isinstance(value, dict):
        raise InvalidInputError(f"metadata must be an object, not {type(value).__name__}")
    try:
        return encode(value)
    except ValueError as exc:
        raise InvalidInputError(f"metadata {exc}") from exc


def _parsed(parse: Callable[[str], T], text: object, rule: str) -> T:
    try:
        if isinstance(text, str):
            return parse(text)
    except ValueError:
        pass
    raise InvalidInputError(f"{rule}, not {shown(text):.100}")
