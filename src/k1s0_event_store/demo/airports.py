"""What all events together say about each airport."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter

from k1s0_event_store.demo import flights
from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.store import EventStore


@dataclass(slots=True)
class Airport:
    """Counts of the flights from one airport, and of the events that told of them.

    The delay is the sum of all departures' minutes.
    """

    events: int = 0
    flights: int = 0
    cancelled: int = 0
    diverted: int = 0
    departed: int = 0
    delay: int = 0

    @property
    def mean_delay(self) -> float | None:
        """Mean departure delay in minutes, early departures counted as negative; None without departures."""
        return self.delay / self.departed if self.departed else None


Airports = dict[str, Airport]
"""By the airport's code."""


@dataclass(slots=True)
class Reading:
    """The airports, and what reading all events for them cost."""

    airports: Airports = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0


async def read_airports(store: EventStore) -> Reading:
    """Read every event of the store; those that are not about flights are read and left out."""
    started = perf_counter()
    reading = Reading()
    async for event in store.read_all():
        reading.events += 1
        count(reading.airports, [event])
    reading.seconds = perf_counter() - started
    return reading


def count(airports: Airports, events: Iterable[EventEnvelope]) -> Airports:
    """Add what `events` say to `airports`; those that are not about flights say nothing."""
    for event in events:
        if event.stream_id.aggregate_type == flights.AIRCRAFT:
            _add(airports.setdefault(event.payload["origin"], Airport()), event)
    return airports


def _add(airport: Airport, event: EventEnvelope) -> None:
    airport.events += 1
    if event.event_type == flights.SCHEDULED:
        airport.flights += 1
    elif event.event_type == flights.CANCELLED:
        airport.cancelled += 1
    elif event.event_type == flights.DIVERTED:
        airport.diverted += 1
    elif event.event_type == flights.DEPARTED:
        airport.departed += 1
        airport.delay += event.payload["delay"]
