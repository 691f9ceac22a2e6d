"""What is shown: the demo's flights, an order and what it caused, subscriptions that do well and badly."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from rich.console import Console

from k1s0_event_store import (
    Decider,
    DeciderRepository,
    EventEnvelope,
    EventRegistry,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    StreamId,
)
from k1s0_event_store.demo.projection import NAME as AIRPORTS
from k1s0_event_store.demo.run import prepare, run_demo
from k1s0_event_store.subscription import Progress

ORDER = StreamId("order", "o-1001")
PARCEL = StreamId("parcel", "p-77")
SHIPPING = "shipping"
REPORTS = "monthly-reports"
TOKEN = "a token of a test"  # noqa: S105  # it guards nothing

_STORY = [
    # (name, what caused it, stream, event type, payload)
    ("placed", None, ORDER, "OrderPlaced", {"customer": "Ada", "total": "42.50", "lines": [{"tea": 2}]}),
    ("asked", "placed", StreamId("payment", "pay-31"), "PaymentRequested", {"amount": "42.50"}),
    ("reserved", "placed", StreamId("stock", "tea"), "StockReserved", {"pieces": 2}),
    ("paid", "asked", StreamId("payment", "pay-31"), "PaymentCaptured", {"amount": "42.50", "by": "card"}),
    ("confirmed", "paid", ORDER, "OrderConfirmed", {"promised_for": "2026-12-01"}),
    ("packed", "confirmed", PARCEL, "ParcelPacked", {"grams": 640}),
    ("told", "confirmed", StreamId("mail", "m-9"), "CustomerNotified", {"template": "confirmed"}),
    ("low", "reserved", StreamId("stock", "tea"), "StockRanLow", {"left": 3}),
    ("sent", "packed", PARCEL, "ParcelSent", {"carrier": "post", "tracking": "JJD0001"}),
]


async def fill(dsn, aircraft=60):
    """The demo, with so many aircraft (None: all), then an order and subscriptions.

    Returns the positions of the order's events and of what it caused, by name.
    """
    await fly(dsn, aircraft)
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        told = await tell_story(store)
        await subscribe(store)
    return {name: event.position for name, event in told.items()}


class Site(NamedTuple):
    """Pages at `url` of a database; `positions` of events by name stand in paths like `/events/{placed}`."""

    url: str
    dsn: str
    positions: Mapping[str, int]

    def path(self, pattern):
        return pattern.format(**self.positions)


PAGES = {
    "overview": "/",
    "overview of an hour": "/?span=hour",
    "streams": "/streams",
    "streams found": "/streams?of=aircraft&contains=MQ&min=2",
    "no streams found": "/streams?contains=nowhere",
    "stream": "/stream?type=aircraft&id=N730MQ",
    "stream as it was": "/stream?type=aircraft&id=N730MQ&version=12&order=oldest",
    "stream without an aggregate": "/stream?type=order&id=o-1001",
    "events": "/events",
    "events of a type": "/events?type=FlightCancelled",
    "event": "/events/{confirmed}",
    "types": "/types",
    "subscriptions": "/subscriptions",
    "subscription": "/subscription?name=shipping&version=1",
}


async def fly(dsn, aircraft):
    """Run the demo."""
    console = Console(file=io.StringIO())
    streams = dict(islice(prepare(console).items(), aircraft))
    await run_demo(EventStoreConfig(dsn=dsn), streams, console)


async def tell_story(store):
    """One order, and all that came of it; returns the events by name."""
    told = {}
    for name, cause, stream_id, event_type, payload in _STORY:
        metadata = {"actor": "ada", "tenant": "shop-eu", "correlation_id": "request-5c1"}
        if cause is not None:
            metadata["causation_id"] = str(told[cause].event_id)
        await store.append(stream_id, [EventEnvelope(stream_id, event_type, payload, metadata)])
        told[name] = (await store.load(stream_id))[-1]
    return told


async def only_subscriptions(dsn):
    """An order and subscriptions, without the demo."""
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        await tell_story(store)
        await subscribe(store)


async def subscribe(store):
    """One subscription that runs and has parked events, and one that nobody works on."""
    storage = PostgresSubscriptionStore(store.config, bind=store.bind)
    await storage.register(REPORTS, 1, 1)
    await park(store, storage, SHIPPING, [ORDER, PARCEL], "LookupError: no carrier serves postcode 'XX-000'")


async def park(store, storage, name, stream_ids, error):
    """A subscription with two partitions, one of them at the end, and the events of these streams parked."""
    await storage.register(name, 1, 2)
    leases = await storage.beat(name, 1, "worker-1:4711", 3600)
    for stream_id in stream_ids:
        events = await store.load(stream_id)
        await storage.park(leases[0], events[:1], error, 3)
        if events[1:]:
            await storage.park(leases[0], events[1:], None, 0)
    for lease, place in zip(leases, await _places(store, storage), strict=True):
        await storage.save(lease, place)


async def _places(store, storage):
    """Where the demo's projection stands, or after one event; and the end of the feed."""
    stands = [one.partitions[0] for one in await storage.statuses() if one.name == AIRPORTS]
    if stands:
        place = Progress(stands[0].cursor, stands[0].handled // 2)
    else:
        place = Progress((await store.read_page(limit=1)).cursor, 1)
    end = await store.read_page(place.cursor)
    return place, Progress(end.cursor, place.handled + len(end.events))


# What the pages need to show the state of an aircraft.

events = EventRegistry()


@events.register("FlightScheduled")
@dataclass(frozen=True)
class FlightScheduled:
    flight: str
    origin: str
    destination: str


@events.register("FlightDeparted")
@dataclass(frozen=True)
class FlightDeparted:
    flight: str
    delay: int


@events.register("FlightArrived")
@dataclass(frozen=True)
class FlightArrived:
    flight: str
    destination: str
    miles: int


@events.register("FlightCancelled")
@dataclass(frozen=True)
class FlightCancelled:
    flight: str


@events.register("FlightDiverted")
@dataclass(frozen=True)
class FlightDiverted:
    flight: str


@dataclass(frozen=True)
class Aircraft:
    """Where an aircraft is, and what it has done."""

    place: str | None = None
    flight: str | None = None
    landed: int = 0
    cancelled: int = 0
    miles: int = 0
    minutes_late: int = 0


def _evolve(state, event):
    match event:
        case FlightScheduled(flight, origin):
            return replace(state, flight=flight, place=origin)
        case FlightDeparted(delay=delay):
            return replace(state, place="in the air", minutes_late=state.minutes_late + max(0, delay))
        case FlightArrived(destination=destination, miles=miles):
            return replace(
                state, flight=None, place=destination, landed=state.landed + 1, miles=state.miles + miles
            )
        case FlightCancelled():
            return replace(state, flight=None, cancelled=state.cancelled + 1)
    return state


def _decide(command, state):
    return []


def aircraft(store):
    """The repository of the aircraft, for `event_browser(aggregates=...)`."""
    return [DeciderRepository(store, events, Decider("aircraft", Aircraft, _evolve, _decide))]
