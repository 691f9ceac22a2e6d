"""JSON as the store keeps it: text on the way in, text on the way out, nothing lost between.

Values are encoded as pydantic does (`Decimal`, `UUID`, `datetime`, dataclasses, models). What
PostgreSQL's jsonb cannot keep (NaN, infinities, NUL characters, lone surrogates) is refused here.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from k1s0_event_store.exceptions import CorruptDataError

_SUSPECTS = (b"NaN", b"Infinity", b"\\u0000")


def encode(value: object) -> str:
    """JSON text of `value`; raises ValueError with the reason where there is none."""
    if isinstance(value, dict) and not value:
        return "{}"
    try:
        text = to_json(value)
    except (PydanticSerializationError, ValueError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    # The three are rare and may stand in harmless strings: look closer only where one was seen.
    for suspect in _SUSPECTS:
        if suspect in text:
            _check_closely(text)
            break
    return text.decode()


def _check_closely(text: bytes) -> None:
    _refuse_nul(json.loads(text, parse_constant=_refuse_constant))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name} is no JSON number; use null or a string")


def _refuse_nul(value: object) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            if "\x00" in item:
                raise ValueError("PostgreSQL cannot keep the character \\u0000 in JSON; remove it")
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item


def decode(text: str) -> Any:
    """The value of stored JSON text; integers of any size are exact."""
    if text == "{}":
        return {}
    try:
        return from_json(text)
    except ValueError:
        return _decode_deep(text)


def _decode_deep(text: str) -> Any:
    """The fast parser stops at 200 levels, the one of the standard library later."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CorruptDataError(f"stored JSON cannot be decoded: {exc}") from exc
