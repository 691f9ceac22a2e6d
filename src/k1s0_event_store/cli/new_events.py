"""New events from JSON that a person or a program wrote: one object, several, or an array of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn
from uuid import UUID

from k1s0_event_store.batch import encode_batch
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    InvalidEventError,
    InvalidInputError,
    LimitExceededError,
    shown,
)
from k1s0_event_store.jsontext import refuse_constant

_NEEDED: Final = ("event_type", "payload")
_FIELDS: Final = (*_NEEDED, "metadata", "event_id", "occurred_at")
_EXAMPLE: Final = '{"event_type": "OrderPaid", "payload": {"amount": 12}}'
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def read_new_events(data: bytes, stream_id: StreamId) -> list[EventEnvelope]:
    """The events, checked as an append would; raises InvalidInputError with the line, DuplicateEventError."""
    found = [(line, _event(fields, line, stream_id)) for line, fields in _Reader(_text(data)).values()]
    if not found:
        raise InvalidInputError("there are no events: write them as JSON, like " + _EXAMPLE)
    events = [event for _, event in found]
    try:
        encode_batch(stream_id, events)
    except InvalidEventError as error:
        _refuse(found[error.index][0], error.reason)
    except LimitExceededError as error:
        if error.index is None:
            raise
        _refuse(found[error.index][0], error)
    return events


def _refuse(line: int, reason: object) -> NoReturn:
    raise InvalidInputError(f"line {line}: {reason}")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(data.count(b"\n", 0, error.start) + 1, "this is no text in UTF-8")


def _event(fields: Any, line: int, stream_id: StreamId) -> EventEnvelope:
    if not isinstance(fields, dict) or not all(name in fields for name in _NEEDED):
        _refuse(line, f"an event is an object like {_EXAMPLE}")
    unknown = [name for name in fields if name not in _FIELDS]
    if unknown:
        _refuse(line, f"unknown: {', '.join(unknown)}; an event has {', '.join(_FIELDS)}")
    try:
        return EventEnvelope(
            stream_id,
            fields["event_type"],
            fields["payload"],
            fields.get("metadata"),
            _parsed(UUID, fields, "event_id", "a UUID"),
            _parsed(datetime.fromisoformat, fields, "occurred_at", "a time like 2026-01-31T12:00:00Z"),
        )
    except InvalidInputError as error:
        _refuse(line, error)


def _parsed(parse: Any, fields: dict[str, Any], name: str, wanted: str) -> Any:
    text = fields.get(name)
    try:
        return None if text is None else parse(text)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInputError(f"{name} must be {wanted}, not {shown(text):.100}") from None


class _Reader:
    """JSON values one after the other, with the lines on which they begin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder(
            parse_float=_exact_float, parse_constant=refuse_constant, object_pairs_hook=_object
        )

    def values(self) -> Iterator[tuple[int, Any]]:
        """All of them; of an array that the text begins with its elements."""
        if self._skip("["):
            yield from self._elements()
        while not self._is_at_end():
            yield self._value()

    def _elements(self) -> Iterator[tuple[int, Any]]:
        if self._skip("]"):
            return
        yield self._value()
        while self._skip(","):
            yield self._value()
        if not self._skip("]"):
            _refuse(self._line_here(), "bad JSON: a comma or the end of the array is missing")

    def _value(self) -> tuple[int, Any]:
        self._skip("")
        line = self._line_here()
        try:
            value, self._place = self._decoder.raw_decode(self._text, self._place)
        except json.JSONDecodeError as error:
            _refuse(error.lineno, f"bad JSON: {error.msg}")
        except (ValueError, RecursionError) as error:
            _refuse(line, f"bad JSON: {error}")
        return line, value

    def _skip(self, token: str) -> bool:
        """Go over spaces, and over `token` if it comes next."""
        spaces = _SPACE.match(self._text, self._place)
        self._place = self._place if spaces is None else spaces.end()
        is_next = self._text.startswith(token, self._place)
        self._place += len(token) * is_next
        return is_next

    def _is_at_end(self) -> bool:
        self._skip("")
        return self._place == len(self._text)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._place)
        self._counted = self._place
        return self._line


def _exact_float(text: str) -> float:
    """A number that a float keeps: it must not come back as another one."""
    number = float(text)
    try:
        is_exact = Decimal(text) == Decimal(repr(number))
    except ArithmeticError:
        is_exact = False
    if not is_exact:
        raise ValueError(f"the number {text:.50} does not fit a double; write it as a string")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in an object")
    return fields
