"""Loading aggregates: from the cache, a snapshot or the beginning, and then the events since.

Whatever it begins with, the answer is the fold of the stored events. Cache and snapshots hold states
that were folded here, never what a caller had in hand.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from k1s0_event_store.aggregates.cache import AggregateCache, CachedAggregate
from k1s0_event_store.aggregates.loaded import Loaded
from k1s0_event_store.aggregates.snapshotting import FIRST_EVENTS, Snapshotting
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.events.protection import keys_of
from k1s0_event_store.events.typed import TypedEventStore

S = TypeVar("S")

logger = logging.getLogger("k1s0_event_store.aggregates")


@dataclass(frozen=True)
class AggregateLoader(Generic[S]):
    """Folds streams into states with `initial(stream_id)` and `evolve(state, event)`."""

    store: TypedEventStore
    initial: Callable[[StreamId], S]
    evolve: Callable[[S, Any], S]
    name: str
    kind: Hashable
    """Tells aggregates from others of the same streams in a shared cache."""
    snapshotting: Snapshotting[S] | None = None
    cache: AggregateCache | None = None

    def within(self, session: Any) -> Self:
        """The same inside the caller's transaction."""
        snapshotting = None if self.snapshotting is None else self.snapshotting.within(session)
        return replace(self, store=self.store.within(session), snapshotting=snapshotting)

    async def load(
        self, stream_id: StreamId, to_version: int | None = None, at: datetime | None = None
    ) -> Loaded[S]:
        """The state now, or after the event of `to_version`, or as the stream stood `at` a time."""
        found = None
        if to_version is None and at is None:
            found = await self._from_cache(stream_id)
        if found is None and at is None:
            found = await self._from_snapshot(stream_id, to_version)
        if found is None:
            found = await self._fold(stream_id, self._new(stream_id), to_version, at)
        return found or self._new(stream_id)

    async def catch_up(self, stream_id: StreamId, before: Loaded[S]) -> Loaded[S]:
        """What `before` was when it was pickled, and the events since."""
        found = None
        if before.pickled is not None:
            found = await self._fold(stream_id, replace(before, state=_unpickled(before.pickled)))
        return found or await self.load(stream_id)

    def freeze(self, loaded: Loaded[S]) -> Loaded[S]:
        """`loaded` with its state pickled, if that can be done; before anybody can change it."""
        if loaded.pickled is not None:
            return loaded
        try:
            return replace(loaded, pickled=pickle.dumps(loaded.state, pickle.HIGHEST_PROTOCOL))
        except Exception:
            logger.debug("%s cannot be pickled: it is loaded anew where a copy would do", self.name)
            return loaded

    def keep(self, stream_id: StreamId, loaded: Loaded[S]) -> Loaded[S]:
        """Put what was loaded into the cache, if there is one; answers with `loaded`, pickled for it.

        If its events are rolled back, it is found out by their ids.
        """
        if self.cache is None or loaded.event_id is None:
            return loaded
        known = self.freeze(loaded)
        if known.pickled is not None:
            entry = CachedAggregate(known.pickled, known.version, loaded.event_id, loaded.keys)
            self.cache.put((self.kind, stream_id), entry)
        return known

    async def save_snapshot(self, stream_id: StreamId, loaded: Loaded[S]) -> None:
        """Keep the state as a snapshot."""
        if self.snapshotting is not None:
            await self.snapshotting.save(self.store, stream_id, loaded)

    async def _fold(
        self,
        stream_id: StreamId,
        begin: Loaded[S],
        to_version: int | None = None,
        at: datetime | None = None,
        head: Sequence[EventEnvelope] | None = None,
    ) -> Loaded[S] | None:
        """`begin` and the events after it; None if its event does not stand in the stream (any more).

        `head` are the first events from that one on, if they were read already.
        """
        state, last, keys, is_there = begin.state, None, begin.keys, not begin.version
        async for stored, events in self._read(stream_id, begin.version, to_version, head):
            if stored.version == begin.version:
                is_there = stored.event_id == begin.event_id
            if not is_there or (
                at is not None and stored.recorded_at is not None and stored.recorded_at > at
            ):
                break
            if stored.version > begin.version:
                state, last = self._evolved(state, events), stored
                keys = keys | keys_of(stored) if events else keys
        if not is_there:
            return None
        if last is None:
            return begin
        return Loaded(state, last.version, last.event_id, keys)

    async def _from_cache(self, stream_id: StreamId) -> Loaded[S] | None:
        key = (self.kind, stream_id)
        entry = None if self.cache is None else self.cache.get(key)
        if self.cache is None or entry is None:
            return None
        found = None
        if not entry.keys or (self.store.sealer and await self.store.sealer.still_known(entry.keys)):
            state = _unpickled(entry.state)
            begin = Loaded(state, entry.version, entry.event_id, entry.keys, entry.state)
            found = await self._fold(stream_id, begin)
        if found is None:
            self.cache.drop(key)
        return found

    async def _from_snapshot(self, stream_id: StreamId, to_version: int | None) -> Loaded[S] | None:
        """From the newest snapshot, or the beginning; None if the snapshot is none that can be used."""
        if self.snapshotting is None:
            return None
        new = self._new(stream_id)
        begin, head = await self.snapshotting.load(self.store, stream_id, to_version, new)
        return None if begin is None else await self._fold(stream_id, begin, to_version, head=head)

    async def _read(
        self, stream_id: StreamId, version: int, to_version: int | None, head: Sequence[EventEnvelope] | None
    ) -> AsyncIterator[tuple[EventEnvelope, list[EventEnvelope]]]:
        """The events from `version` on, with what each is today."""
        if head is not None:
            for pair in await self.store.decoded_pairs(head):
                yield pair
            if len(head) < FIRST_EVENTS:
                return
            version = head[-1].version + 1
        async for pair in self.store.decoded(stream_id, version, to_version):
            yield pair

    def _new(self, stream_id: StreamId) -> Loaded[S]:
        return Loaded(self.initial(stream_id))

    def _evolved(self, state: S, events: Sequence[EventEnvelope]) -> S:
        for event in events:
            try:
                state = self.evolve(state, event.payload)
            except Exception as error:
                what = f"version {event.version} of {event.stream_id} ({event.event_type})"
                error.add_note(f"while {self.name} applied {what}")
                raise
        return state


def _unpickled(state: bytes) -> Any:
    return pickle.loads(state)  # noqa: S301 pickled by this process
