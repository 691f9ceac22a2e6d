"""The instruments that are read when somebody collects: of subscriptions, and of pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Observation
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from k1s0_event_store.subscription import (
    PartitionState,
    PartitionStatus,
    SubscriptionStatus,
    SubscriptionStore,
)
from k1s0_event_store.telemetry import conventions as names
from k1s0_event_store.telemetry.database import database_of, engine_of, pool_name
from k1s0_event_store.telemetry.instruments import Instruments
from k1s0_event_store.telemetry.watching import SubscriptionGauges


class Gauges:
    """The observable instruments; they read from everything that was added."""

    def __init__(self, instruments: Instruments) -> None:
        self.subscriptions: list[SubscriptionGauges] = []
        self._pools: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()
        self._failures = instruments.refresh_failures
        meter = instruments.meter
        for name, unit, says, read in (
            (names.LAG_EVENTS, "{event}", "Events after the checkpoint, at most 100,000.", _lag_events),
            (names.LAG_TIME, "s", "Age of the oldest event after the checkpoint.", _lag_time),
            (
                names.CHECKPOINT_AGE,
                "s",
                "Time since the checkpoint moved, 0 when caught up.",
                _checkpoint_age,
            ),
            (names.PARKED, "{event}", "Events that are parked.", _parked),
            (names.PARTITIONS, "{partition}", "Partitions in each state.", _partitions),
        ):
            meter.create_observable_gauge(name, [self._reader(read)], unit, says)
        meter.create_observable_up_down_counter(
            names.CONNECTIONS, [self._connections], "{connection}", "Connections of a pool, by state."
        )
        meter.create_observable_up_down_counter(
            names.CONNECTIONS_KEPT,
            [self._kept],
            "{connection}",
            "Idle connections that a pool keeps at most.",
        )

    def watch(self, storage: SubscriptionStore, every: float) -> SubscriptionGauges:
        """Tell of the subscriptions of a store."""
        self._failures.add(0)  # a counter that comes out of nothing hides its first increase
        gauges = SubscriptionGauges(storage, lambda: self._failures.add(1), every)
        self.subscriptions.append(gauges)
        return gauges

    def add_pool(self, store: object) -> None:
        """Tell of the pool of a store, if it has one."""
        engine = engine_of(store)
        if engine is not None:
            self._pools[engine] = pool_name(database_of(store))

    def _reader(
        self, read: Callable[[SubscriptionGauges], Iterable[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            for gauges in self.subscriptions:
                yield from read(gauges)

        return observe

    def _connections(self, _options: CallbackOptions) -> Iterable[Observation]:
        counts: Counter[tuple[str, str]] = Counter()
        for name, pool in self._queues():
            counts[name, "used"] += pool.checkedout()
            counts[name, "idle"] += pool.checkedin()
        for (name, state), count in counts.items():
            yield Observation(count, {names.POOL_NAME: name, names.CONNECTION_STATE: state})

    def _kept(self, _options: CallbackOptions) -> Iterable[Observation]:
        counts: Counter[str] = Counter()
        for name, pool in self._queues():
            counts[name] += pool.size()
        for name, count in counts.items():
            yield Observation(count, {names.POOL_NAME: name})

    def _queues(self) -> Iterator[tuple[str, QueuePool]]:
        """The pools that keep connections."""
        for engine, name in list(self._pools.items()):
            if isinstance(engine.pool, QueuePool):
                yield name, engine.pool


def _lag_events(gauges: SubscriptionGauges) -> Iterator[Observation]:
    for status, partition in _each(gauges):
        yield Observation(partition.behind, _place(status, partition))


def _lag_time(gauges: SubscriptionGauges) -> Iterator[Observation]:
    for status, partition in _each(gauges):
        yield Observation(partition.behind_seconds, _place(status, partition))


def _checkpoint_age(gauges: SubscriptionGauges) -> Iterator[Observation]:
    for status, partition in _each(gauges):
        yield Observation(gauges.checkpoint_age(status, partition), _place(status, partition))


def _parked(gauges: SubscriptionGauges) -> Iterator[Observation]:
    for status in gauges.statuses:
        yield Observation(status.parked, _name(status))


def _partitions(gauges: SubscriptionGauges) -> Iterator[Observation]:
    for status in gauges.statuses:
        counts = Counter(partition.state for partition in status.partitions)
        for state in PartitionState:
            yield Observation(counts[state], {**_name(status), names.STATE: state.value})


def _each(gauges: SubscriptionGauges) -> Iterator[tuple[SubscriptionStatus, PartitionStatus]]:
    for status in gauges.statuses:
        for partition in status.partitions:
            yield status, partition


def _name(status: SubscriptionStatus) -> dict[str, str | int]:
    return {names.MESSAGING_SUBSCRIPTION: status.name, names.VERSION: status.version}


def _place(status: SubscriptionStatus, partition: PartitionStatus) -> dict[str, str | int]:
    return {**_name(status), names.PARTITION: partition.partition}
