"""From a page of the feed to a handler and a moved checkpoint: retries, parking, order per stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from random import uniform
from time import monotonic
from typing import Any, Final, Never

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    CorruptDataError,
    LeaseLostError,
    PersonalDataError,
)
from k1s0_event_store.feed import Cursor, FeedPage
from k1s0_event_store.lanes import Failure, in_lanes
from k1s0_event_store.metadata import PERSONAL_KEYS
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import (
    Lease,
    ParkedEvent,
    Progress,
    Subscriber,
    Subscription,
    SubscriptionStore,
    Transaction,
    storable,
)

logger = logging.getLogger("k1s0_event_store.subscriptions")

IDLE_CHECKPOINT_SECONDS: Final = 1.0
"""How often the checkpoint follows a feed in which nothing is wanted."""

_QUOTING_NOTHING: Final = (CorruptDataError, PersonalDataError)
"""Errors of ours that tell where something stands, and never what."""

Done = Callable[[Transaction | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a subscription did, for metrics and alarms.

    `kind`: handled, retried, parked, stopped, waiting (for an error to pass), started, ended, lost.
    """

    kind: str
    name: str
    version: int
    partition: int
    events: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


class StoppedError(Exception):
    """The handler failed and its policy says to stop; the reason is in the subscription's status."""


class EndingError(Exception):
    """The runner was told to stop while an attempt was waited for; it is made after the next start."""


