"""States as snapshots: with what tells whether one can be used, and encrypted if it holds personal data."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

from k1s0_event_store.aggregates.loaded import Loaded
from k1s0_event_store.aggregates.state_codec import StateCodec
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.events.typed import TypedEventStore
from k1s0_event_store.exceptions import (
    ConfigurationError,
    CorruptDataError,
    EventStoreError,
    PersonalDataError,
)
from k1s0_event_store.sealer import FORGOTTEN, Sealer, is_sealed_state, state_key_ids
from k1s0_event_store.snapshot import Snapshot, SnapshotStore

S = TypeVar("S")

logger = logging.getLogger("k1s0_event_store.aggregates")

FIRST_EVENTS: Final = 100
"""Read together with a snapshot: more than come between two, and no large answer."""


@dataclass(frozen=True)
class Snapshotting(Generic[S]):
    """Keeps states in `snapshots` and reads them back."""

    snapshots: SnapshotStore
    codec: StateCodec[S]
    schema_version: int

    def within(self, session: Any) -> Self:
        """The same inside the caller's transaction."""
        return replace(self, snapshots=self.snapshots.within(session))

    async def save(self, store: TypedEventStore, stream_id: StreamId, loaded: Loaded[S]) -> None:
        """Keep a state, unless it would come back changed, or somebody in it was forgotten meanwhile."""
        state = self._dumped(stream_id, loaded.state)
        if state is None:
            return
        if loaded.keys and store.sealer is not None:
            state = await store.sealer.seal_state(loaded.keys, _place(stream_id, loaded.version), state)
        if state is not FORGOTTEN:
            content = {
                "fingerprint": self.codec.fingerprint,
                "event_id": str(loaded.event_id),
                "state": state,
            }
            await self.snapshots.save(stream_id, loaded.version, content, schema_version=self.schema_version)

    def _dumped(self, stream_id: StreamId, state: S) -> Any:
        try:
            value = self.codec.dump(state)
            if self.codec.keeps(state, value):
                return value
            logger.error(
                "%s: no snapshot was taken, it would not be restored to the same %s: give the fields of the "
                "state types that tell what is in them, or the class to_snapshot() and from_snapshot(value)",
                stream_id,
                type(state).__name__,
            )
        except Exception:
            logger.exception("%s: no snapshot was taken, the state has no JSON", stream_id)
        return None

    async def load(
        self, store: TypedEventStore, stream_id: StreamId, to_version: int | None, new: Loaded[S]
    ) -> tuple[Loaded[S] | None, Sequence[EventEnvelope]]:
        """Where a fold begins (`new` without a snapshot), and the first events from there on.

        None if the newest snapshot cannot be used: it has another layout, cannot be read, or somebody
        in it is forgotten.
        """
        snapshot, head = await store.store.load_since_snapshot(
            stream_id,
            self.snapshots,
            schema_version=self.schema_version,
            max_version=to_version,
            limit=FIRST_EVENTS,
        )
        if snapshot is None:
            return new, head
        return await self._restored(store.sealer, stream_id, snapshot), head

    async def _restored(
        self, sealer: Sealer | None, stream_id: StreamId, snapshot: Snapshot
    ) -> Loaded[S] | None:
        try:
            content = snapshot.state
            if content["fingerprint"] != self.codec.fingerprint:
                logger.info("%s: the snapshot has another layout; replaying", stream_id)
                return None
            place = _place(stream_id, snapshot.version)
            keys, state = await _unsealed(sealer, place, content["state"])
            if state is FORGOTTEN:
                return None
            restored = self.codec.restore(state)
            return Loaded(restored, snapshot.version, UUID(content["event_id"]), keys)
        except Exception as error:
            if isinstance(error, EventStoreError) and not isinstance(error, _DAMAGE):
                raise
            logger.warning("%s: the snapshot cannot be read; replaying", stream_id, exc_info=error)
            return None


async def _unsealed(sealer: Sealer | None, place: str, state: Any) -> tuple[frozenset[str], Any]:
    """A state, and the keys that it was sealed with."""
    if not is_sealed_state(state):
        return frozenset(), state
    if sealer is None:
        raise ConfigurationError("the snapshot holds personal data: give keys=..., the store of its keys")
    return frozenset(state_key_ids(place, state)), await sealer.unseal_state(place, state)


_DAMAGE: Final = (CorruptDataError, PersonalDataError)


def _place(stream_id: StreamId, version: int) -> str:
    """What a sealed state belongs to."""
    return json.dumps([stream_id.aggregate_type, stream_id.aggregate_id, version])
