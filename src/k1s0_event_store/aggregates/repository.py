"""Repositories: aggregates are loaded, decide, and have their events appended.

`Repository` is for classes that record their events, `DeciderRepository` for plain functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import partial, reduce
from typing import Any, Generic, NamedTuple, Self, TypeVar

from typing_extensions import TypedDict, Unpack

from k1s0_event_store.aggregates.aggregate import Aggregate, Decider
from k1s0_event_store.aggregates.cache import AggregateCache
from k1s0_event_store.aggregates.loaded import Loaded
from k1s0_event_store.aggregates.loader import AggregateLoader
from k1s0_event_store.aggregates.snapshot_policy import SnapshotPolicy, never
from k1s0_event_store.aggregates.snapshotting import Snapshotting
from k1s0_event_store.aggregates.state_codec import state_codec
from k1s0_event_store.aggregates.transactor import Transactor
from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.envelope import StreamId, check_name
from k1s0_event_store.events.registry import EventRegistry, Unknown
from k1s0_event_store.events.typed import TypedEventStore
from k1s0_event_store.exceptions import ConfigurationError, shown
from k1s0_event_store.keys import KeyStore
from k1s0_event_store.snapshot import SnapshotStore
from k1s0_event_store.store import EventStore, Replay

A = TypeVar("A", bound=Aggregate)
S = TypeVar("S")
C = TypeVar("C")


class RepositoryOptions(TypedDict, total=False):
    """What both kinds of repository can be told."""

    snapshots: SnapshotStore
    """Where states are kept; used for loading in any case."""
    snapshot: SnapshotPolicy
    """When one is taken, such as `every(50)`. Inside the caller's transaction it is a part of it."""
    background_snapshots: bool
    """Outside of one: take it after the answer, and not before."""
    schema_version: int
    """Raise it when the same state means something else: older snapshots are not used then."""
    cache: AggregateCache
    """Keeps what was loaded in memory."""
    attempts: int
    """How often `transact` tries in all (10)."""
    keys: KeyStore
    """Where the keys of personal fields are, see Personal."""
    unknown: Unknown
    """What becomes of stored events that are not registered ("error")."""


class _Repository(AsyncClosing, Generic[S]):
    """What both kinds share. Close it (or `async with`) to wait for snapshots in the background."""

    _transactor: Transactor[S]

    def within(self, session: Any) -> Self:
        """The same repository inside the caller's transaction: it neither commits nor retries."""
        bound = copy(self)
        bound._transactor = self._transactor.within(session)
        return bound

    def stream_id(self, aggregate_id: str) -> StreamId:
        """The stream of an aggregate, to lock it or to look at its events; raises InvalidInputError."""
        return self._transactor.stream_id(aggregate_id)

    async def close(self) -> None:
        """Wait for snapshots that are being taken. The stores stay open."""
        await self._transactor.settle()


class Repository(_Repository[A]):
    """Aggregates of one class; what the class needs is told by `Aggregate`.

    `aggregate_type` names their streams (default: the class's own `aggregate_type`). Raises
    ConfigurationError.

    orders = Repository(store, events, Order, snapshots=snapshot_store, snapshot=every(50))
    order = await orders.transact("o-1", lambda order: order.ship("TRACK-001"))
    """

    def __init__(
        self,
        store: EventStore,
        events: EventRegistry,
        aggregate: type[A],
        *,
        aggregate_type: str | None = None,
        **options: Unpack[RepositoryOptions],
    ) -> None:
        name = getattr(aggregate, "aggregate_type", None) if aggregate_type is None else aggregate_type
        if not isinstance(name, str):
            raise ConfigurationError(
                f"what are the streams of {aggregate.__name__} called? Give aggregate_type='...', or the "
                "class an attribute of that name"
            )

        def evolve(state: A, event: Any) -> A:
            state.apply(event)
            return state

        self._transactor = _transactor(
            store,
            events,
            name,
            _Kind(aggregate, aggregate, aggregate),
            lambda stream_id: aggregate(stream_id.aggregate_id),
            evolve,
            options,
        )

    async def load(self, aggregate_id: str, *, version: int | None = None, at: datetime | None = None) -> A:
        """The aggregate as it is; or after the event of `version`; or as it was stored `at` a time.

        Raises AggregateNotFoundError, InvalidInputError, EventDecodeError, UnknownEventTypeError.
        """
        loaded = await self._transactor.load(aggregate_id, version, at)
        loaded.state.version = loaded.version
        return loaded.state

    async def save(self, aggregate: A, *, metadata: Mapping[str, Any] | None = None) -> int:
        """Append what the aggregate has recorded; returns its version.

        Raises ConcurrencyError if somebody was first: load it again, and decide again; InvalidEventError.
        """
        if aggregate.recorded:
            stream_id = self.stream_id(aggregate.id)
            events = list(aggregate.recorded)
            version = await self._transactor.append(stream_id, aggregate.version, events, metadata)
            _stored(aggregate, version)
        return aggregate.version

    async def transact(
        self,
        aggregate_id: str,
        decide: Callable[[A], object],
        *,
        metadata: Mapping[str, Any] | None = None,
        must_exist: bool = False,
    ) -> A:
        """Load the aggregate (or a new one), call `decide(aggregate)`, append what it recorded; returns it.

        With `must_exist` an aggregate without events is an AggregateNotFoundError, and not a new one.
        If somebody was first, only what is new is loaded and `decide` is called again, so let it do
        nothing else; it may be async. Inside the caller's transaction there is no second attempt.
        Raises what `decide` raises, and ConcurrencyError after the last attempt.
        """

        async def record(loaded: Loaded[A]) -> Sequence[Any]:
            loaded.state.version = loaded.version
            await _awaited(decide(loaded.state))
            return list(loaded.state.recorded)

        loaded = await self._transactor.transact(aggregate_id, record, metadata, must_exist)
        _stored(loaded.state, loaded.version)
        return loaded.state


