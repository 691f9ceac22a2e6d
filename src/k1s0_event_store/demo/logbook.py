"""An aircraft's logbook: the state that its events fold to, with and without snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from k1s0_event_store.demo import flights
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import CorruptDataError
from k1s0_event_store.snapshot import SnapshotStore
from k1s0_event_store.store import EventStore, Replay

LAYOUT = 1
"""Version of the state's own layout: raise it when Logbook or the fold changes."""


@dataclass(frozen=True)
class Logbook:
    """What an aircraft has done."""

    scheduled: int = 0
    landed: int = 0
    cancelled: int = 0
    diverted: int = 0
    miles: int = 0
    minutes_late: int = 0
    last_destination: str | None = None

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Logbook:
        """From a snapshot's JSON."""
        return cls(**state)


def write_down(book: Logbook, event: EventEnvelope) -> Logbook:
    """The logbook after `event`; events of other kinds change nothing."""
    facts = event.payload
    if event.event_type == flights.SCHEDULED:
        return replace(book, scheduled=book.scheduled + 1)
    if event.event_type == flights.CANCELLED:
        return replace(book, cancelled=book.cancelled + 1)
    if event.event_type == flights.DIVERTED:
        return replace(book, diverted=book.diverted + 1)
    if event.event_type == flights.DEPARTED:
        return replace(book, minutes_late=book.minutes_late + max(0, facts["delay"]))
    if event.event_type == flights.ARRIVED:
        miles = book.miles + facts["miles"]
        return replace(book, landed=book.landed + 1, miles=miles, last_destination=facts["destination"])
    return book


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same logbook read twice: from the first event, and from the newest snapshot."""

    full: Replay[Logbook]
    short: Replay[Logbook]
    snapshots_taken: int


async def compare(store: EventStore, snapshots: SnapshotStore, stream_id: StreamId) -> Comparison:
    """Take the snapshots that are due, then replay with and without them.

    Raises CorruptDataError if the two disagree.
    """
    taken = await take_snapshots(store, snapshots, stream_id)
    full = await store.replay(stream_id, write_down, Logbook())
    short = await store.replay(
        stream_id,
        write_down,
        Logbook(),
        snapshots,
        restore=Logbook.restore,
        schema_version=LAYOUT,
        to_version=full.version,
    )
    if short.state != full.state:
        raise CorruptDataError(
            f"the snapshot of {stream_id} at version {short.snapshot_version} does not agree with its events"
        )
    return Comparison(full, short, taken)


async def take_snapshots(store: EventStore, snapshots: SnapshotStore, stream_id: StreamId) -> int:
    """Fold the stream from its newest snapshot on and save one whenever it is due; returns how many."""
    newest = await snapshots.load_latest(stream_id, schema_version=LAYOUT)
    book = Logbook() if newest is None else Logbook.restore(newest.state)
    last = 0 if newest is None else newest.version
    taken = 0
    async for event in store.stream(stream_id, last + 1):
        book = write_down(book, event)
        if snapshots.is_due(event.version, last):
            await snapshots.save(stream_id, event.version, book, schema_version=LAYOUT)
            last, taken = event.version, taken + 1
    return taken
