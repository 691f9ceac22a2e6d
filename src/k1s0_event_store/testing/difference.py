"""Where two values, or two lists of events, differ: lines for those who read a failed test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import takewhile, zip_longest
from typing import Any, Final

from pydantic import BaseModel

_NOTHING: Final = object()


def event_differences(expected: Sequence[Any], got: Sequence[Any]) -> Iterator[str]:
    """Lines for events that differ, are missing or unexpected, but for those alike at either end."""
    begin = _alike(expected, got)
    expected, got = expected[begin:], got[begin:]
    end = _alike(expected[::-1], got[::-1])
    pairs = zip_longest(expected[: len(expected) - end], got[: len(got) - end], fillvalue=_NOTHING)
    for number, pair in enumerate(pairs, begin + 1):
        yield from _of_pair(f"event {number}", *pair)


def differences(expected: Any, got: Any, path: str = "") -> Iterator[str]:
    """A line for each place where `got` is another value, however deep in models, dictionaries and lists."""
    if expected == got:
        return
    parts, found = _parts(expected), _parts(got)
    if parts is None or found is None or type(expected) is not type(got) or parts.keys() != found.keys():
        yield f"{path.lstrip('.') or 'it'}: expected {expected!r}, got {got!r}"
        return
    for step, part in parts.items():
        yield from differences(part, found[step], path + step)


def _alike(expected: Sequence[Any], got: Sequence[Any]) -> int:
    """How many are alike before the first that is not."""
    pairs = zip(expected, got, strict=False)
    return sum(1 for _ in takewhile(lambda pair: not any(differences(*pair)), pairs))


def _of_pair(what: str, expected: Any, got: Any) -> Iterator[str]:
    if got is _NOTHING:
        yield f"{what} is missing: {expected!r}"
    elif expected is _NOTHING:
        yield f"{what} was not expected: {got!r}"
    elif type(expected) is not type(got):
        yield f"{what}: expected {expected!r}, got {got!r}"
    elif found := list(differences(expected, got)):
        yield f"{what}, {type(expected).__name__}:"
        yield from (f"  {line}" for line in found)


def _parts(value: Any) -> dict[str, Any] | None:
    """What a value is made of, by the step that leads there."""
    if isinstance(value, BaseModel):
        return {f".{name}": part for name, part in value}
    if is_dataclass(value):
        return {f".{field.name}": getattr(value, field.name) for field in fields(value) if field.compare}
    if isinstance(value, Mapping):
        return {f".{key}": part for key, part in value.items()}
    if isinstance(value, list | tuple):
        return {f"[{index}]": part for index, part in enumerate(value)}
    return None
