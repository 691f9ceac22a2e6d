"""JSON as the store keeps it: text on the way in, text on the way out, nothing lost between.

Values are encoded as pydantic does (`Decimal`, `UUID`, `datetime`, dataclasses, models). What is
no JSON (NaN, infinities), what PostgreSQL cannot keep as text (NUL characters, lone surrogates), and what
nobody could read back (numbers of more than 4,300 digits) is refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final, NoReturn

from pydantic_core import PydanticSerializationError, from_json, to_json

from k1s0_event_store.exceptions import CorruptDataError

MAX_DIGITS: Final = 4300
"""Digits that a number may have: more are never read back (Python's own limit, and the parser's)."""

_ONLY_DIGITS: Final = bytes(
    ord("0") if chr(byte).isascii() and chr(byte).isdigit() else 0 for byte in range(256)
)
_ZEROS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE: Final = 309
"""Digits of a number that a float may not reach."""
_TOO_LONG: Final = b"0" * (MAX_DIGITS + 1)
_DEEPEST_MARGIN: Final = 20
_PART: Final = re.compile(
    r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|\{\s*\}|\[\s*\]|[{}\[\],:]|[^{}\[\],:"\s]+', re.DOTALL
)
"""A string (the last one may be cut), an empty object or array, a sign, a number or a word."""


_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_SIGNS: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_STEPS: Final = {ord("["): 1, ord("]"): -1}
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def encode(value: object) -> str:
    """JSON text of `value`; raises ValueError with the reason where there is none."""
    try:
        text = to_json(value).decode()
        if _is_suspect(text):
            _check_closely(text)
    except (PydanticSerializationError, ValueError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    return text


def as_written(text: bytes) -> str | None:
    """`text` without a change, if it is JSON that `decode` reads back; None if that takes a closer look."""
    try:
        kept = text.decode()
        if ("\\" in kept and "\\u0000" in kept) or _may_be_infinite(text):
            return None
        from_json(kept, allow_inf_nan=False)
    except ValueError:
        return None
    return kept


def _may_be_infinite(text: bytes) -> bool:
    """True if a number in `text` may be larger than any float, or a string looks like one."""
    numbers = text.translate(_ZEROS, b"+")
    return b"e000" in numbers or (len(text) >= _HUGE and b"0" * _HUGE in numbers)


def _is_suspect(text: str) -> bool:
    """True if `text` holds what may have to be refused, or a harmless string that looks like it."""
    # One character is looked for many times faster than several, and than a byte in bytes.
    if ("N" in text and "NaN" in text) or ("I" in text and "Infinity" in text):
        return True
    if "\\" in text and "\\u0000" in text:
        return True
    return len(text) > MAX_DIGITS and _TOO_LONG in text.encode().translate(_ONLY_DIGITS)


def _check_closely(text: str) -> None:
    _refuse_nul(json.loads(text, parse_constant=refuse_constant, parse_int=_refuse_long))


def refuse_constant(name: str) -> NoReturn:
    """For a JSON parser that meets NaN or an infinity: raises ValueError."""
    raise ValueError(f"{name} is no JSON number; use null or a string")


def _refuse_long(digits: str) -> None:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits; use a string")


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


def nesting(text: str) -> int:
    """How deep arrays and objects nest in JSON text: 0 for a number, 1 for `{}`."""
    if "\\" in text:
        text = _STRING.sub("", text)
    # Strings without brackets are empty now; where others are left they have to be looked for.
    signs = text.encode().translate(_BRACKETS, _NO_SIGNS).replace(b'""', b"")
    if b'"' in signs:
        signs = _STRING.sub("", signs.decode()).encode()
    return max(accumulate(map(_STEPS.__getitem__, signs)), default=0)


def nests_deeper(value: object, most: int) -> bool:
    """True if lists, tuples and dictionaries nest deeper in `value`, or it holds itself."""
    level = {id(value): value}
    for _ in range(most):
        level = {id(part): part for whole in level.values() for part in _parts(whole)}
    return any(isinstance(part, dict | list | tuple) for part in level.values())


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


decode_plain: Final = from_json
"""`decode` for most texts, without a call of Python: raises ValueError for what takes a closer look."""


def decode(text: str) -> Any:
    """The value of stored JSON text; integers of any size are exact."""
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


def indented(text: str) -> str:
    """JSON text with a line for each member: nothing is decoded, its end may be cut off, it may be deep."""
    lines, depth = [""], 0
    for part in _PART.findall(text):
        if part in {"}", "]"}:
            depth -= 1
            lines.append(_margin(depth))
        lines[-1] += ": " if part == ":" else part
        if part in {"{", "[", ","}:
            depth += part != ","
            lines.append(_margin(depth))
    return "\n".join(lines)


def _margin(depth: int) -> str:
    return "  " * min(depth, _DEEPEST_MARGIN)
