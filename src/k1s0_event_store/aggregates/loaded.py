"""An aggregate's state, and where in its stream it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """State after the stored event `event_id` at `version` (None and 0: there is none)."""

    state: S
    version: int = 0
    event_id: UUID | None = None
    keys: frozenset[str] = frozenset()
    """Keys of the personal data in it."""
    pickled: bytes | None = None
    """The state again, where it is known: unlike `state` nobody can have changed it."""
