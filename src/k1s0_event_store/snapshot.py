"""Snapshots: the value, and what every snapshot store provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from k1s0_event_store.batch import check_stream_id
from k1s0_event_store.closing import AsyncClosing, SyncClosing
from k1s0_event_store.envelope import MAX_VERSION, StreamId, check_version
from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.jsontext import encode
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class Snapshot:
    """State of an aggregate after the event of `version`; `state` is JSON, `taken_at` UTC."""

    stream_id: StreamId
    version: int
    state: Any
    taken_at: datetime
    schema_version: int = 1


class SnapshotSchedule(ABC):
    """When a snapshot is due: the same for async and blocking stores."""

    @property
    @abstractmethod
    def snapshot_interval(self) -> int:
        """Events after which a new snapshot is due."""

    def is_due(self, version: int, last_snapshot_version: int = 0) -> bool:
        """True once `snapshot_interval` events or more have come since the last snapshot."""
        return version - last_snapshot_version >= self.snapshot_interval


class SnapshotStore(AsyncClosing, SnapshotSchedule):
    """Keeps states of aggregates. A cache: whatever it answers, the events decide.

    After `close` every call raises StoreClosedError.
    """

    @abstractmethod
    def within(self, session: Any) -> Self:
        """The same store inside the caller's transaction; it never commits."""

    @abstractmethod
    async def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        """Keep `state` (JSON) as of `version`; the same version again replaces, a newer one stays newest.

        `schema_version` is the version of the state's own layout. Raises InvalidInputError.
        """

    @abstractmethod
    async def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        """The newest snapshot, of this `schema_version` and not beyond `max_version` if given; else None."""


class SyncSnapshotStore(SyncClosing, SnapshotSchedule):
    """SnapshotStore for blocking code: the same verbs, meanings and errors."""

    @abstractmethod
    def within(self, session: Any) -> Self:
        """See SnapshotStore.within."""

    @abstractmethod
    def save(self, stream_id: StreamId, version: int, state: Any, *, schema_version: int = 1) -> None:
        """See SnapshotStore.save."""

    @abstractmethod
    def load_latest(
        self, stream_id: StreamId, *, schema_version: int | None = None, max_version: int | None = None
    ) -> Snapshot | None:
        """See SnapshotStore.load_latest."""


def encode_state(
    stream_id: object,
    version: object,
    state: object,
    schema_version: object,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """Check what `save` is given and return the JSON text of `state`; raises InvalidInputError."""
    stream = check_stream_id(stream_id)
    if check_version(version, "version") == 0:
        raise InvalidInputError("a snapshot needs a version from 1 on: version 0 has no events")
    check_version(schema_version, "schema_version")
    limits.check_names((stream.aggregate_type, stream.aggregate_id))
    try:
        text = encode(state)
    except ValueError as exc:
        limits.check_nesting(state)
        raise InvalidInputError(f"the state of {stream} cannot be saved: {exc}") from exc
    limits.check_texts("state", [text], each_of_an_event=False)
    return text


def check_snapshot_query(stream_id: object, schema_version: object, max_version: object) -> int:
    """Check what `load_latest` is given and return the highest version it may answer."""
    check_stream_id(stream_id)
    if schema_version is not None:
        check_version(schema_version, "schema_version")
    return MAX_VERSION if max_version is None else check_version(max_version, "max_version")
