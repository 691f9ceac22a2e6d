"""An event store that takes and gives typed events: every way of reading upcasts and decodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import chain
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel

from k1s0_event_store.batch import check_stream_id
from k1s0_event_store.envelope import EventEnvelope, EventVersion, ExpectedVersion, StreamId
from k1s0_event_store.events.protection import seal, unseal
from k1s0_event_store.events.registry import EventRegistry, Unknown, check_unknown
from k1s0_event_store.exceptions import ConfigurationError, InvalidEventError, InvalidInputError
from k1s0_event_store.feed import AllEvents, Cursor, EventFilter, FeedPage, Where
from k1s0_event_store.garbage import CollectionPaused
from k1s0_event_store.keys import KeyStore
from k1s0_event_store.metadata import current_metadata
from k1s0_event_store.sealer import Sealer
from k1s0_event_store.snapshot import SnapshotStore
from k1s0_event_store.store import EventStore, Replay, replay_start
from k1s0_event_store.subscription import Handler

S = TypeVar("S")
Types = Sequence[str | type]

_CHUNK: Final = 100
"""Events that are decoded together in `stream`."""


class TypedEventStore:
    """`store` for objects instead of JSON: what `events` registers goes in, and comes out as today's types.

    Envelopes that are read have the object as `payload`. An old event may come out as none or as
    several (see EventRegistry.upcast). `unknown` says what becomes of events that are not
    registered: "error", "skip" or "raw". Appended events get the metadata of `event_metadata(...)`
    and of the event that is being handled. `keys` are for models with personal fields: see Personal.

    The store stays the caller's: it is not closed here.
    """

    def __init__(
        self,
        store: EventStore,
        events: EventRegistry,
        *,
        keys: KeyStore | None = None,
        unknown: Unknown = "error",
    ) -> None:
        self.store = store
        self.events = events
        self.sealer = None if keys is None else Sealer(keys)
        self.unknown: Unknown = check_unknown(unknown)

    def within(self, session: Any) -> Self:
        """The same store inside the caller's transaction; see EventStore.within."""
        bound = copy(self)
        bound.store = self.store.within(session)
        bound.sealer = None if self.sealer is None else self.sealer.within(session)
        return bound

    async def append(
        self,
        stream_id: StreamId,
        events: Sequence[object],
        expected_version: ExpectedVersion = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> EventVersion:
        """Append objects (or envelopes that hold them); see EventStore.append.

        `metadata` is added to each event and wins over what flows by itself; None takes a name away.
        Raises InvalidEventError before anything is sent if one is not registered or does not fit its model.
        """
        envelopes = await self.envelopes(stream_id, events, metadata)
        return await self.store.append(stream_id, envelopes, expected_version)

    async def envelopes(
        self, stream_id: StreamId, events: Sequence[object], metadata: Mapping[str, Any] | None = None
    ) -> list[EventEnvelope]:
        """What `append` would store: to repeat a batch, append these to `store` again."""
        check_stream_id(stream_id)
        if isinstance(events, BaseModel | Mapping) or not isinstance(events, Iterable):
            raise InvalidInputError(f"events must be a list of events, not {type(events).__name__}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidInputError(f"metadata must be a mapping, not {type(metadata).__name__}")
        combined = {**current_metadata(), **(metadata or {})}
        combined = {name: value for name, value in combined.items() if value is not None}
        made = []
        for index, event in enumerate(events):
            try:
                made.append(self._envelope(stream_id, event, combined))
            except ConfigurationError:
                raise
            except InvalidInputError as error:
                raise InvalidEventError(stream_id, index, str(error)) from error
        return made if self.sealer is None else await seal(self.sealer, made, self.events.is_personal)

    def _envelope(self, stream_id: StreamId, event: object, metadata: Mapping[str, Any]) -> EventEnvelope:
        made = self.events.envelope(stream_id, event, metadata, sealing=self.sealer is not None)
        if self.sealer is None and self.events.is_personal(made.event_type):
            raise ConfigurationError(
                f"{made.event_type!r} has personal fields: give keys=..., the store of their keys"
            )
        return made

    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        """See EventStore.load; `limit` counts stored events."""
        stored = await self.store.load(stream_id, from_version, to_version, limit=limit, backwards=backwards)
        parts = await self._decode(stored)
        if backwards:
            parts = [group[::-1] for group in parts]
        return [*chain.from_iterable(parts)]

    async def stream(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
    ) -> AsyncIterator[EventEnvelope]:
        """See EventStore.stream."""
        async for _, events in self.decoded(stream_id, from_version, to_version):
            for event in events:
                yield event

    async def decoded(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[tuple[EventEnvelope, list[EventEnvelope]]]:
        """Each stored event of `stream` with what it is today."""
        chunk: list[EventEnvelope] = []
        async for stored in self.store.stream(stream_id, from_version, to_version):
            chunk.append(stored)
            if len(chunk) == _CHUNK:
                for pair in await self.decoded_pairs(chunk):
                    yield pair
                chunk = []
        for pair in await self.decoded_pairs(chunk):
            yield pair

    async def decoded_pairs(
        self, stored: Sequence[EventEnvelope]
    ) -> list[tuple[EventEnvelope, list[EventEnvelope]]]:
        """Each of the stored events, its personal fields readable, with what it is today."""
        opened = await unseal(self.sealer, stored)
        decode, unknown = self.events.decode, self.unknown
        with CollectionPaused():
            return [(envelope, decode(envelope, unknown)) for envelope in opened]

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
        """See EventStore.replay; `version` counts stored events, also those that are nothing today."""
        snapshot = None
        if snapshots is not None:
            snapshot = await snapshots.load_latest(
                stream_id, schema_version=schema_version, max_version=to_version
            )
        state, version = replay_start(snapshot, initial, restore)
        start = version
        async for stored, events in self.decoded(stream_id, start + 1, to_version):
            for event in events:
                state = apply(state, event)
            version = stored.version
        return Replay(state, version, start)

    def read_all(
        self,
        after: Cursor | None = None,
        *,
        aggregate_types: Sequence[str] | None = None,
        event_types: Types | None = None,
        where: Where | None = None,
    ) -> AllEvents:
        """See EventStore.read_all. `event_types` are classes or names, of today."""
        wanted = None if event_types is None else self._wanted(event_types)
        stored = None if wanted is None else self.events.names_of(*wanted)
        only = EventFilter.of(aggregate_types, stored)
        read = partial(self._read_page, only=only, wanted=wanted)
        return AllEvents(read, after, where, self.store.reads_ahead)

    def handler(self, handler: Any, *, batch: bool = False, types: Types | None = None) -> Any:
        """`handler` for a Projection, Subscriber or ProcessManager, given decoded events.

        An event that cannot be decoded counts as one whose handler failed. `types` leaves out others;
        give the subscription `event_types=events.names_of(...)` too, so that they are not even read.
        """
        inner = Handler.of(handler, batch)
        kind = _BatchHandler if inner.batch else _Handler
        return kind(self, inner, None if types is None else self._wanted(types))

    async def decode(self, envelopes: Sequence[EventEnvelope]) -> list[EventEnvelope]:
        """What stored envelopes are today; raises EventDecodeError, UnknownEventTypeError."""
        return [*chain.from_iterable(await self._decode(envelopes))]

    async def _decode(self, envelopes: Sequence[EventEnvelope]) -> list[list[EventEnvelope]]:
        return [parts for _, parts in await self.decoded_pairs(envelopes)]

    def _wanted(self, types: Types) -> frozenset[str]:
        if isinstance(types, str | type):
            raise InvalidInputError(f"event types must be a list, not {types!r}")
        return frozenset(map(self.events.name_of, types))

    async def _read_page(
        self,
        after: Cursor | None,
        limit: int,
        *,
        until: Cursor | None = None,
        only: EventFilter,
        wanted: frozenset[str] | None,
    ) -> FeedPage:
        page = await self.store.read_page(after, limit, only=only, until=until)
        parts = await self._decode(page.events)
        if wanted is not None:
            parts = [[part for part in group if part.event_type in wanted] for group in parts]
        return _TypedPage(page, after, parts)


class _TypedPage(FeedPage):
    """A page of decoded events. Until the last part of an event was given, the place is before the event."""

    def __init__(
        self, page: FeedPage, after: Cursor | None, parts: Sequence[Sequence[EventEnvelope]]
    ) -> None:
        decoded = [*chain.from_iterable(parts)]
        super().__init__(page.cursor, page.more, lambda: decoded, page.cursor_at, page.mean_bytes, page.end)
        begin = page.cursor_at(0) if after is None else after
        self._unfinished: dict[tuple[int | None, UUID], Cursor] = {}
        for number, group in enumerate(parts):
            for part in group[:-1]:
                before = page.cursor_after(page.events[number - 1]) if number else begin
                self._unfinished[part.position, part.event_id] = before

    def cursor_after(self, event: EventEnvelope) -> Cursor:
        return self._unfinished.get((event.position, event.event_id)) or super().cursor_after(event)


class _Handler:
    """Decodes what a handler gets, event by event. The cause of what it does is the event as it is stored."""

    def __init__(self, store: TypedEventStore, inner: Handler, wanted: frozenset[str] | None) -> None:
        self._store = store
        self._call = inner.call
        self._wanted = wanted
        self._stored_as = None if wanted is None else frozenset(store.events.names_of(*wanted))
        self.side_effect = None if inner.side_effect is None else partial(self._each, inner.side_effect)

    async def handle(self, event: EventEnvelope, *session: Any) -> None:
        await self._each(self._call, event, *session)

    async def _each(
        self, call: Callable[..., Awaitable[object]], event: EventEnvelope, *session: Any
    ) -> None:
        for part in await self._opened([event], *session):
            await call(part, *session)

    async def _opened(self, events: Sequence[EventEnvelope], *session: Any) -> list[EventEnvelope]:
        # Keys are read through the connection that the handler has already.
        store = self._store.within(*session) if session and self._store.sealer else self._store
        if self._wanted is None or self._stored_as is None:
            return await store.decode(events)
        opened = await store.decode([event for event in events if event.event_type in self._stored_as])
        return [event for event in opened if event.event_type in self._wanted]


class _BatchHandler(_Handler):
    """Decodes what a handler gets, many events at a time."""

    async def handle_batch(self, events: Sequence[EventEnvelope], *session: Any) -> None:
        opened = await self._opened(events, *session)
        if opened:
            await self._call(opened, *session)
