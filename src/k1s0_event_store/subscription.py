"""Subscriptions: what they handle, how far they are, and the contract of what remembers it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from sys import float_info
from time import monotonic
from typing import Any, ClassVar, Final, Self

from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.envelope import MAX_NAME_LENGTH, EventEnvelope, StreamId, check_name
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    SubscriptionNotFoundError,
    WaitTimeoutError,
    shown,
)
from k1s0_event_store.feed import Cursor, EventFilter
from k1s0_event_store.metadata import caused_by

MAX_PARTITIONS: Final = 1024
MOST_COUNTED: Final = 100_000
"""Up to so many events a status counts how far a partition is behind."""
_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What becomes of an event whose handler fails.

    Errors that may pass by themselves (a lost connection, a deadlock: `retryable`, and what
    `is_transient` says) are tried again for as long as it takes. Others are tried `attempts` times
    in all; then the event is parked together with what follows of its stream, or with `park=False`
    the partition stops there until it is resumed. Between two attempts it waits from `wait` seconds,
    doubled each time with jitter, up to `longest_wait`.
    """

    attempts: int = 3
    wait: float = 0.1
    longest_wait: float = 30.0
    park: bool = True
    is_transient: Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        _check_number(self.attempts, "attempts", 1, 2**63 - 1)
        _check_seconds(self.wait, "wait")
        _check_seconds(self.longest_wait, "longest_wait")
        if self.wait > self.longest_wait:
            raise ConfigurationError("wait must not be above longest_wait")


@dataclass(frozen=True, slots=True)
class Handler:
    """How events are given to user code: `call(events, *session)`, several at a time if `batch`."""

    call: Callable[..., Awaitable[object]]
    batch: bool
    side_effect: Callable[[EventEnvelope], Awaitable[object]] | None

    @classmethod
    def of(cls, handler: Any, batch: bool) -> Self:
        """From a function, or an object with `handle` or `handle_batch`, and perhaps `side_effect`."""
        side_effect = getattr(handler, "side_effect", None)
        is_batch = hasattr(handler, "handle_batch")
        call: Callable[..., Awaitable[object]]
        call = getattr(handler, "handle_batch" if is_batch else "handle", handler)
        if isinstance(handler, type) or not callable(call):
            raise ConfigurationError(
                "a handler is an async function, or an object with handle or handle_batch, "
                f"not {shown(handler)}"
            )
        return cls(call, batch or is_batch, side_effect)

    async def __call__(self, events: Sequence[EventEnvelope], *session: Any) -> None:
        if self.batch:
            await self.call(events, *session)
        else:
            for event in events:
                with caused_by(event):
                    await self.call(event, *session)

    async def fire(self, events: Sequence[EventEnvelope]) -> None:
        """Call the side effect, if there is one, for each event."""
        if self.side_effect is not None:
            for event in events:
                with caused_by(event):
                    await self.side_effect(event)


class Subscription:
    """A named reader of the feed; use Projection or Subscriber.

    `version` tells two generations apart that run side by side; raise it to build a read model anew.
    `partitions` share the streams out by their hash: each stream stays in order, partitions run at
    the same time and in different processes; their number is fixed once the subscription has run.
    A handler is an async function or an object with `handle`, or `handle_batch` for many events per
    call (a function: `batch=True`). An object may have `async def side_effect(event)`: called after
    the handler, at least once per event, but not for events that the subscription, or its version
    that was live before, has handled already.

    Raises ConfigurationError and InvalidInputError.
    """

    transactional: ClassVar[bool]
    concurrency: int = 1
    repeats: ClassVar[bool] = True
    """True if the handler is called again for events that were handled before a reset or a switch."""
    default_attempts: ClassVar[int] = 3

    def __init__(
        self,
        name: str,
        handler: Any,
        *,
        batch: bool = False,
        version: int = 1,
        partitions: int = 1,
        aggregate_types: Sequence[str] | None = None,
        event_types: Sequence[str] | None = None,
        where: Callable[[EventEnvelope], bool] | None = None,
        batch_size: int = 500,
        failure: FailurePolicy | None = None,
    ) -> None:
        self.name = check_subscription_name(name)
        self.handler = Handler.of(handler, batch)
        self.version = _check_number(version, "version", 1, 2**31)
        self.partitions = _check_number(partitions, "partitions", 1, MAX_PARTITIONS)
        self.only = EventFilter.of(aggregate_types, event_types)
        self.where = where
        self.batch_size = _check_number(batch_size, "batch_size", 1, 10_000)
        self.failure = FailurePolicy(attempts=self.default_attempts) if failure is None else failure

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, version={self.version})"

    def filter_for(self, partition: int) -> EventFilter:
        """What one of the partitions reads."""
        return replace(self.only, partition=partition, partitions=self.partitions)


