"""JSON text for the eye: its parts marked, nothing decoded, all of it escaped."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

_TOKEN: Final = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")(?P<key>\s*:)?|(?P<number>-?\d[\d.eE+-]*)|(?P<word>\btrue\b|\bfalse\b|\bnull\b)'
)
_LONGEST: Final = 65_536
"""Longer text is not marked: thousands of elements make a page slow."""


def marked(text: str) -> Markup:
    """`text` with keys, strings, numbers and words as elements of their own."""
    if len(text) > _LONGEST:
        return escape(text)
    parts: list[Markup] = []
    end = 0
    for found in _TOKEN.finditer(text):
        parts += [escape(text[end : found.start()]), _element(found)]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _element(found: re.Match[str]) -> Markup:
    if found["key"] is not None:
        return Markup('<span class="json-key">{}</span>{}').format(found["string"], found["key"])
    return Markup('<span class="json-{}">{}</span>').format(found.lastgroup, found[0])
