"""What every event store provides: the contract in its async and its blocking form.

Streams. The first event of a stream has version 1 and versions have no gaps. A stream without
events is at version 0, loads as [] and does not exist. What `append` is given is only read.

Order. Events of one stream are ordered by version; the feed (`read_all`, see feed.py) orders all
events so that each stream stays in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar

from k1s0_event_store.batch import check_stream_id
from k1s0_event_store.closing import AsyncClosing, SyncClosing
from k1s0_event_store.envelope import (
    MAX_VERSION,
    EventEnvelope,
    EventVersion,
    ExpectedVersion,
    StreamId,
    check_version,
)
from k1s0_event_store.exceptions import InvalidInputError, shown
from k1s0_event_store.feed import (
    EVERYTHING,
    LARGEST_PAGE,
    AllEvents,
    Cursor,
    EventFilter,
    FeedPage,
    SyncAllEvents,
    Where,
)
from k1s0_event_store.message import Message, events_by_key
from k1s0_event_store.runs import check_events, runs_of
from k1s0_event_store.snapshot import Snapshot, SnapshotStore, SyncSnapshotStore

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Replay(Generic[S]):
    """State of an aggregate at `version`; `snapshot_version` is where the fold began (0: at the start)."""

    state: S
    version: int
    snapshot_version: int = 0


class EventStore(AsyncClosing, ABC):
    """Append-only streams of events with optimistic locking.

    After `close` every call raises StoreClosedError.
    """

    @abstractmethod
    def within(self, session: Any) -> Self:
        """The same store inside the caller's transaction.

        It reads what that transaction sees, writes what it commits, and never commits, rolls back
        or closes it. In-memory stores have no transactions and answer with themselves.
        """

    @abstractmethod
    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        """Add `events` at the end of the stream, all or none; returns the new last version.

        `expected_version`: None adds whatever the version is, 0 wants a new stream, n a stream at
        exactly n, STREAM_EXISTS any stream with events. No events: only the check is made.

        The same batch again (same event ids) writes nothing and returns what the first one did.
        Event ids are unique among the events of one aggregate id.

        Raises ConcurrencyError, StreamNotFoundError (STREAM_EXISTS), DuplicateEventError,
        InvalidInputError (LimitExceededError for what is too large) before anything is sent,
        OutcomeUnknownError when the connection breaks (repeat the same batch).
        """

    async def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        """Store events of any streams with the versions that they have; returns how many were new.

        They are copies from elsewhere, as the feed of another store gives them: id, type, payload,
        metadata and `occurred_at` stay, `position` and `recorded_at` are drawn anew, in the order of
        the batch. What stands in a stream already with the same id and type is skipped, so a batch may
        be repeated. On PostgreSQL a batch is one transaction and travels by COPY. Elsewhere it is an
        append per stream: what was refused may leave streams before it behind.

        Raises InvalidEventError for a version that follows no other, or where another event stands,
        LimitExceededError, DuplicateEventError, ConcurrencyError and OutcomeUnknownError (repeat the same
        batch).
        """
        imported = 0
        for run in runs_of(check_events(events)):
            stored = await self.load(run.stream_id, run.first, run.last)
            missing = run.without([(event.event_id, event.event_type) for event in stored])
            if missing.events:
                with missing.refusals():
                    await self.append(missing.stream_id, missing.unnumbered(), missing.first - 1)
            imported += len(missing.events)
        return imported

    @abstractmethod
    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        """The events from `from_version` to `to_version`, both included, oldest first.

        `backwards` turns the order; `limit` takes that many from the beginning of the answer.
        """

    @abstractmethod
    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        """The events of `load`, oldest first, one by one in constant memory.

        No connection is held while the consumer works. Events appended meanwhile may be included.
        """

    async def load_since_snapshot(
        self,
        stream_id: StreamId,
        snapshots: SnapshotStore,
        *,
        schema_version: int | None = None,
        max_version: int | None = None,
        limit: int = LARGEST_PAGE,
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        """What `snapshots.load_latest` answers, and the events from that version on, at most `limit`.

        Without a snapshot the events begin with the first. One round trip where both stores share
        their database; the two are read one after the other elsewhere.
        """
        snapshot = await snapshots.load_latest(
            stream_id, schema_version=schema_version, max_version=max_version
        )
        first = 0 if snapshot is None else snapshot.version
        return snapshot, await self.load(stream_id, first, max_version, limit=limit)

    @abstractmethod
    async def current_version(self, stream_id: StreamId) -> EventVersion:
        """Version of the last event, 0 if there is none."""

    async def exists(self, stream_id: StreamId) -> bool:
        """True if the stream has events."""
        return await self.current_version(stream_id) > 0

    @abstractmethod
    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        """Keep other writers from this stream until the caller's transaction ends; returns its version.

        Call it before loading when a stream is contended: load, decide and append then cannot lose.
        Works for streams without events too. `wait` is the limit in seconds (None: the server's).
        Raises LockTimeoutError (a given limit leaves the transaction usable), and
        TransactionRequiredError outside `within`.
        """

    async def enqueue(self, *messages: Message) -> None:
        """Keep messages that are no events until a Relay publishes them; `within` it is the caller's commit.

        Those of one key stay in order. They are events of their own (see message.py), so a message with
        the same id again is kept once. Raises DuplicateEventError if that id was used with another
        message of the key before it, InvalidInputError.
        """
        for key, events in events_by_key(messages).items():
            await self.append(key, events)

    @abstractmethod
    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        """The next events after a place in the feed (None: the beginning), at most `limit`.

        Of what is committed at the call nothing is left out: not what commits later than an event
        with a higher position. `until` ends the feed exactly at an earlier cursor. Raises
        InvalidInputError, ClusterChangedError.
        """

    @abstractmethod
    async def latest_cursor(self) -> Cursor:
        """The place after everything that is committed now: go on from it for what comes later."""

    def read_all(
        self,
        after: Cursor | None = None,
        *,
        aggregate_types: Sequence[str] | None = None,
        event_types: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> AllEvents:
        """Every event committed before the reading begins, in the order of the feed, in constant memory.

        `after` goes on from the `cursor` of an earlier reading. Filters are joined by "and"; `where`
        sees each event of the types that are wanted.
        """
        only = EventFilter.of(aggregate_types, event_types)
        return AllEvents(partial(self.read_page, only=only), after, where, self.reads_ahead)

    @property
    def reads_ahead(self) -> bool:
        """True if a page may be read while another one is on its way."""
        return False

    async def replay(
        self,
        stream_id: StreamId,
        apply: Callable[[S, EventEnvelope], S],
        initial: S,
        snapshots: SnapshotStore | None = None,
        *,
        restore: Callable[[Any], S] | None = None,
        schema_version: int = 1,
        to_version: int | None = None,
    ) -> Replay[S]:
        """Fold `apply` over the stream, from the newest usable snapshot if `snapshots` is given.

        A snapshot is usable if it has this `schema_version` and is not beyond `to_version`.
        `restore` makes the state from the snapshot's JSON (default: the JSON itself).
        """
        snapshot = None
        if snapshots is not None:
            snapshot = await snapshots.load_latest(
                stream_id, schema_version=schema_version, max_version=to_version
            )
        state, version = replay_start(snapshot, initial, restore)
        start = version
        async for event in self.stream(stream_id, start + 1, to_version):
            state, version = apply(state, event), event.version
        return Replay(state, version, start)


class SyncEventStore(SyncClosing, ABC):
    """EventStore for blocking code: the same verbs, meanings and errors."""

    @abstractmethod
    def within(self, session: Any) -> Self:
        """See EventStore.within."""

    @abstractmethod
    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        """See EventStore.append."""

    def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        """See EventStore.import_batch."""
        imported = 0
        for run in runs_of(check_events(events)):
            stored = self.load(run.stream_id, run.first, run.last)
            missing = run.without([(event.event_id, event.event_type) for event in stored])
            if missing.events:
                with missing.refusals():
                    self.append(missing.stream_id, missing.unnumbered(), missing.first - 1)
            imported += len(missing.events)
        return imported

    @abstractmethod
    def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        """See EventStore.load."""

    @abstractmethod
    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> Iterator[EventEnvelope]:
        """See EventStore.stream."""

    def load_since_snapshot(
        self,
        stream_id: StreamId,
        snapshots: SyncSnapshotStore,
        *,
        schema_version: int | None = None,
        max_version: int | None = None,
        limit: int = LARGEST_PAGE,
    ) -> tuple[Snapshot | None, list[EventEnvelope]]:
        """See EventStore.load_since_snapshot."""
        snapshot = snapshots.load_latest(stream_id, schema_version=schema_version, max_version=max_version)
        first = 0 if snapshot is None else snapshot.version
        return snapshot, self.load(stream_id, first, max_version, limit=limit)

    @abstractmethod
    def current_version(self, stream_id: StreamId) -> EventVersion:
        """See EventStore.current_version."""

    def exists(self, stream_id: StreamId) -> bool:
        """See EventStore.exists."""
        return self.current_version(stream_id) > 0

    @abstractmethod
    def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        """See EventStore.lock."""

    def enqueue(self, *messages: Message) -> None:
        """See EventStore.enqueue."""
        for key, events in events_by_key(messages).items():
            self.append(key, events)

    @abstractmethod
    def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        """See EventStore.read_page."""

    @abstractmethod
    def latest_cursor(self) -> Cursor:
        """See EventStore.latest_cursor."""

    def read_all(
        self,
        after: Cursor | None = None,
        *,
        aggregate_types: Sequence[str] | None = None,
        event_types: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> SyncAllEvents:
        """See EventStore.read_all."""
        only = EventFilter.of(aggregate_types, event_types)
        return SyncAllEvents(partial(self.read_page, only=only), after, where)

    def replay(
        self,
        stream_id: StreamId,
        apply: Callable[[S, EventEnvelope], S],
        initial: S,
        snapshots: SyncSnapshotStore | None = None,
        *,
        restore: Callable[[Any], S] | None = None,
        schema_version: int = 1,
        to_version: int | None = None,
    ) -> Replay[S]:
        """See EventStore.replay."""
        snapshot = None
        if snapshots is not None:
            snapshot = snapshots.load_latest(stream_id, schema_version=schema_version, max_version=to_version)
        state, version = replay_start(snapshot, initial, restore)
        start = version
        for event in self.stream(stream_id, start + 1, to_version):
            state, version = apply(state, event), event.version
        return Replay(state, version, start)


def replay_start(snapshot: Snapshot | None, initial: S, restore: Callable[[Any], S] | None) -> tuple[S, int]:
    """State and version that a replay begins with."""
    if snapshot is None:
        return initial, 0
    return (snapshot.state if restore is None else restore(snapshot.state)), snapshot.version


@dataclass(frozen=True, slots=True)
class Span:
    """A checked range of versions, both ends included; at most `limit` events, oldest first or backwards."""

    first: int
    last: int
    limit: int | None = None
    backwards: bool = False


def check_span(
    stream_id: object,
    from_version: object = 0,
    to_version: object = None,
    limit: object = None,
    backwards: bool = False,
) -> Span:
    """Check what `load` and `stream` are given; raises InvalidInputError."""
    check_stream_id(stream_id)
    return Span(
        check_version(from_version, "from_version"),
        MAX_VERSION if to_version is None else check_version(to_version, "to_version"),
        None if limit is None else check_version(limit, "limit"),
        backwards,
    )


def check_wait(wait: object) -> None:
    """Check the limit that `lock` is given; raises InvalidInputError."""
    if wait is not None and (
        isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < 2e6
    ):
        raise InvalidInputError(f"wait must be seconds from 0 on, or None, not {shown(wait)}")
