"""Load, decide, append: and once more on what is new, if somebody else was first."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import perf_counter
from typing import Any, Final, Generic, Self, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity import wait_random_exponential as jittered

from k1s0_event_store.aggregates.loaded import Loaded
from k1s0_event_store.aggregates.loader import AggregateLoader
from k1s0_event_store.aggregates.snapshot_policy import Saved, SnapshotPolicy
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.exceptions import AggregateNotFoundError, ConcurrencyError, InvalidInputError, shown

S = TypeVar("S")
Decide = Callable[[Loaded[S]], Awaitable[Sequence[Any]]]

logger = logging.getLogger("k1s0_event_store.aggregates")

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.5
_MOST_LOAD_TIMES: Final = 1_000


@dataclass(frozen=True)
class Transactor(Generic[S]):
    """What repositories do, for both styles of aggregates."""

    loader: AggregateLoader[S]
    aggregate_type: str
    policy: SnapshotPolicy
    in_background: bool
    attempts: int
    is_bound: bool = False
    """True inside a caller's transaction: nothing is retried, and snapshots are part of it."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    load_times: OrderedDict[StreamId, float] = field(default_factory=OrderedDict)
    """Seconds that the last loads took, for the policy."""

    def within(self, session: Any) -> Self:
        """The same inside the caller's transaction."""
        return replace(self, loader=self.loader.within(session), is_bound=True)

    def stream_id(self, aggregate_id: str) -> StreamId:
        """The stream of an aggregate; raises InvalidInputError."""
        return StreamId(self.aggregate_type, aggregate_id)

    async def load(self, aggregate_id: str, version: int | None, at: datetime | None) -> Loaded[S]:
        """Raises AggregateNotFoundError, InvalidInputError for a version that is not there yet."""
        stream_id = self.stream_id(aggregate_id)
        _check_moment(version, at)
        if version is None and at is None:
            loaded = await self._load_latest(stream_id)
        else:
            loaded = await self.loader.load(stream_id, version, at)
        if not loaded.version:
            raise AggregateNotFoundError(stream_id)
        if version is not None and loaded.version < version:
            raise InvalidInputError(f"{stream_id} is at version {loaded.version}, not yet at {version}")
        return loaded

    async def transact(
        self,
        aggregate_id: str,
        decide: Decide[S],
        metadata: Mapping[str, Any] | None,
        must_exist: bool,
    ) -> Loaded[S]:
        """Load, decide and append, again while others are first. The state is the one that was decided on."""
        stream_id = self.stream_id(aggregate_id)
        loaded = await self._load_latest(stream_id)
        if must_exist and not loaded.version:
            raise AggregateNotFoundError(stream_id)
        if self.is_bound:
            return await self._transact_once(stream_id, loaded, decide, metadata)
        loaded = self.loader.freeze(loaded)
        try:
            return await self._attempt(stream_id, loaded, decide, metadata)
        except ConcurrencyError as error:
            if self.attempts == 1 or not error.retryable:
                raise

        async def attempt_anew() -> Loaded[S]:
            nonlocal loaded
            loaded = self.loader.freeze(await self.loader.catch_up(stream_id, loaded))
            return await self._attempt(stream_id, loaded, decide, metadata)

        return await self._retrying(self.attempts - 1)(attempt_anew)

    async def append(
        self,
        stream_id: StreamId,
        version: int,
        events: Sequence[Any],
        metadata: Mapping[str, Any] | None,
    ) -> int:
        """Append what was decided at `version`, return the new one, and snapshot as the policy says."""
        store = self.loader.store
        envelopes = await store.envelopes(stream_id, events, metadata)
        new_version = await store.store.append(stream_id, envelopes, version)
        if self.loader.snapshotting is not None:
            types = frozenset(envelope.event_type for envelope in envelopes)
            seconds = self.load_times.get(stream_id, 0.0)
            if self.policy.is_due(Saved(version, new_version, events, types, seconds)):
                await self._snapshot(stream_id)
        return new_version

    async def settle(self) -> None:
        """Wait for snapshots that are being taken in the background."""
        await asyncio.gather(*self.tasks)

    async def _load_latest(self, stream_id: StreamId) -> Loaded[S]:
        started = perf_counter()
        loaded = await self.loader.load(stream_id)
        self.load_times[stream_id] = perf_counter() - started
        if len(self.load_times) > _MOST_LOAD_TIMES:
            self.load_times.popitem(last=False)
        return self.loader.keep(stream_id, loaded)

    def _retrying(self, attempts: int) -> AsyncRetrying:
        return AsyncRetrying(
            stop=stop_after_attempt(attempts),
            wait=jittered(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            retry=retry_if_exception(lambda error: isinstance(error, ConcurrencyError) and error.retryable),
            reraise=True,
        )

    async def _attempt(
        self, stream_id: StreamId, loaded: Loaded[S], decide: Decide[S], metadata: Mapping[str, Any] | None
    ) -> Loaded[S]:
        version, events = loaded.version, await decide(loaded)
        if events:
            version = await self.append(stream_id, version, events, metadata)
        return replace(loaded, version=version)

    async def _transact_once(
        self, stream_id: StreamId, loaded: Loaded[S], decide: Decide[S], metadata: Mapping[str, Any] | None
    ) -> Loaded[S]:
        try:
            return await self._attempt(stream_id, loaded, decide, metadata)
        except ConcurrencyError as error:
            error.add_note(
                "not retried: it is your transaction. Roll back and run it again, or lock the stream before "
                "you load: await store.within(session).lock(stream_id)"
            )
            raise

    async def _snapshot(self, stream_id: StreamId) -> None:
        if self.is_bound:
            await self._take_snapshot(stream_id)
        elif self.in_background:
            task = asyncio.create_task(self._try_snapshot(stream_id))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            await self._try_snapshot(stream_id)

    async def _try_snapshot(self, stream_id: StreamId) -> None:
        """The events are stored: that there is no snapshot must not look as if they were not."""
        try:
            await self._take_snapshot(stream_id)
        except Exception as error:
            logger.warning("%s: no snapshot was taken", stream_id, exc_info=error)

    async def _take_snapshot(self, stream_id: StreamId) -> None:
        """Of what is stored, and not of what the caller has in hand."""
        await self.loader.save_snapshot(stream_id, await self._load_latest(stream_id))


def _check_moment(version: object, at: object) -> None:
    if version is not None and at is not None:
        raise InvalidInputError("give a version or a time, not both")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise InvalidInputError(f"version must be a whole number from 1 on, not {shown(version)}")
    if at is not None and (not isinstance(at, datetime) or at.utcoffset() is None):
        raise InvalidInputError(f"at must be a timezone-aware datetime, not {shown(at)}")