class _HandlerError(Exception):
    """The handler, and not the database or this code, raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Delivery:
    """Delivers the events of one partition, for as long as its lease lasts."""

    def __init__(
        self,
        subscription: Subscription,
        store: EventStore,
        storage: SubscriptionStore,
        lease: Lease,
        sleep: Callable[[float], Awaitable[None]],
        notify: Callable[[Notice], None],
    ) -> None:
        self.lease = lease
        self.cursor = lease.cursor
        self._subscription = subscription
        self._store = store
        self._storage = storage
        self._sleep = sleep
        self._notify = notify
        self._in_hand: Sequence[EventEnvelope] = ()
        self._parked: set[StreamId] = set()
        self._knows_parked = False
        self._done: set[int | None] = set()
        """Positions after the cursor that were handled, while others of their page were not."""
        self._unsaved = 0
        self._saved_at = monotonic()

    async def reload(self) -> None:
        """After an error nobody knows what was committed: go on from the checkpoint as it is stored.

        What a subscriber has handled since stays handled.
        """
        self._in_hand = ()
        self.lease = await self._storage.reload(self.lease)
        if self._subscription.transactional:
            self.cursor, self._unsaved = self.lease.cursor, 0

    async def refresh_parked(self) -> None:
        """Learn which streams have parked events; others may have dropped some."""
        self._parked = await self._storage.parked_streams(self.lease)
        self._knows_parked = True

    @property
    def has_parked(self) -> bool:
        """True if events of some streams have to wait, or that is not known yet."""
        return bool(self._parked) or not self._knows_parked

    async def deliver(self, page: FeedPage) -> int:
        """Handle a page and stand after it; returns how many of its events were wanted.

        Raises LeaseLostError, StoppedError, and errors that may pass.
        """
        where = self._subscription.where
        events = page.events if where is None else [event for event in page.events if where(event)]
        self._in_hand = events
        if not events or (self._is_in_the_past and not self._subscription.repeats):
            await self._pass_by(page)
        elif self._subscription.concurrency > 1:
            await self._handle_in_lanes(events, page.cursor)
        elif self._subscription.transactional or self._subscription.handler.batch:
            await self._handle(events, page, page.cursor)
        else:
            for event in events[:-1]:
                await self._handle([event], page, page.cursor_after(event))
            await self._handle(events[-1:], page, page.cursor)
        if not self._subscription.transactional and not page.more:
            await self.save()
        self._in_hand = ()
        return len(events)

    @property
    def _is_in_the_past(self) -> bool:
        """True for events that were handled (or parked) before a reset, or are by the live version."""
        return not self.lease.live or self.lease.replay_until is not None

    async def save(self) -> None:
        """Save a checkpoint that was put off."""
        cursor, lease = self.cursor, self.lease
        if cursor is not None and (cursor != lease.cursor or cursor == lease.replay_until):
            await self._save(self._progress(cursor))

    async def retry_parked(self) -> None:
        """Handle the parked events that somebody wants retried, each stream up to its first failure."""
        failed: set[StreamId] = set()
        for parked in await self._storage.to_retry(self.lease):
            if parked.stream_id not in failed and not await self._retry(parked):
                failed.add(parked.stream_id)
        self.lease = replace(self.lease, retry=False)
        await self.refresh_parked()

    async def _retry(self, parked: ParkedEvent) -> bool:
        stream_id, version = parked.stream_id, parked.event_version
        (event,) = self._in_hand = await self._store.load(stream_id, version, version)

        async def done(transaction: Transaction | None) -> None:
            await self._storage.unpark(self.lease, stream_id, version, transaction)

        failure = await self._failure_of([event], done, attempts=self._subscription.failure.attempts)
        if failure is not None:
            attempts = parked.attempts + self._subscription.failure.attempts
            await self._storage.park(self.lease, [event], describe(failure, [event]), attempts)
            self.report("parked", 1, failure)
        self._in_hand = ()
        return failure is None

    async def _pass_by(self, page: FeedPage) -> None:
        """Nothing on the page is to be handled: the checkpoint follows, but not for every page."""
        self.cursor = page.cursor
        due = monotonic() - self._saved_at >= IDLE_CHECKPOINT_SECONDS
        if due or page.cursor == self.lease.replay_until:
            await self.save()

    async def _handle(self, events: Sequence[EventEnvelope], page: FeedPage, cursor: Cursor) -> None:
        """Handle events that end at `cursor`; if they fail, each half of them, down to the one to blame."""
        free = [event for event in events if event.stream_id not in self._parked]
        held = [event for event in events if event.stream_id in self._parked]

        async def done(transaction: Transaction | None) -> None:
            if held:
                await self._storage.park(self.lease, held, None, 0, transaction)
            self.cursor, self._unsaved = cursor, self._unsaved + len(free)
            if transaction is not None or held or self._is_due():
                await self._save(self._progress(cursor), transaction)

        started = monotonic()
        attempts = self._subscription.failure.attempts if len(events) == 1 else 1
        failure = await self._failure_of(free, done, attempts)
        if failure is None:
            self.report("handled", len(free), seconds=monotonic() - started)
        elif len(events) == 1:
            await self._give_up([Failure(events[0], failure, ())], (), cursor)
        else:
            middle = len(events) // 2
            await self._handle(events[:middle], page, page.cursor_after(events[middle - 1]))
            await self._handle(events[middle:], page, cursor)

    async def _handle_in_lanes(self, events: Sequence[EventEnvelope], cursor: Cursor) -> None:
        """Handle events that end at `cursor`, those of different streams at the same time."""
        started = monotonic()
        queues: dict[StreamId, list[EventEnvelope]] = {}
        held = [event for event in events if event.stream_id in self._parked]
        for event in events:
            if event.stream_id not in self._parked and event.position not in self._done:
                queues.setdefault(event.stream_id, []).append(event)
        failures = await in_lanes(queues.values(), self._handle_alone, self._subscription.concurrency)
        held += chain.from_iterable(failure.rest for failure in failures)
        handled = len(self._done)
        if failures or held:
            await self._give_up(failures, held, cursor, handled)
            self._done.clear()
        else:
            self._done.clear()  # before the save, which may fail: they are counted
            self.cursor, self._unsaved = cursor, self._unsaved + handled
            if self._is_due():
                await self._save(self._progress(cursor))
        self.report("handled", handled, seconds=monotonic() - started)

    async def _handle_alone(self, event: EventEnvelope) -> Exception | None:
        """Handle one event, as often as the policy says; returns what the handler raised in the end."""
        policy = self._subscription.failure
        try:
            await self._run_handler([event])
        except _HandlerError as failure:
            if policy.attempts == 1:
                return failure.error
            self.report("retried", 1)
            await self._sleep(uniform(0, policy.wait))  # noqa: S311 - a jitter is no secret
            error = await self._failure_of([event], _nothing, attempts=policy.attempts - 1)
            if error is not None:
                return error
        self._done.add(event.position)
        return None

    async def _failure_of(
        self, events: Sequence[EventEnvelope], done: Done, attempts: int
    ) -> Exception | None:
        """Handle events, so many times at most; returns what the handler raised in the end."""
        try:
            await (self._call(events, done) if attempts == 1 else self._attempt(events, done, attempts))
        except _HandlerError as failure:
            return failure.error
        return None

    async def _attempt(self, events: Sequence[EventEnvelope], done: Done, attempts: int) -> None:
        """`_call`, again and again, waiting as the policy says."""
        policy = self._subscription.failure
        retrying = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=policy.wait, max=policy.longest_wait),
            retry=retry_if_exception(lambda error: isinstance(error, _HandlerError)),
            before_sleep=lambda state: self.report("retried", len(events)),
            reraise=True,
        )
        await retrying(self._call, events, done)

    async def _call(self, events: Sequence[EventEnvelope], done: Done) -> None:
        """Give events to the handler, and then what is `done` with them to the store."""
        if not self._subscription.transactional:
            await self._run_handler(events)
            await done(None)
            return
        finished = False
        try:
            async with self._transaction() as transaction:
                await self._run_handler(events, transaction.session)
                await done(transaction)
                finished = True
        except Exception as error:
            if not finished or isinstance(error, LeaseLostError) or self.is_transient(error):
                raise
            # The commit refused what the handler wrote (a deferred constraint).
            raise _HandlerError(error) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        """A transaction of the store; if it fails, the place is the one before it."""
        lease, cursor, unsaved = self.lease, self.cursor, self._unsaved
        try:
            async with self._storage.transaction() as transaction:
                yield transaction
        except BaseException:
            # Only the place: a beat of the heart may have changed the rest.
            self.lease = replace(self.lease, cursor=lease.cursor, replay_until=lease.replay_until)
            self.cursor, self._unsaved = cursor, unsaved
            raise

    async def _run_handler(self, events: Sequence[EventEnvelope], *session: Any) -> None:
        handler = self._subscription.handler
        try:
            if events:
                await handler(events, *session)
                if not self._is_in_the_past:
                    await handler.fire(events)
        except Exception as error:
            if self.is_transient(error):
                raise
            raise _HandlerError(error) from error

    def is_transient(self, error: Exception) -> bool:
        """True if the same work may succeed later."""
        judge = self._subscription.failure.is_transient
        try:
            return self._storage.is_transient(error) or (judge is not None and bool(judge(error)))
        except Exception:
            logger.exception(
                "%s: the policy's is_transient failed", self.lease, extra=place_fields(self.lease)
            )
            return False

    async def _give_up(
        self,
        failures: Sequence[Failure[EventEnvelope]],
        held: Sequence[EventEnvelope],
        cursor: Cursor,
        handled: int = 0,
    ) -> None:
        """The policy's attempts are used up: park what failed, and `held` unhandled, and go on; or stop."""
        policy = self._subscription.failure
        if failures and not policy.park:
            await self._stop_at(min(failures, key=lambda failure: failure.item.position or 0))
        async with self._transaction() as transaction:
            for failure in failures:
                error = describe(failure.error, [failure.item])
                await self._storage.park(self.lease, [failure.item], error, policy.attempts, transaction)
            if held:
                await self._storage.park(self.lease, held, None, 0, transaction)
            self.cursor, self._unsaved = cursor, self._unsaved + handled
            await self._save(self._progress(cursor), transaction)
        for failure in failures:
            self._parked.add(failure.item.stream_id)
            self.report("parked", 1, failure.error)
            logger.error(
                "%s parked %s", self.lease, _named(failure.item),
                exc_info=failure.error, extra=place_fields(self.lease) | _event_fields(failure.item),
            )  # fmt: skip

    async def _stop_at(self, failure: Failure[EventEnvelope]) -> Never:
        what, error = _named(failure.item), failure.error
        await self._storage.fail(self.lease, f"{what}: {describe(error, [failure.item])}", stop=True)
        self.report("stopped", 1, error)
        logger.error(
            "%s stops at %s", self.lease, what,
            exc_info=error, extra=place_fields(self.lease) | _event_fields(failure.item),
        )  # fmt: skip
        raise StoppedError(what) from error

    def _is_due(self) -> bool:
        subscription = self._subscription
        return isinstance(subscription, Subscriber) and (
            self._unsaved >= subscription.checkpoint_every
            or monotonic() - self._saved_at >= subscription.checkpoint_seconds
        )

    def _progress(self, cursor: Cursor) -> Progress:
        replayed = self.lease.replay_until is not None and cursor == self.lease.replay_until
        return Progress(cursor, self._unsaved, replayed)

    async def _save(self, progress: Progress, transaction: Transaction | None = None) -> None:
        await self._storage.save(self.lease, progress, transaction)
        replay_until = None if progress.replayed else self.lease.replay_until
        self.lease = replace(self.lease, cursor=progress.cursor, replay_until=replay_until)
        self._unsaved, self._saved_at = 0, monotonic()

    def describe(self, error: Exception) -> str:
        """An error as text that can be kept, whatever the events in hand hold."""
        return describe(error, self._in_hand)

    def report(
        self, kind: str, events: int = 0, error: BaseException | None = None, seconds: float = 0.0
    ) -> None:
        """Tell what the partition did, for metrics and alarms."""
        lease = self.lease
        self._notify(Notice(kind, lease.name, lease.version, lease.partition, events, seconds, error))


