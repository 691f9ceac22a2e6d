"""One question to the database for all who ask at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What `ask` said at most `seconds` ago: however many pages are open, it is asked no more often."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._answer: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer, from the database if the last one is too old."""
        async with self._lock:
            if self._answer is None or monotonic() - self._answer[0] > self._seconds:
                self._answer = (monotonic(), await self._ask())
            return self._answer[1]

    def forget(self) -> None:
        """Ask again next time."""
        self._answer = None
