"""One partition at work: reading the feed, having it delivered, waiting for errors to pass."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Final, NamedTuple

from k1s0_event_store.delivery import (
    IDLE_CHECKPOINT_SECONDS,
    Delivery,
    EndingError,
    Notice,
    StoppedError,
    place_fields,
)
from k1s0_event_store.exceptions import LeaseLostError
from k1s0_event_store.feed import FIRST_PAGE, Cursor, FeedPage
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import Lease, Subscription, SubscriptionStore
from k1s0_event_store.waiting import wait_for_event

logger = logging.getLogger("k1s0_event_store.subscriptions")

_LONGEST_BACKOFF: Final = 30.0
IDLE_SECONDS: Final = 60.0
"""After so long even a partition that nobody wakes looks for itself."""


class Watch:
    """One look at the feed for all who have read it to its end: they sleep until there is more."""

    def __init__(self, store: EventStore, poll: tuple[float, float], wake: Callable[[], None]) -> None:
        self._store = store
        self._poll = poll
        self._wake = wake
        self._end: Cursor | None = None
        self._busy = asyncio.Event()

    def hurry(self) -> None:
        """There was something: look more often again."""
        self._busy.set()

    async def run(self) -> None:
        """Look, less and less often while there is nothing new; wake everybody when there is."""
        pause = self._poll[0]
        while True:
            if await wait_for_event(self._busy, pause):
                self._busy.clear()
                pause = self._poll[0]
                await asyncio.sleep(pause)
            try:
                found = await self._look()
            except Exception as error:
                # The workers meet the same error, and deal with it.
                logger.debug("the feed could not be looked at", exc_info=error)
                found = True
            if found:
                self._wake()
            pause = min(self._poll[1], pause * 1.5)

    async def _look(self) -> bool:
        """True if there may be something that a sleeper has not read."""
        if self._end is not None:
            page = await self._store.read_page(self._end, 1)
            if not page.events and not page.more:
                self._end = page.cursor
                return False
        # Taken before they wake: whoever reads from now on sees all that lies before it.
        self._end = await self._store.latest_cursor()
        return True


class _Place(NamedTuple):
    """What page to read."""

    after: Cursor | None
    limit: int
    until: Cursor | None


class PartitionWorker:
    """Reads the feed for one partition and has it delivered, until told to stop or the lease is lost."""

    def __init__(
        self,
        subscription: Subscription,
        store: EventStore,
        storage: SubscriptionStore,
        lease: Lease,
        poll: tuple[float, float],
        watch: Watch,
        notify: Callable[[Notice], None],
    ) -> None:
        self.bell = asyncio.Event()
        self.reads_to_the_end = 0
        self._subscription = subscription
        self._store = store
        self._storage = storage
        self._poll = poll
        self._stopping = asyncio.Event()
        self._watch = watch
        self._errors = 0
        self._limit = min(FIRST_PAGE, subscription.batch_size)
        self._ahead: tuple[_Place, asyncio.Task[FeedPage]] | None = None
        self._valid_until = float("inf")
        self._fresh_beat = False
        self._delivery = Delivery(subscription, store, storage, lease, self._sleep, notify)

    @property
    def lease(self) -> Lease:
        """The lease with the checkpoint as it was saved last."""
        return self._delivery.lease

    def renew(self, lease: Lease, valid_until: float) -> None:
        """A beat of the heart: the lease is good until `valid_until`, and these are its flags."""
        mine = self._delivery.lease
        self._delivery.lease = replace(mine, live=lease.live, active=lease.active, retry=lease.retry)
        self._valid_until = valid_until
        self._fresh_beat = True
        if lease.active != mine.active or lease.retry:
            self.bell.set()

    def stop(self) -> None:
        """Finish the page in hand, save, and end."""
        self._stopping.set()
        self.bell.set()

    def report(self, kind: str, error: BaseException | None = None) -> None:
        """Tell what becomes of the partition."""
        self._delivery.report(kind, error=error)

    async def run(self) -> None:
        """Work until stopped; ends with LeaseLostError when another process has the partition."""
        self.report("started")
        try:
            while not self._stopping.is_set():
                try:
                    await self._turn()
                except (LeaseLostError, asyncio.CancelledError):
                    raise
                except EndingError:
                    break
                except StoppedError:
                    self._delivery.lease = replace(self.lease, active=False)
                except Exception as error:
                    await self._recover(error)
                else:
                    self._errors = 0
            await self._save_at_last()
        finally:
            if self._ahead is not None:
                self._ahead[1].cancel()
            self.report("ended")

    async def _save_at_last(self) -> None:
        try:
            await self._delivery.save()
        except Exception as error:
            if isinstance(error, LeaseLostError):
                raise
            logger.warning(
                "%s: the last checkpoint could not be saved", self.lease,
                exc_info=error, extra=place_fields(self.lease),
            )  # fmt: skip

    async def _turn(self) -> None:
        self.bell.clear()
        if not self.lease.active or monotonic() > self._valid_until:
            await wait_for_event(self.bell, self._poll[1])
            return
        if self._errors:
            await self._delivery.reload()
        if self.lease.retry:
            await self._delivery.retry_parked()
        elif self._fresh_beat and self._delivery.has_parked:
            await self._delivery.refresh_parked()
        self._fresh_beat = False
        until = self.lease.replay_until
        page, is_fresh = await self._read()
        self._limit = page.next_limit(self._subscription.batch_size)
        if page.more:
            self._read_ahead(page)
        handled = await self._delivery.deliver(page)
        if handled:
            self._watch.hurry()
        # A page that was read ahead may lack what the bell has rung for since.
        if is_fresh and not page.more and page.cursor != until:
            self.reads_to_the_end += until is None
            await self._rest()

    async def _rest(self) -> None:
        """Sleep until woken; the checkpoint follows what was not wanted."""
        if not await wait_for_event(self.bell, IDLE_CHECKPOINT_SECONDS):
            await self._delivery.save()
            await wait_for_event(self.bell, IDLE_SECONDS)

    async def _read(self) -> tuple[FeedPage, bool]:
        """The next page, and whether it was asked for now: it may be under way already."""
        wanted = _Place(self._delivery.cursor, self._limit, self.lease.replay_until)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == wanted:
            return await ahead[1], False
        if ahead is not None:
            ahead[1].cancel()
        return await self._read_at(wanted), True

    def _read_ahead(self, page: FeedPage) -> None:
        """Begin to read what follows, while the page is handled."""
        place = _Place(page.cursor, self._limit, self.lease.replay_until)
        task = asyncio.create_task(self._read_at(place))
        task.add_done_callback(_heard)
        self._ahead = place, task

    async def _read_at(self, place: _Place) -> FeedPage:
        only = self._subscription.filter_for(self.lease.partition)
        return await self._store.read_page(place.after, place.limit, only=only, until=place.until)

    async def _recover(self, error: Exception) -> None:
        """Wait for an error to pass; one that cannot pass stops the partition, with its reason."""
        passing = self._delivery.is_transient(error)
        self._errors += 1
        self.report("waiting" if passing else "stopped", error)
        logger.log(
            logging.WARNING if passing else logging.ERROR,
            "%s: %s", self.lease, "will try again" if passing else "stops",
            exc_info=error, extra=place_fields(self.lease),
        )  # fmt: skip
        try:
            await self._storage.fail(self.lease, self._delivery.describe(error), stop=not passing)
        except Exception:
            logger.warning(
                "%s: the error could not be noted", self.lease, exc_info=True, extra=place_fields(self.lease)
            )
            passing = True
        if passing:
            # A float ends at 2**1024, an outage may have more errors.
            await wait_for_event(
                self._stopping, min(_LONGEST_BACKOFF, self._poll[0] * 2 ** min(self._errors, 40))
            )
        else:
            self._delivery.lease = replace(self.lease, active=False)

    async def _sleep(self, seconds: float) -> None:
        """Between two attempts; a stop ends it, and the attempts with it."""
        if await wait_for_event(self._stopping, seconds):
            raise EndingError


def _heard(task: asyncio.Task[FeedPage]) -> None:
    """An error of a page that nobody comes for is no news: the next reading meets it too."""
    if not task.cancelled():
        task.exception()