class Projection(Subscription):
    """`await handle(event, session)`: read model and checkpoint commit in one transaction.

    Exactly once for what is written through `session`: a crash rolls both back. `session` is the
    subscription store's: an AsyncSession on PostgreSQL. The handler must not commit it. Up to
    `batch_size` events share a transaction.
    """

    transactional = True


class ProcessManager(Projection):
    """`await handle(event, session)`: reacts to events, with effects exactly once.

    What it appends `within(session)` and writes through `session` (an outbox, other tables) commits
    with its checkpoint. Unlike a projection it is not called again for what was handled before a
    `reset`, or by the version before: it moves on, and nothing is done twice.

    Others may append to the same streams: after a ConcurrencyError all is rolled back and handled
    again, which is an attempt of the policy (10 unless another one is given).
    """

    repeats = False
    default_attempts = 10


class Subscriber(Subscription):
    """`await handle(event)`: at least once. The checkpoint is saved after the handler, now and then.

    It is saved every `checkpoint_every` events, after `checkpoint_seconds`, when caught up, and at the
    end; after a crash the events since then come again. `concurrency`: events of so many streams are
    handled at the same time, those of one stream one after the other.
    """

    transactional = False

    def __init__(
        self,
        name: str,
        handler: Any,
        *,
        checkpoint_every: int = 100,
        checkpoint_seconds: float = 1.0,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(name, handler, **options)
        self.concurrency = _check_number(concurrency, "concurrency", 1, 10_000)
        if self.handler.batch and self.concurrency > 1:
            raise ConfigurationError("a handler for many events per call has no concurrency: leave it out")
        self.checkpoint_every = _check_number(checkpoint_every, "checkpoint_every", 1, 1_000_000)
        self.checkpoint_seconds = _check_seconds(checkpoint_seconds, "checkpoint_seconds")


def check_subscription_name(name: str) -> str:
    """Return `name` if a subscription can have it; raises InvalidInputError."""
    return check_name(name, f"a subscription's name (1 to {MAX_NAME_LENGTH} characters)")


def _check_number(value: int, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(
            f"{what} must be a whole number from {least:,} to {most:,}, not {shown(value)}"
        )
    return value


def _check_seconds(value: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= float_info.max:
        raise ConfigurationError(f"{what} must be seconds from 0 on, not {shown(value)}")
    return value


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a partition, until another process has taken it over.

    `token` is raised with every change of hands. `active` is False while the partition is paused or
    stopped, `retry` True when parked events are to be tried again, `surplus` True when it is to be
    given to another process.
    """

    name: str
    version: int
    partition: int
    token: int
    cursor: Cursor | None = None
    replay_until: Cursor | None = None
    live: bool = True
    active: bool = True
    retry: bool = False
    surplus: bool = False

    def __str__(self) -> str:
        return f"{self.name} version {self.version} partition {self.partition}"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a checkpoint says: the place, and how many events were handled since the last one.

    `replayed`: the end of what was handled before has been reached, side effects are fired from here on.
    """

    cursor: Cursor
    handled: int = 0
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that waits to be retried or dropped; `error` None: for an earlier one of its stream."""

    name: str
    version: int
    stream_id: StreamId
    event_version: int
    event_type: str
    position: int
    error: str | None
    attempts: int
    parked_at: datetime


class PartitionState(StrEnum):
    """What a partition does."""

    RUNNING = "running"
    WAITING = "no worker"
    PAUSED = "paused"
    STOPPED = "stopped"

    @classmethod
    def of(cls, *, stopped: bool, paused: bool, held: bool) -> PartitionState:
        """The state to show where several things are true."""
        if stopped:
            return cls.STOPPED
        if paused:
            return cls.PAUSED
        return cls.RUNNING if held else cls.WAITING


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition as others see it. `behind` counts events still to be looked at, up to MOST_COUNTED."""

    partition: int
    state: PartitionState
    owner: str | None
    cursor: Cursor | None
    handled: int
    behind: int
    behind_seconds: float
    replaying: bool
    error: str | None
    failed_at: datetime | None

    @property
    def caught_up(self) -> bool:
        """True if nothing is left to be looked at."""
        return self.behind == 0


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """A version of a subscription, with its partitions and the number of its parked events."""

    name: str
    version: int
    live: bool
    partitions: tuple[PartitionStatus, ...]
    parked: int

    @property
    def caught_up(self) -> bool:
        """True if every partition has looked at everything."""
        return all(partition.caught_up for partition in self.partitions)

    @property
    def behind(self) -> int:
        """Events that wait: each partition counts all after its place, so the last one of them says it."""
        return max((partition.behind for partition in self.partitions), default=0)

    @property
    def behind_seconds(self) -> float:
        """The age of the oldest event that waits, in seconds."""
        return max((partition.behind_seconds for partition in self.partitions), default=0.0)


def fair_share(partitions: int, workers: Sequence[str], worker: str) -> int:
    """How many partitions one of the workers, sorted by name, is to have."""
    each, more = divmod(partitions, len(workers))
    return each + (workers.index(worker) < more)


class Transaction:
    """A transaction that a handler's writes and the checkpoint share; `session` is the handler's part."""

    def __init__(self, session: Any) -> None:
        self.session = session


class SubscriptionStore(AsyncClosing, ABC):
    """Remembers checkpoints, leases and parked events of subscriptions.

    The first group is what a runner calls, the second what operators and applications call. A
    `version` of None means the live one. Raises SubscriptionNotFoundError for unknown names.
    """

    @abstractmethod
    async def register(self, name: str, version: int, partitions: int, *, repeats: bool = True) -> None:
        """Make the version's partitions where they are missing; a name's first version is live.

        `repeats` is what the subscription says: whether it handles again what it has handled before
        a reset, and so events that are parked then as well.

        Raises ConfigurationError if it exists with another number of partitions.
        """

    @abstractmethod
    async def beat(self, name: str, version: int, worker: str, seconds: float) -> Sequence[Lease]:
        """Say that `worker` lives for so many seconds more; renew its leases, take free ones up to its share.

        Returns all leases that it holds now.
        """

    @abstractmethod
    async def reload(self, lease: Lease) -> Lease:
        """The lease with the checkpoint as it is stored, after an answer that was lost.

        Raises LeaseLostError.
        """

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give a lease back, so that another process can take it at once."""

    @abstractmethod
    async def leave(self, name: str, version: int, worker: str) -> None:
        """Give back everything that `worker` holds, and forget it."""

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, committed at the end of the block, rolled back if it fails."""

    @abstractmethod
    async def save(self, lease: Lease, progress: Progress, transaction: Transaction | None = None) -> None:
        """Move the checkpoint, alone or within `transaction`; raises LeaseLostError and changes nothing."""

    @abstractmethod
    async def park(
        self,
        lease: Lease,
        events: Sequence[EventEnvelope],
        error: str | None,
        attempts: int,
        transaction: Transaction | None = None,
    ) -> None:
        """Park events; those that are parked already get the new error and attempts, and wait again."""

    @abstractmethod
    async def unpark(
        self, lease: Lease, stream_id: StreamId, event_version: int, transaction: Transaction | None = None
    ) -> None:
        """Forget a parked event: it has been handled. Raises LeaseLostError."""

    @abstractmethod
    async def parked_streams(self, lease: Lease) -> set[StreamId]:
        """The streams of the partition that have parked events."""

    @abstractmethod
    async def to_retry(self, lease: Lease) -> Sequence[ParkedEvent]:
        """All parked events of the streams that somebody wants retried, each stream by version."""

    @abstractmethod
    async def fail(self, lease: Lease, error: str, stop: bool) -> None:
        """Note an error; `stop`: the partition does nothing until it is resumed."""

    def is_transient(self, error: Exception) -> bool:
        """True if `error`, raised by a handler or by the database, may pass by itself.

        A conflict of versions is none of these: the handler may expect what will never come.
        """
        retryable = getattr(error, "retryable", False) and not isinstance(error, ConcurrencyError)
        return bool(retryable) or isinstance(error, OSError)

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `wake` when something was appended, as far as the store can tell; polling goes on anyway."""
        return nullcontext()

    @abstractmethod
    async def statuses(self, name: str | None = None) -> list[SubscriptionStatus]:
        """All versions of all subscriptions, or of one, by name and version."""

    @abstractmethod
    async def live_version(self, name: str) -> int:
        """The version whose read model is to be used, and whose side effects are fired."""

    @abstractmethod
    async def pause(self, name: str, version: int | None = None) -> None:
        """Let the partitions rest at once: what is in hand is rolled back or comes again."""

    @abstractmethod
    async def resume(self, name: str, version: int | None = None) -> None:
        """Go on after a pause, or after an error that stopped a partition."""

    @abstractmethod
    async def reset(
        self,
        name: str,
        version: int | None = None,
        *,
        after: Cursor | None = None,
        side_effects: bool = False,
    ) -> None:
        """Go back to `after` (None: the beginning); parked events are forgotten, they come again.

        Side effects of what was handled before are not fired again, unless `side_effects`. What the
        handler wrote is not undone: empty the read model in the same breath.
        """

    @abstractmethod
    async def switch(self, name: str, version: int, *, within: float = 10.0) -> None:
        """Make `version` the live one; its side effects begin where those of the version before end.

        Waits up to `within` seconds until the live version has handled what the new one has. Raises
        SubscriptionError if it does not, and ConfigurationError if the numbers of partitions differ.
        """

    @abstractmethod
    async def remove(self, name: str, version: int) -> None:
        """Forget a version and its parked events.

        Raises ConfigurationError for the live one while there are others or somebody works on it.
        """

    @abstractmethod
    async def parked(self, name: str | None = None, limit: int = 1000) -> list[ParkedEvent]:
        """Parked events, of one subscription or all, oldest first."""

    @abstractmethod
    async def retry_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        """Have parked events handled again, in order, of one stream or all; returns how many."""

    @abstractmethod
    async def drop_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        """Forget parked events for good, of one stream or all; returns how many."""

    @abstractmethod
    async def has_handled(
        self, name: str, stream_id: StreamId, event_version: int, version: int | None = None
    ) -> bool:
        """True if the event lies before the checkpoint, of the live version if none is named.

        Raises EventParkedError if the event is parked, SubscriptionNotFoundError.
        """

    async def wait_until(
        self,
        name: str,
        stream_id: StreamId,
        event_version: int,
        *,
        within: float = 5.0,
        version: int | None = None,
    ) -> None:
        """Wait until the subscription has handled this event of a stream, for read-your-writes.

        Raises WaitTimeoutError after so many seconds (SubscriptionNotFoundError if no worker has begun
        by then: in a rollout they may come later), EventParkedError if its handler failed.
        """
        deadline, pause = monotonic() + within, _SHORTEST_PAUSE
        while True:
            late: Exception = WaitTimeoutError(name, stream_id, event_version, within)
            try:
                if await self.has_handled(name, stream_id, event_version, version):
                    return
            except SubscriptionNotFoundError as error:
                late = error
            if monotonic() >= deadline:
                raise late
            await asyncio.sleep(min(pause, max(0.0, deadline - monotonic())))
            pause = min(_LONGEST_PAUSE, pause * 1.5)


def storable(text: str) -> str:
    """`text` without what PostgreSQL's text does not know: NUL, and lone surrogates."""
    return text.replace("\x00", "\\0").encode(errors="backslashreplace").decode()
