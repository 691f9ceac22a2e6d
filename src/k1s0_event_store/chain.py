"""The hash chain of a stream: each event's link holds the event and, by the link before, all before it.

The link is the SHA-256 of the link before (nothing, for the first event) and the JSON array of the event's
fields. The same is done by a trigger in PostgreSQL (`postgres/chain.py`), and by anybody in any language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

BEGINNING: Final = b""
"""What stands before the link of a stream's first event."""


class Content(NamedTuple):
    """What a link is made of: times are microseconds since 1970 (UTC), JSON is the text that is stored."""

    aggregate_type: str
    aggregate_id: str
    version: int
    event_id: str
    event_type: str
    occurred_at: int
    recorded_at: int
    payload: str
    metadata: str


def link(previous: bytes, content: Content) -> bytes:
    """The link of an event that follows the event whose link is `previous`."""
    return sha256(previous + json.dumps(content, ensure_ascii=False).encode()).digest()


@dataclass(frozen=True, slots=True)
class Stretch:
    """The events at some positions: how many, and the SHA-256 (in hex) of their links, by position."""

    events: int
    digest: str


class Summary:
    """A stretch in the making."""

    def __init__(self) -> None:
        self._events = 0
        self._digest = sha256()

    def add(self, links: Iterable[bytes]) -> None:
        """The events that come next."""
        for each in links:
            self._digest.update(each)
            self._events += 1

    def stretch(self) -> Stretch:
        """All that was added."""
        return Stretch(self._events, self._digest.hexdigest())