def _named(event: EventEnvelope) -> str:
    return f"version {event.version} of {event.stream_id} ({event.event_type})"


def place_fields(of: Lease | Notice | Subscription) -> dict[str, object]:
    """What log records carry as `extra`, for logs that are read by machines."""
    fields: dict[str, object] = {"subscription": of.name, "subscription_version": of.version}
    return fields if isinstance(of, Subscription) else fields | {"partition": of.partition}


def _event_fields(event: EventEnvelope) -> dict[str, object]:
    return {
        "aggregate_type": event.stream_id.aggregate_type,
        "event_type": event.event_type,
        "event_id": str(event.event_id),
        "event_version": event.version,
        "position": event.position,
    }


async def _nothing(_transaction: Transaction | None) -> None:
    """What is done after a handler whose checkpoint comes later."""


def describe(error: BaseException, events: Sequence[EventEnvelope] = ()) -> str:
    """An error as text that every store can keep; one about personal `events` without what it says."""
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, _QUOTING_NOTHING) and any(PERSONAL_KEYS in event.metadata for event in events):
        text = (
            f"{type(error).__name__}{_place_of(error)}; what it says is in the log alone, it may quote "
            "personal data"
        )
    return storable(text[:2000])


def _place_of(error: BaseException) -> str:
    """Where it was raised: " at orders.py:41"."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
