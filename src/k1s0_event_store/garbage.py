"""No garbage collection while many events are made: it would walk the growing list again and again."""

from __future__ import annotations

import gc
from typing import Final

_RARELY: Final = 50_000
"""New objects before a collection; Python's own 700 are less than fifty messages make."""


class CollectionPaused:
    """A block in which the collector rests; nothing in it may wait."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_exc: object) -> None:
        if self._was_on:
            gc.enable()


def settle() -> None:
    """For a process of its own: collections become rare, and pass by what is there already."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_RARELY)
