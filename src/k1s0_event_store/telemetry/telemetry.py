"""The entry for users: one object that wraps what is to be told of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeVar, overload

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from opentelemetry.util.types import AttributeValue

from k1s0_event_store.delivery import Notice
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.publisher import Publisher
from k1s0_event_store.snapshot import SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, SyncEventStore
from k1s0_event_store.subscription import Subscription, SubscriptionStore
from k1s0_event_store.telemetry import conventions as names
from k1s0_event_store.telemetry.database import database_of
from k1s0_event_store.telemetry.gauges import Gauges
from k1s0_event_store.telemetry.handling import traced
from k1s0_event_store.telemetry.instruments import Instruments
from k1s0_event_store.telemetry.publisher import TracedPublisher
from k1s0_event_store.telemetry.signals import StoreSignals
from k1s0_event_store.telemetry.snapshots import SyncTracedSnapshotStore, TracedSnapshotStore
from k1s0_event_store.telemetry.stores import SyncTracedEventStore, TracedEventStore
from k1s0_event_store.telemetry.watching import SubscriptionGauges

S = TypeVar("S", bound=Subscription)

_OUTCOMES: Final = frozenset({"handled", "retried", "parked"})
"""Kinds of notices that count events; the others say what becomes of a partition."""


class Telemetry:
    """Wraps stores, publishers and subscriptions so that they make spans and metrics.

    Without providers the global ones are used; where there are none either, nothing is made. Wrap
    each thing once, and use what comes back in its place. Never told: payloads, metadata, ids of
    aggregates, texts of errors.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._instruments = Instruments(tracer_provider, meter_provider)
        self._gauges = Gauges(self._instruments)

    @overload
    def store(self, store: EventStore) -> TracedEventStore: ...
    @overload
    def store(self, store: SyncEventStore) -> SyncTracedEventStore: ...
    def store(self, store: EventStore | SyncEventStore) -> TracedEventStore | SyncTracedEventStore:
        """`store`, traced; its events carry the context of their append to the handlers.

        Raises ConfigurationError.
        """
        if isinstance(store, EventStore):
            return TracedEventStore(store, self._signals_of(store))
        if isinstance(store, SyncEventStore):
            return SyncTracedEventStore(store, self._signals_of(store))
        raise ConfigurationError(f"an EventStore can be traced (also below a TypedEventStore), not {store!r}")

    @overload
    def snapshots(self, store: SnapshotStore) -> TracedSnapshotStore: ...
    @overload
    def snapshots(self, store: SyncSnapshotStore) -> SyncTracedSnapshotStore: ...
    def snapshots(
        self, store: SnapshotStore | SyncSnapshotStore
    ) -> TracedSnapshotStore | SyncTracedSnapshotStore:
        """A snapshot store, traced; use it together with a traced event store. Raises ConfigurationError."""
        if isinstance(store, SnapshotStore):
            return TracedSnapshotStore(store, self._signals_of(store))
        if isinstance(store, SyncSnapshotStore):
            return SyncTracedSnapshotStore(store, self._signals_of(store))
        raise ConfigurationError(f"a SnapshotStore can be traced, not {store!r}")

    def publisher(self, publisher: Publisher) -> TracedPublisher:
        """`publisher`, traced; its messages carry the context of their publishing.

        Raises ConfigurationError.
        """
        if not isinstance(publisher, Publisher):
            raise ConfigurationError(f"a Publisher can be traced, not {publisher!r}")
        return TracedPublisher(publisher, self._instruments)

    def subscription(self, subscription: S) -> S:
        """A copy of `subscription` whose handler and side effect are traced. Raises ConfigurationError."""
        if not isinstance(subscription, Subscription):
            raise ConfigurationError(f"a Subscription can be traced, not {subscription!r}")
        return traced(subscription, self._instruments)

    def observe(self, notice: Notice) -> None:
        """Count what a runner tells: SubscriptionRunner(..., observe=telemetry.observe)."""
        of: dict[str, AttributeValue] = {
            names.MESSAGING_SUBSCRIPTION: notice.name,
            names.VERSION: notice.version,
        }
        if notice.kind in _OUTCOMES:
            self._instruments.events.add(notice.events, {**of, names.OUTCOME: notice.kind})
        else:
            self._instruments.changes.add(1, {**of, names.CHANGE: notice.kind})

    def watch(self, storage: SubscriptionStore, *, every: float = 15.0) -> SubscriptionGauges:
        """Tell how far the subscriptions are, what is parked, and of the pool.

        The store is asked by `refresh()`, or every `every` seconds inside `async with`.
        """
        self._gauges.add_pool(storage)
        return self._gauges.watch(storage, every)

    async def refresh(self) -> None:
        """Ask all stores that are watched."""
        await asyncio.gather(*(gauges.refresh() for gauges in self._gauges.subscriptions))

    def _signals_of(self, store: Any) -> StoreSignals:
        self._gauges.add_pool(store)
        database: Mapping[str, str | int] = database_of(store)
        return StoreSignals(self._instruments, database)
