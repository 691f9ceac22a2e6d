"""The subscription store in memory: checkpoints, leases and parked events beside an in-memory log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    ConfigurationError,
    EventParkedError,
    LeaseLostError,
    SubscriptionError,
    SubscriptionNotFoundError,
)
from k1s0_event_store.feed import Cursor
from k1s0_event_store.memory.store import InMemoryEventStore, partition_of, position_of
from k1s0_event_store.subscription import (
    MOST_COUNTED,
    Lease,
    ParkedEvent,
    PartitionState,
    PartitionStatus,
    Progress,
    SubscriptionStatus,
    SubscriptionStore,
    Transaction,
    fair_share,
)

_POLL_SECONDS: Final = 0.002

SessionFactory = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(slots=True)
class _Partition:
    """Checkpoint and lease of one partition."""

    cursor: Cursor | None = None
    replay_until: Cursor | None = None
    handled: int = 0
    token: int = 0
    owner: str | None = None
    leased_until: float = 0.0
    error: str | None = None
    failed_at: datetime | None = None
    stopped: bool = False

    def is_held(self, now: float) -> bool:
        return self.owner is not None and now < self.leased_until

    def is_at_or_after(self, cursor: Cursor | None) -> bool:
        return _position(self.cursor) >= _position(cursor)

    def go_back_to(self, after: Cursor | None, side_effects: bool) -> None:
        # A replay that is under way was to go further than the cursor is.
        handled = self.replay_until or self.cursor
        ahead = _position(handled) > _position(after)
        self.cursor, self.replay_until = after, handled if ahead and not side_effects else None
        self.token += 1
        self.clear_error()

    def clear_error(self) -> None:
        self.error, self.failed_at, self.stopped = None, None, False


@dataclass(slots=True)
class _Generation:
    """One version of a subscription. `retry` are the streams whose parked events somebody wants retried."""

    name: str
    version: int
    live: bool
    partitions: list[_Partition]
    repeats: bool = True
    paused: bool = False
    workers: dict[str, float] = field(default_factory=dict)
    parked: dict[tuple[StreamId, int], ParkedEvent] = field(default_factory=dict)
    retry: set[StreamId] = field(default_factory=set)

    def partition_of(self, stream_id: StreamId) -> int:
        return partition_of(stream_id, len(self.partitions))

    def parked_of(self, partition: int) -> list[ParkedEvent]:
        return [event for event in self.parked.values() if self.partition_of(event.stream_id) == partition]

    def parked_streams(self) -> set[StreamId]:
        return {stream_id for stream_id, _ in self.parked}

    def forget_parked(self, keys: Sequence[tuple[StreamId, int]]) -> None:
        for key in keys:
            self.parked.pop(key, None)
        self.retry &= self.parked_streams()

    def keys_of(self, stream_id: StreamId | None) -> list[tuple[StreamId, int]]:
        return [key for key in self.parked if stream_id is None or key[0] == stream_id]

    def share_of(self, worker: str) -> int:
        return fair_share(len(self.partitions), sorted(self.workers), worker)


class _Pending(Transaction):
    """What is to be done with leases when the transaction commits."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.steps: list[tuple[Callable[[], object], Callable[[], None]]] = []

    def check(self) -> None:
        """Raise LeaseLostError if a step can no longer be done."""
        for check, _ in self.steps:
            check()

    def apply(self) -> None:
        for _, step in self.steps:
            step()


