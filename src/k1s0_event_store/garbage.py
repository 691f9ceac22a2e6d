"""No garbage collection while many events are made: it would walk the growing list again and again."""

from __future__ import annotations

import gc


class CollectionPaused:
    """A block in which the collector rests; nothing in it may wait."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_exc: object) -> None:
        if self._was_on:
            gc.enable()
