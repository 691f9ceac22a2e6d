"""The audit: does a store hold what its clients were told, and does all that is made of it agree?

`look` takes down what is there after recovery, `faults` compares. Nothing is asked of the clients but their
journals, and nothing is believed of the library but its feed: the tables are read past it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, pairwise
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import psycopg

from k1s0_event_store import EventStoreConfig, StreamId, SyncPostgresEventStore

from ..postgres import racing
from .batches import AGGREGATE, Claims, stream
from .lines import read_lines

IN_SESSION = "session"
"""The kind of batches that go with a row of the business."""
EMPTY = (0, "")
"""The state of a stream without events."""

TABLES = (
    "CREATE TABLE business (batch text PRIMARY KEY)",
    "CREATE TABLE read_model (stream text PRIMARY KEY, events bigint, digest text)",
)
"""What the clients' business and their projection write to."""
WRITE_STATE = """
INSERT INTO read_model (stream, events, digest) VALUES (:stream, :events, :digest)
ON CONFLICT (stream) DO UPDATE SET events = excluded.events, digest = excluded.digest"""


def fold(state, event_id):
    """The state after an event. One that is lost, doubled or out of order makes all that follow different."""
    events, digest = state
    return events + 1, blake2b(f"{digest}{event_id}".encode(), digest_size=8).hexdigest()


class Event(NamedTuple):
    """What an audit knows of an event, wherever it was seen."""

    stream_id: StreamId
    version: int
    event_id: UUID
    position: int = 0
    batch: str = ""
    number: int = 0

    @property
    def metadata(self):
        return {}


@dataclass
class Found:
    """What is there: `events` by stream and version, `published` as it was published."""

    events: list[Event] = field(default_factory=list)
    heads: dict[str, int] = field(default_factory=dict)
    feed: list[Event] = field(default_factory=list)
    projection: dict[str, tuple[int, str]] = field(default_factory=dict)
    snapshots: list[tuple[str, int, tuple[int, str]]] = field(default_factory=list)
    business: set[str] = field(default_factory=set)
    published: list[Event] = field(default_factory=list)


def look(dsn, published=()):
    """Take down what a server holds, and the files that publishers have written."""
    with psycopg.connect(dsn) as connection:
        events = [
            Event(stream(name), version, event_id, position, batch, number)
            for name, version, event_id, position, batch, number in connection.execute(
                "SELECT aggregate_id, version, event_id, position, payload->>'batch', "
                "(payload->>'number')::int FROM eventstore.events WHERE aggregate_type = %s "
                "ORDER BY aggregate_id, version, position", [AGGREGATE]
            )
        ]  # fmt: skip
        heads = "SELECT aggregate_id, version FROM eventstore.streams WHERE aggregate_type = %s"
        snapshots = "SELECT aggregate_id, version, state FROM eventstore.snapshots WHERE aggregate_type = %s"
        read_model = connection.execute("SELECT stream, events, digest FROM read_model").fetchall()
        found = Found(
            events=events,
            heads=dict(connection.execute(heads, [AGGREGATE]).fetchall()),
            projection={name: (count, digest) for name, count, digest in read_model},
            snapshots=[
                (name, version, tuple(state))
                for name, version, state in connection.execute(snapshots, [AGGREGATE])
            ],
            business={batch for (batch,) in connection.execute("SELECT batch FROM business")},
        )
    with SyncPostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        feed = store.read_all(aggregate_types=[AGGREGATE])
        found.feed = [Event(event.stream_id, event.version, event.event_id) for event in feed]
    found.published = [
        Event(stream(name), version, UUID(event_id))
        for path in published
        for name, version, event_id in read_lines(path)
    ]
    return found


def faults(claims: Claims, found: Found) -> list[str]:
    """What is wrong, in words; [] if nothing is."""
    streams = defaultdict(list)
    for event in found.events:
        streams[event.stream_id.aggregate_id].append(event)
    return list(
        chain(
            _faults_of_streams(streams, found.heads),
            _faults_of_batches(claims, found.events),
            _faults_of_reading("the feed", found.events, found.feed),
            _faults_of_reading("the first publications", found.events, _firsts(found.published)),
            _faults_of_states(streams, found),
            _faults_of_business(claims, found),
        )
    )


