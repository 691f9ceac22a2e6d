"""JSON for programs, which is harmless in a terminal too."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

import typer


class JsonArray:
    """An array on stdout, each element on a line of its own, in constant memory.

    After an error its end is missing: half an answer is no JSON.
    """

    def __init__(self) -> None:
        self._before = "["

    def __enter__(self) -> Self:
        return self

    def add(self, element: str) -> None:
        """Print one element, given as JSON text."""
        typer.echo(f"{self._before}{element}", nl=False)
        self._before = ",\n "

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            typer.echo("[]" if self._before == "[" else "]")


def print_json(value: Any) -> None:
    """Print a value whole."""
    typer.echo(json.dumps(value, indent=2))


def escaped(text: str) -> str:
    """The same JSON text, without characters that would steer a terminal; numbers stay as they are."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
