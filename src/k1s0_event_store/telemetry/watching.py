"""How far subscriptions are: asked for now and then, told at any time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NamedTuple, Self

from k1s0_event_store.feed import Cursor
from k1s0_event_store.subscription import PartitionStatus, SubscriptionStatus, SubscriptionStore

logger = logging.getLogger("k1s0_event_store.telemetry")

_DATABASE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 1.0
"""For so long an answer is given again: scrapes cannot load the database."""


class _Checkpoint(NamedTuple):
    """A partition's checkpoint, and when it was first seen there."""

    cursor: Cursor | None
    since: float


class SubscriptionGauges:
    """How far all subscriptions of a store are, as they were when it was last asked.

    `refresh` asks it. As a context manager it is asked every `every` seconds in the background. What
    is not known is not told: after a failed refresh there are no numbers until one works again, and
    `failed_at` says when that was.
    """

    def __init__(self, storage: SubscriptionStore, on_failure: Callable[[], None], every: float) -> None:
        self.failed_at: datetime | None = None
        """When the last refresh failed; None if it worked."""
        self.statuses: Sequence[SubscriptionStatus] = ()
        self._storage = storage
        self._on_failure = on_failure
        self._every = every
        self._lock = asyncio.Lock()
        self._good_until = 0.0
        self._checkpoints: dict[tuple[str, int, int], _Checkpoint] = {}
        self._task: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Ask the store now; an answer that is hardly older than a second is good enough. Never raises."""
        async with self._lock:
            if monotonic() >= self._good_until:
                await self._ask()
                self._good_until = monotonic() + _ANSWER_SECONDS

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                self.statuses = await self._storage.statuses()
        except Exception as error:
            self.statuses = ()
            self.failed_at = datetime.now(UTC)
            self._on_failure()
            logger.warning("the state of the subscriptions is not known", exc_info=error)
        else:
            self.failed_at = None
            self._checkpoints = dict(self._seen())

    def _seen(self) -> Iterator[tuple[tuple[str, int, int], _Checkpoint]]:
        for status in self.statuses:
            for partition in status.partitions:
                key = status.name, status.version, partition.partition
                known = self._checkpoints.get(key)
                if known is None or partition.caught_up or known.cursor != partition.cursor:
                    known = _Checkpoint(partition.cursor, monotonic())
                yield key, known

    def checkpoint_age(self, status: SubscriptionStatus, partition: PartitionStatus) -> float:
        """Seconds since the checkpoint was seen to move, or to have nothing before it."""
        known = self._checkpoints[status.name, status.version, partition.partition]
        return 0.0 if partition.caught_up else monotonic() - known.since

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._refresh_forever())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _refresh_forever(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._every)