def _faults_of_streams(streams, heads):
    for name, events in streams.items():
        if [event.version for event in events] != list(range(1, len(events) + 1)):
            yield f"{name}: the versions have gaps or doubles"
        if any(one.position >= next.position for one, next in pairwise(events)):
            yield f"{name}: the positions are not in the order of the versions"
        if heads.get(name) != events[-1].version:
            yield f"{name}: the head is at {heads.get(name)}, the last event at {events[-1].version}"
    for name in heads.keys() - streams.keys():
        if heads[name]:
            yield f"{name}: the head is at {heads[name]}, and there are no events"
    for event_id, times in Counter(map(attrgetter("event_id"), chain(*streams.values()))).items():
        if times > 1:
            yield f"event {event_id} is stored {times} times"


def _faults_of_batches(claims, events):
    stored = defaultdict(list)
    for event in events:
        stored[event.batch].append(event)
    for name in stored.keys() - claims.tried.keys():
        yield f"batch {name} is stored, and nobody sent it"
    for name, parts in stored.items():
        if name in claims.tried:
            yield from _faults_of_batch(claims.tried[name], parts, claims)
    for name in claims.acknowledged.keys() - stored.keys():
        yield f"batch {name} ({claims.tried[name].kind}) was acknowledged and is lost"


def _faults_of_batch(batch, parts, claims):
    whole = [(name, number) for place, name in enumerate(batch.streams)
             for number in range(place * batch.size + 1, (place + 1) * batch.size + 1)]  # fmt: skip
    there = Counter((event.stream_id.aggregate_id, event.number) for event in parts)
    if any(times > 1 for times in there.values()):
        yield f"batch {batch.name} ({batch.kind}) is stored more than once"
    if there.keys() != set(whole):
        yield f"of batch {batch.name} ({batch.kind}) {len(there)} of {len(whole)} events are stored"
    elif len({(event.stream_id, event.version - event.number) for event in parts}) > len(batch.streams):
        yield f"batch {batch.name} ({batch.kind}) does not stand together"
    if batch.name in claims.refused:
        yield f"batch {batch.name} ({batch.kind}) was refused and is stored"
    ends = [event.version for event in parts if event.stream_id.aggregate_id == batch.streams[-1]]
    last = max(ends, default=0)
    if claims.acknowledged.get(batch.name, last) != last:
        told = claims.acknowledged[batch.name]
        yield f"batch {batch.name} ({batch.kind}) was told version {told} and ends with {last}"


def _faults_of_reading(what, events, read):
    found = racing.faults({event.event_id for event in events}, read)
    return [f"{what}: {', '.join(sorted(found))}"] if found else []


def _firsts(published):
    """Without repetitions: a relay publishes at least once."""
    return list({event.event_id: event for event in published}.values())


def _faults_of_states(streams, found):
    at = {}
    for name, events in streams.items():
        at[name, 0] = state = EMPTY
        for event in events:
            at[name, event.version] = state = fold(state, event.event_id)
    for name, events in streams.items():
        if found.projection.get(name) != at[name, events[-1].version]:
            yield f"{name}: the projection is no fold of the events"
    for name in found.projection.keys() - streams.keys():
        yield f"{name}: the projection has it, and there are no events"
    for name, version, state in found.snapshots:
        if at.get((name, version)) != state:
            yield f"{name}: the snapshot at version {version} is no fold of the events"


def _faults_of_business(claims, found):
    stored = {event.batch for event in found.events}
    wanted = {name for name in stored if name in claims.tried and claims.tried[name].kind == IN_SESSION}
    for name in wanted - found.business:
        yield f"batch {name} is stored without its row of the business"
    for name in found.business - wanted:
        yield f"the business has a row of batch {name}, which is not stored"
