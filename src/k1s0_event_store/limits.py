"""Limits against abuse: how much may be stored at once, checked before anything is sent."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from k1s0_event_store.envelope import MAX_NAME_LENGTH
from k1s0_event_store.exceptions import ConfigurationError, LimitExceededError, shown
from k1s0_event_store.jsontext import nesting, nests_deeper

MAX_NESTING: Final = 250
"""Levels that arrays and objects in JSON may have, whatever the limits: what is deeper is not encoded."""

_MOST: Final = {"name": MAX_NAME_LENGTH, "depth": MAX_NESTING}
_LARGEST: Final = sys.maxsize - 1
"""One more can still be counted to."""
_LEAST: Final = {"metadata": len("{}")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a store takes; what is more raises LimitExceededError before anything is sent.

    `payload`, `metadata` and `state` (of a snapshot): characters of the JSON text. `depth`: levels of arrays
    and objects in each of them, at most 250. `events`: events of one append or `import_batch`. `name`:
    characters of an aggregate type, an aggregate id and an event type, at most 255.

    The defaults are far above what events are made for: lower them where strangers choose what is appended.
    Raises ConfigurationError.
    """

    payload: int = 16 * 2**20
    metadata: int = 2**20
    state: int = 64 * 2**20
    depth: int = MAX_NESTING
    events: int = 1_000_000
    name: int = MAX_NAME_LENGTH
    short: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in LIMITS:
            value, least = getattr(self, name), _LEAST.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"the limit {name} must be a whole number of at least {least}, not {shown(value)}"
                )
            if value > (most := _MOST.get(name, _LARGEST)):
                raise ConfigurationError(f"the limit {name} can be at most {most}, not {shown(value)}")
        # A level takes two characters: what is shorter than this breaks no limit.
        object.__setattr__(self, "short", min(self.payload, self.metadata, 2 * self.depth))

    def are_far_from(self, payloads: Sequence[str], metadata: Sequence[str]) -> bool:
        """True if this JSON of events needs no closer look."""
        if not payloads:
            return True
        return max(map(len, payloads)) <= self.short >= max(map(len, metadata))

    def check_events(self, count: int) -> None:
        """Refuse so many events in one call."""
        if count > self.events:
            raise LimitExceededError("events", self.events, count)

    def check_names(self, names: Iterable[str], *, each_of_an_event: bool = False) -> None:
        """Refuse names that are too long; those of events are told apart by their places."""
        if self.name == MAX_NAME_LENGTH:  # checked where each was made
            return
        for index, name in enumerate(names):
            if len(name) > self.name:
                raise LimitExceededError("name", self.name, len(name), index if each_of_an_event else None)

    def check_texts(self, limit: str, texts: Sequence[str], *, each_of_an_event: bool = True) -> None:
        """Refuse JSON that is longer than the limit of this name, or nests too deep."""
        most = int(getattr(self, limit))
        for index, text in enumerate(texts):
            place = index if each_of_an_event else None
            if len(text) > most:
                raise LimitExceededError(limit, most, len(text), place)
            if text.count("[") + text.count("{") > self.depth and (levels := nesting(text)) > self.depth:
                raise LimitExceededError("depth", self.depth, levels, place)

    def check_nesting(self, *values: Any, index: int | None = None) -> None:
        """Refuse values of which there is no JSON because they nest too deep."""
        if any(nests_deeper(value, self.depth) for value in values):
            raise LimitExceededError("depth", self.depth, None, index)


LIMITS: Final = tuple(setting.name for setting in fields(Limits) if setting.init)
"""Their names."""
DEFAULT_LIMITS: Final = Limits()