class DeciderRepository(_Repository[S], Generic[S, C]):
    """Aggregates as functions, see Decider. States are never shared: what is loaded is the caller's own.

    carts = DeciderRepository(store, events, Decider("cart", Cart, evolve, decide))
    cart = await carts.execute("c-1", AddItem("apple"))
    """

    def __init__(
        self,
        store: EventStore,
        events: EventRegistry,
        decider: Decider[S, C],
        **options: Unpack[RepositoryOptions],
    ) -> None:
        self._decider = decider
        self._transactor = _transactor(
            store,
            events,
            decider.aggregate_type,
            _Kind(
                decider, decider.evolve, type(decider.initial()) if decider.state is None else decider.state
            ),
            lambda _stream_id: decider.initial(),
            decider.evolve,
            options,
        )

    async def load(
        self, aggregate_id: str, *, version: int | None = None, at: datetime | None = None
    ) -> Replay[S]:
        """State and version, as for `Repository.load`."""
        loaded = await self._transactor.load(aggregate_id, version, at)
        return Replay(loaded.state, loaded.version)

    async def execute(
        self,
        aggregate_id: str,
        command: C,
        *,
        metadata: Mapping[str, Any] | None = None,
        must_exist: bool = False,
    ) -> Replay[S]:
        """`transact` with the decider's own `decide(command, state)`."""
        decide = partial(self._decider.decide, command)
        return await self.transact(aggregate_id, decide, metadata=metadata, must_exist=must_exist)

    async def transact(
        self,
        aggregate_id: str,
        decide: Callable[[S], Iterable[Any] | Awaitable[Iterable[Any]]],
        *,
        metadata: Mapping[str, Any] | None = None,
        must_exist: bool = False,
    ) -> Replay[S]:
        """Append what `decide(state)` returns; answers with state and version. See Repository.transact."""
        decided: Sequence[Any] = ()

        async def keep(loaded: Loaded[S]) -> Sequence[Any]:
            nonlocal decided
            decided = list(await _awaited(decide(loaded.state)))
            return decided

        loaded = await self._transactor.transact(aggregate_id, keep, metadata, must_exist)
        return Replay(reduce(self._decider.evolve, decided, loaded.state), loaded.version)


class _Kind(NamedTuple):
    """What aggregates of one repository are."""

    key: Hashable
    named_after: Any
    state: Any

    @property
    def name(self) -> str:
        """For messages, and to tell snapshots of one kind from those of another."""
        return f"{self.named_after.__module__}.{self.named_after.__qualname__}"


def _transactor(
    store: EventStore,
    events: EventRegistry,
    aggregate_type: str,
    kind: _Kind,
    initial: Callable[[StreamId], S],
    evolve: Callable[[S, Any], S],
    options: RepositoryOptions,
) -> Transactor[S]:
    unknown = options.keys() - RepositoryOptions.__optional_keys__
    if unknown:
        raise TypeError(f"a repository has no option {sorted(unknown)[0]!r}")
    snapshots = options.get("snapshots")
    if "snapshot" in options and snapshots is None:
        raise ConfigurationError("a snapshot policy needs a place to keep snapshots: give snapshots=...")
    attempts = options.get("attempts", 10)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigurationError(f"attempts must be a whole number from 1 on, not {shown(attempts)}")
    typed = TypedEventStore(store, events, keys=options.get("keys"), unknown=options.get("unknown", "error"))
    snapshotting = None
    if snapshots is not None:
        schema_version = options.get("schema_version", 1)
        codec = state_codec(kind.state, kind.name)
        snapshotting = Snapshotting(snapshots, codec, schema_version)
    loader = AggregateLoader(typed, initial, evolve, kind.name, kind.key, snapshotting, options.get("cache"))
    return Transactor(
        loader,
        check_name(aggregate_type, "aggregate_type"),
        options.get("snapshot", never()),
        options.get("background_snapshots", False),
        attempts,
    )


def _stored(aggregate: Aggregate, version: int) -> None:
    aggregate.version = version
    aggregate.recorded.clear()


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
