"""What arrives while somebody looks: one poller for all open pages, none where there are no pages."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from k1s0_event_store.inspection import Arrivals, EventView

NEWEST: Final = 30
"""So many events a page's tail begins with."""
_MOST_LISTENERS: Final = 200
_MOST_WAITING: Final = 20

logger = logging.getLogger("k1s0_event_store.web")


class Feed(Protocol):
    """What is used of PostgresInspector."""

    async def arrivals(self, seen: str | None = None, *, limit: int = 50, cut: int = 200) -> Arrivals: ...

    async def latest(
        self, limit: int = 50, before: int | None = None, *, cut: int = 200
    ) -> Sequence[EventView]: ...


@dataclass(frozen=True, slots=True)
class Arrived:
    """Events that came, newest first; `more` were left out. With `anew` they replace what was shown."""

    events: Sequence[EventView]
    more: int = 0
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """Numbers were taken anew."""


@dataclass(frozen=True, slots=True)
class Away:
    """The database does not answer."""


Change = Arrived | Sampled | Away


class Listener:
    """One open page. What it does not fetch in time is lost, and it is told the newest events anew."""

    def __init__(self) -> None:
        self._waiting: deque[Change] = deque()
        self._something = asyncio.Event()
        self.has_lost = False
        self.is_over = False

    def give(self, change: Change) -> None:
        """Put a change into its queue."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(change)
        else:
            self.has_lost = True
        self._something.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self.is_over = True
        self._something.set()

    async def next(self, seconds: float) -> Change | None:
        """The next change; None where none came within so many seconds, or it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._something.wait()
        change = self._waiting.popleft() if self._waiting else None
        if not self._waiting and not self.is_over:
            self._something.clear()
        return change


class Live:
    """Asks for arrivals every `look_every` seconds, and calls `sample` every `sample_every` seconds."""

    def __init__(
        self,
        feed: Feed,
        sample: Callable[[], Awaitable[object]],
        *,
        look_every: float = 1.0,
        sample_every: float = 5.0,
    ) -> None:
        self._feed = feed
        self._sample = sample
        self._look_every = look_every
        self._sample_every = sample_every
        self._listeners: set[Listener] = set()
        self._newest: deque[EventView] = deque(maxlen=NEWEST)
        self._poller: asyncio.Task[None] | None = None
        self._seen: str | None = None
        self._is_away = False

    @property
    def is_looking(self) -> bool:
        """Whether the poller runs."""
        return self._poller is not None

    @property
    def is_full(self) -> bool:
        """Whether so many pages are open that one more would be one too many."""
        return len(self._listeners) >= _MOST_LISTENERS

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """A listener for as long as the block lasts; the first starts the poller, the last ends it."""
        listener = Listener()
        self._greet(listener)
        self._listeners.add(listener)
        if self._poller is None:
            self._poller = asyncio.create_task(self._run(), name="k1s0-event-browser")
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                await self._stop()

    async def close(self) -> None:
        """End all listeners."""
        for listener in self._listeners:
            listener.end()
        await self._stop()

    def again(self, listener: Listener) -> None:
        """Tell a listener that has lost something the newest events anew."""
        listener.has_lost = False
        self._greet(listener)

    def _greet(self, listener: Listener) -> None:
        if self._seen is not None:
            listener.give(Arrived(list(self._newest), anew=True))
        if self._is_away:
            listener.give(Away())

    async def _stop(self) -> None:
        poller, self._poller = self._poller, None
        self._seen = None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        sample_at = loop.time() + self._sample_every
        while True:
            await self._try_to_look()
            if loop.time() >= sample_at and not self._is_away:
                await self._try_to_sample()
                sample_at = loop.time() + self._sample_every
            await asyncio.sleep(self._look_every)

    async def _try_to_look(self) -> None:
        try:
            await (self._begin() if self._seen is None or self._is_away else self._look())
        except Exception:
            if not self._is_away:
                logger.warning("the stream browser cannot look for events", exc_info=True)
                self._is_away = True
                self._tell(Away())
        else:
            self._is_away = False

    async def _try_to_sample(self) -> None:
        try:
            await self._sample()
        except Exception:
            logger.warning("the stream browser cannot ask for the subscriptions", exc_info=True)
        else:
            self._tell(Sampled())

    async def _look(self) -> None:
        arrivals = await self._feed.arrivals(self._seen)
        self._seen = arrivals.seen
        shown = {event.position for event in self._newest}
        new = [event for event in reversed(arrivals.events) if event.position not in shown]
        self._newest.extendleft(reversed(new))
        if new or arrivals.more:
            self._tell(Arrived(new, arrivals.more))

    async def _begin(self) -> None:
        """First the place to go on from, then the newest: what comes in between is told once."""
        seen = (await self._feed.arrivals()).seen
        newest = await self._feed.latest(NEWEST)
        self._newest.clear()
        self._newest.extend(newest)
        self._seen = seen
        self._tell(Arrived(list(newest), anew=True))

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener.give(change)