class InMemorySubscriptionStore(SubscriptionStore):
    """Subscription store in memory, for the events of `store`. Use it from one event loop.

    `session` makes what projections get as their session: each call gives a context manager that
    commits at its end or rolls back if the block fails, as the `begin` of a sessionmaker of
    SQLAlchemy does. Without it they get None. `clock` counts the seconds of leases.
    """

    def __init__(
        self,
        store: InMemoryEventStore,
        *,
        session: SessionFactory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = store._log
        self._session: SessionFactory = nullcontext if session is None else session
        self._clock = clock
        self._generations: dict[tuple[str, int], _Generation] = {}
        # A commit lasts: until its end nobody else may change what it has checked.
        self._lock = asyncio.Lock()

    # What a runner calls

    async def register(self, name: str, version: int, partitions: int, *, repeats: bool = True) -> None:
        live = self._live(name) is None
        new = _Generation(name, version, live, [_Partition() for _ in range(partitions)])
        known = self._generations.setdefault((name, version), new)
        if len(known.partitions) != partitions:
            raise ConfigurationError(
                f"{name!r} version {version} has {len(known.partitions)} partitions, not {partitions}; "
                "to change their number, raise the version"
            )
        known.repeats = repeats

    async def beat(self, name: str, version: int, worker: str, seconds: float) -> Sequence[Lease]:
        async with self._lock:
            generation, now = self._find(name, version), self._clock()
            living = {other: until for other, until in generation.workers.items() if until > now}
            generation.workers = {**living, worker: now + seconds}
            share = generation.share_of(worker)
            mine = _take(generation, worker, share, now)
            for number in mine:
                generation.partitions[number].leased_until = now + seconds
            return [_lease(generation, number, order >= share) for order, number in enumerate(mine)]

    async def reload(self, lease: Lease) -> Lease:
        partition = self._held(lease).partitions[lease.partition]
        return replace(lease, cursor=partition.cursor, replay_until=partition.replay_until)

    async def release(self, lease: Lease) -> None:
        async with self._lock:
            generation = self._generations.get((lease.name, lease.version))
            if generation is not None and generation.partitions[lease.partition].token == lease.token:
                generation.partitions[lease.partition].owner = None

    async def leave(self, name: str, version: int, worker: str) -> None:
        async with self._lock:
            generation = self._generations.get((name, version))
            if generation is not None:
                generation.workers.pop(worker, None)
                for partition in generation.partitions:
                    if partition.owner == worker:
                        partition.owner = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with AsyncExitStack() as commit:
            async with self._session() as session:
                transaction = _Pending(session)
                yield transaction
                await commit.enter_async_context(self._lock)
                transaction.check()
            transaction.apply()

    async def save(self, lease: Lease, progress: Progress, transaction: Transaction | None = None) -> None:
        def check() -> _Partition:
            partition = self._held(lease).partitions[lease.partition]
            if partition.cursor != lease.cursor:
                raise LeaseLostError(lease.name, lease.version, lease.partition)
            return partition

        def step() -> None:
            partition = check()
            partition.cursor = progress.cursor
            partition.handled += progress.handled
            partition.error = partition.failed_at = None
            if progress.replayed:
                partition.replay_until = None

        await self._do(transaction, check, step)

    async def park(
        self,
        lease: Lease,
        events: Sequence[EventEnvelope],
        error: str | None,
        attempts: int,
        transaction: Transaction | None = None,
    ) -> None:
        def step() -> None:
            generation = self._held(lease)
            before = generation.parked_streams()
            for event in events:
                _park(generation, event, error, attempts, before)

        await self._do(transaction, lambda: self._held(lease), step)

    async def unpark(
        self, lease: Lease, stream_id: StreamId, event_version: int, transaction: Transaction | None = None
    ) -> None:
        def step() -> None:
            self._held(lease).forget_parked([(stream_id, event_version)])

        await self._do(transaction, lambda: self._held(lease), step)

    async def parked_streams(self, lease: Lease) -> set[StreamId]:
        generation = self._find(lease.name, lease.version)
        return {event.stream_id for event in generation.parked_of(lease.partition)}

    async def to_retry(self, lease: Lease) -> Sequence[ParkedEvent]:
        generation = self._find(lease.name, lease.version)
        due = [e for e in generation.parked_of(lease.partition) if e.stream_id in generation.retry]
        first: dict[StreamId, int] = {}
        for event in due:
            first[event.stream_id] = min(event.position, first.get(event.stream_id, event.position))
        return sorted(due, key=lambda event: (first[event.stream_id], event.event_version))

    async def fail(self, lease: Lease, error: str, stop: bool) -> None:
        async with self._lock:
            partition = self._held(lease).partitions[lease.partition]
            partition.error, partition.failed_at = error, datetime.now(UTC)
            partition.stopped = partition.stopped or stop

    @asynccontextmanager
    async def listen(self, wake: Callable[[], None]) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def heard() -> None:  # appends come from any thread
            loop.call_soon_threadsafe(wake)

        self._log.listeners.add(heard)
        try:
            yield
        finally:
            self._log.listeners.remove(heard)

    # What operators and applications call

    async def statuses(self, name: str | None = None) -> list[SubscriptionStatus]:
        return [self._status(generation) for generation in self._of(name)]

    async def live_version(self, name: str) -> int:
        return self._find(name, None).version

    async def pause(self, name: str, version: int | None = None) -> None:
        async with self._lock:
            _pause(self._find(name, version))

    async def resume(self, name: str, version: int | None = None) -> None:
        generation = self._find(name, version)
        generation.paused = False
        for partition in generation.partitions:
            partition.clear_error()

    async def reset(
        self,
        name: str,
        version: int | None = None,
        *,
        after: Cursor | None = None,
        side_effects: bool = False,
    ) -> None:
        _position(after)
        async with self._lock:
            generation = self._find(name, version)
            for partition in generation.partitions:
                partition.go_back_to(after, side_effects)
            if generation.repeats or side_effects:
                generation.forget_parked(generation.keys_of(None))

    async def switch(self, name: str, version: int, *, within: float = 10.0) -> None:
        new, old = self._find(name, version), self._find(name, None)
        if new is old:
            return
        if len(new.partitions) != len(old.partitions):
            raise ConfigurationError(
                f"{name!r} has {len(old.partitions)} partitions in version {old.version} and "
                f"{len(new.partitions)} in version {version}: to switch, their numbers must be equal"
            )
        was_paused = new.paused
        await self.pause(name, version)
        try:
            await self._switch(old, new, within)
        except BaseException:
            new.paused = was_paused
            raise
        new.paused = False

    async def remove(self, name: str, version: int) -> None:
        async with self._lock:
            generation, now = self._find(name, version), self._clock()
            held = any(partition.is_held(now) for partition in generation.partitions)
            if generation.live and (held or len(list(self._of(name))) > 1):
                raise ConfigurationError(
                    f"{name!r} version {version} is live: switch to another version, or stop its workers if "
                    "it is the only one"
                )
            del self._generations[name, version]

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[ParkedEvent]:
        events = [event for generation in self._of(name) for event in generation.parked.values()]
        return sorted(events, key=lambda event: (event.parked_at, event.position))[:limit]

    async def retry_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        generation = self._find(name, version)
        keys = generation.keys_of(stream_id)
        generation.retry.update(stream_id for stream_id, _ in keys)
        return len(keys)

    async def drop_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        async with self._lock:
            generation = self._find(name, version)
            keys = generation.keys_of(stream_id)
            generation.forget_parked(keys)
            return len(keys)

    async def has_handled(
        self, name: str, stream_id: StreamId, event_version: int, version: int | None = None
    ) -> bool:
        generation = self._find(name, version)
        if (stream_id, event_version) in generation.parked:
            raise EventParkedError(name, stream_id, event_version)
        position = self._log.find(stream_id, event_version)
        partition = generation.partitions[generation.partition_of(stream_id)]
        return position is not None and _position(partition.cursor) >= position

    def _find(self, name: str, version: int | None) -> _Generation:
        """A version, or with None the live one; raises SubscriptionNotFoundError."""
        found = self._live(name) if version is None else self._generations.get((name, version))
        if found is None:
            raise SubscriptionNotFoundError(name, version)
        return found

    def _live(self, name: str) -> _Generation | None:
        of_name = (generation for generation in self._generations.values() if generation.name == name)
        return next((generation for generation in of_name if generation.live), None)

    def _of(self, name: str | None) -> Iterator[_Generation]:
        """The versions of one subscription or of all, in order."""
        found = sorted(key for key in self._generations if name is None or key[0] == name)
        if name is not None and not found:
            raise SubscriptionNotFoundError(name)
        return (self._generations[key] for key in found)

    def _held(self, lease: Lease) -> _Generation:
        """The version that the lease is for; raises LeaseLostError if it is not the current one."""
        generation = self._generations.get((lease.name, lease.version))
        if generation is None or generation.partitions[lease.partition].token != lease.token:
            raise LeaseLostError(lease.name, lease.version, lease.partition)
        return generation

    async def _do(
        self, transaction: Transaction | None, check: Callable[[], object], step: Callable[[], None]
    ) -> None:
        """Do a step now, or when `transaction` commits; `check` raises if it cannot be done."""
        if isinstance(transaction, _Pending):
            check()
            transaction.steps.append((check, step))
        else:
            async with self._lock:
                step()

    async def _switch(self, old: _Generation, new: _Generation, within: float) -> None:
        deadline = time.monotonic() + within
        while True:
            async with self._lock:
                if _is_ahead(old, new):
                    _make_live(old, new)
                    return
            if time.monotonic() >= deadline:
                raise SubscriptionError(
                    f"{new.name!r} version {old.version} has not handled yet what version {new.version} has: "
                    "let its workers run until it is ahead, then switch again"
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _status(self, generation: _Generation) -> SubscriptionStatus:
        partitions = range(len(generation.partitions))
        return SubscriptionStatus(
            generation.name,
            generation.version,
            generation.live,
            tuple(self._partition_status(generation, number) for number in partitions),
            len(generation.parked),
        )

    def _partition_status(self, generation: _Generation, number: int) -> PartitionStatus:
        partition = generation.partitions[number]
        behind, since = self._log.count_after(_position(partition.cursor), MOST_COUNTED)
        held = partition.is_held(self._clock())
        return PartitionStatus(
            number,
            PartitionState.of(stopped=partition.stopped, paused=generation.paused, held=held),
            partition.owner if held else None,
            partition.cursor,
            partition.handled,
            behind,
            0.0 if since is None else (datetime.now(UTC) - since).total_seconds(),
            partition.replay_until is not None,
            partition.error,
            partition.failed_at,
        )


def _position(cursor: Cursor | None) -> int:
    return 0 if cursor is None else position_of(cursor)


def _take(generation: _Generation, worker: str, share: int, now: float) -> list[int]:
    """Give `worker` free and expired partitions up to its share; returns all that it has."""
    mine = [number for number, partition in enumerate(generation.partitions) if partition.owner == worker]
    for number, partition in enumerate(generation.partitions):
        if len(mine) < share and number not in mine and not partition.is_held(now):
            partition.owner, partition.token = worker, partition.token + 1
            mine.append(number)
    return sorted(mine)


def _lease(generation: _Generation, number: int, surplus: bool) -> Lease:
    partition = generation.partitions[number]
    return Lease(
        generation.name,
        generation.version,
        number,
        partition.token,
        partition.cursor,
        partition.replay_until,
        live=generation.live,
        active=not (generation.paused or partition.stopped),
        retry=any(generation.partition_of(stream_id) == number for stream_id in generation.retry),
        surplus=surplus,
    )


def _park(
    generation: _Generation, event: EventEnvelope, error: str | None, attempts: int, before: set[StreamId]
) -> None:
    """Park one event; `before` are the streams of which some were parked before."""
    key = event.stream_id, event.version
    known = generation.parked.get(key)
    if error is None and known is not None:
        return
    generation.parked[key] = ParkedEvent(
        generation.name,
        generation.version,
        event.stream_id,
        event.version,
        event.event_type,
        event.position or 0,
        error,
        attempts,
        datetime.now(UTC) if known is None else known.parked_at,
    )
    if error is not None:
        generation.retry.discard(event.stream_id)
    elif event.stream_id not in before:
        # What it was to wait for has been dropped meanwhile: nothing else would have it handled.
        generation.retry.add(event.stream_id)


def _is_ahead(old: _Generation, new: _Generation) -> bool:
    """True if `old` has handled in every partition what `new` has."""
    pairs = zip(old.partitions, new.partitions, strict=True)
    return all(one.is_at_or_after(other.cursor) for one, other in pairs)


def _pause(generation: _Generation) -> None:
    """Let it rest at once: with the new tokens nothing moves, whatever the workers have in hand."""
    generation.paused = True
    for partition in generation.partitions:
        partition.token += 1


def _make_live(old: _Generation, new: _Generation) -> None:
    for before, partition in zip(old.partitions, new.partitions, strict=True):
        handled = before.replay_until or before.cursor
        partition.replay_until = handled if _position(handled) > _position(partition.cursor) else None
        before.token += 1  # fenced out: it fires nothing after the new one begins
        partition.token += 1
    old.live, new.live = False, True
