"""When a snapshot is taken. A policy changes what loading costs, never what is loaded.

Combine policies with `|` (either) and `&` (both): `every(50) | after(OrderClosed)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import is_typeddict

from k1s0_event_store.exceptions import ConfigurationError, shown


@dataclass(frozen=True, slots=True)
class Saved:
    """What a policy looks at: an aggregate that was loaded, and has just had `events` appended."""

    version_before: int
    version: int
    events: Sequence[Any]
    event_types: frozenset[str]
    """Names of their types."""
    seconds: float
    """How long loading took."""


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """Says whether a snapshot is due; made by the functions of this module, or from a function of yours."""

    is_due: Callable[[Saved], bool]

    def __or__(self, other: SnapshotPolicy) -> SnapshotPolicy:
        return SnapshotPolicy(lambda saved: self.is_due(saved) or other.is_due(saved))

    def __and__(self, other: SnapshotPolicy) -> SnapshotPolicy:
        return SnapshotPolicy(lambda saved: self.is_due(saved) and other.is_due(saved))


def every(events: int) -> SnapshotPolicy:
    """At the first chance after every so many events of the stream. Raises ConfigurationError."""
    if isinstance(events, bool) or not isinstance(events, int) or events < 1:
        raise ConfigurationError(f"every() needs a number of events from 1 on, not {shown(events)}")
    return SnapshotPolicy(lambda saved: saved.version // events > saved.version_before // events)


def after(*types: type | str) -> SnapshotPolicy:
    """After an event of one of these types (classes or names): where a life, a month, a chapter ends."""
    classes = tuple(one for one in types if isinstance(one, type) and not is_typeddict(one))
    names = frozenset(one for one in types if isinstance(one, str))
    if not types or len(classes) + len(names) < len(types):
        raise ConfigurationError(f"after() needs classes or names of event types, not {shown(types)}")
    return SnapshotPolicy(
        lambda saved: (
            not names.isdisjoint(saved.event_types)
            or any(isinstance(event, classes) for event in saved.events)
        )
    )


def slower_than(seconds: float) -> SnapshotPolicy:
    """When loading took longer than that. Raises ConfigurationError."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ConfigurationError(f"slower_than() needs seconds from 0 on, not {shown(seconds)}")
    return SnapshotPolicy(lambda saved: saved.seconds > seconds)


def never() -> SnapshotPolicy:
    """Not at all; existing snapshots are still used."""
    return SnapshotPolicy(lambda saved: False)
