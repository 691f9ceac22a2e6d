"""The audit finds each fault that is planted in a history that has none."""

from dataclasses import replace

import pytest

from .audit import EMPTY, IN_SESSION, Event, Found, faults, fold
from .batches import Batch, Claims, Journal

BATCHES = [
    Batch("first", "any version", ("a",), 2),
    Batch("second", "exact version", ("a",), 3, 2),
    Batch("both", IN_SESSION, ("a", "b"), 2),
    Batch("last", "any version", ("b",), 1),
    Batch("conflict", "exact version", ("b",), 1, 1),
    Batch("never answered", "any version", ("c",), 1),
]
STORED = BATCHES[:4]
ACKNOWLEDGED = {"first": 2, "second": 5, "both": 2, "last": 3}


@pytest.fixture
def claims(tmp_path):
    journal = Journal(tmp_path / "journal")
    for batch in BATCHES:
        journal.tries(batch)
    journal.knows_nothing_of(BATCHES[0])
    for batch in STORED:
        journal.acknowledges(batch, ACKNOWLEDGED[batch.name])
    journal.refuses(BATCHES[4])
    journal.close()
    with (tmp_path / "journal").open("a") as file:
        file.write('["acknowledged", "never ans')  # killed in the midst of it
    return Claims.of([tmp_path / "journal"])


def found(batches=STORED):
    """What a store without faults holds of them, stored one after the other."""
    events, heads, states, snapshots = [], {}, {}, []
    for batch in batches:
        for name in batch.streams:
            for event in batch.events(name):
                version = heads[name] = heads.get(name, 0) + 1
                payload = event.payload
                events.append(
                    Event(event.stream_id, version, event.event_id, len(events) + 1, payload["batch"],
                          payload["number"])
                )  # fmt: skip
                states[name] = fold(states.get(name, EMPTY), event.event_id)
            snapshots.append((name, heads[name], states[name]))
    return Found(
        events=sorted(events, key=lambda event: (event.stream_id.aggregate_id, event.version)),
        heads=heads,
        feed=events,
        projection=states,
        snapshots=snapshots,
        business={batch.name for batch in batches if batch.kind == IN_SESSION},
        published=[*events, *events[-3:]],
    )


def without(sequence, place):
    return [*sequence[:place], *sequence[place + 1 :]]


def test_a_store_that_holds_what_it_acknowledged_has_no_faults(claims):
    assert claims.unsettled == [BATCHES[5]]
    assert faults(claims, found()) == []


def test_a_batch_that_was_never_answered_may_be_stored_or_not(claims):
    assert faults(claims, found([*STORED, BATCHES[5]])) == []


@pytest.mark.parametrize(
    ("batches", "fault"),
    [
        (STORED[:3], "batch last (any version) was acknowledged and is lost"),
        ([*STORED, STORED[3]], "batch last (any version) is stored more than once"),
        ([*STORED, BATCHES[4]], "batch conflict (exact version) was refused and is stored"),
        ([*STORED, Batch("alien", "any version", ("a",), 1)], "batch alien is stored, and nobody sent it"),
        ([*STORED[:3], replace(STORED[3], streams=("c",))], "of batch last (any version) 1 of 1"),
        ([STORED[1], STORED[0], *STORED[2:]], "batch first (any version) was told version 2 and ends with 5"),
    ],
    ids=["lost", "doubled", "refused", "alien", "elsewhere", "wrong version"],
)
def test_a_batch_that_is_not_where_it_was_said_to_be_is_found(claims, batches, fault):
    assert any(fault in each for each in faults(claims, found(batches)))


def half(there):
    there.events = [event for event in there.events if (event.batch, event.number) != ("second", 3)]
    return "of batch second (exact version) 2 of 3 events are stored"


def half_of_a_commit(there):
    there.events = [
        event for event in there.events if (event.batch, event.number) not in {("both", 3), ("both", 4)}
    ]
    return "of batch both (session) 2 of 4 events are stored"


def torn_apart(there):
    last = there.events[6]
    there.events[6] = last._replace(version=9)
    return "batch both (session) does not stand together"


def gap(there):
    there.events = [
        event._replace(version=event.version + 1) if event.batch == "last" else event
        for event in there.events
    ]
    return "b: the versions have gaps or doubles"


def late_position(there):
    first, second, *_ = there.events
    there.events[:2] = first._replace(position=second.position), second._replace(position=first.position)
    return "a: the positions are not in the order of the versions"


def head(there):
    there.heads["a"] += 1
    return "a: the head is at 8, the last event at 7"


def head_of_nothing(there):
    there.heads["d"] = 3
    return "d: the head is at 3, and there are no events"


def doubled_id(there):
    there.events[1] = there.events[1]._replace(event_id=there.events[0].event_id)
    return "is stored 2 times"


def lost_in_the_feed(there):
    there.feed = without(there.feed, 3)
    return "the feed: lost"


def twice_in_the_feed(there):
    there.feed = [*there.feed, there.feed[-1]]
    return "the feed: out of order, twice"


def order_of_the_feed(there):
    there.feed = [there.feed[1], there.feed[0], *there.feed[2:]]
    return "the feed: out of order"


def rolled_back_in_the_feed(there):
    (event,) = BATCHES[5].events("c")
    there.feed = [*there.feed, Event(event.stream_id, 1, event.event_id)]
    return "the feed: not committed"


def never_published(there):
    event = there.published[3]
    there.published = [each for each in there.published if each != event]
    return "the first publications: lost"


def published_too_early(there):
    there.published = [there.published[4], *there.published]
    return "the first publications: out of order"


def projection_lags(there):
    there.projection["a"] = fold(EMPTY, there.events[0].event_id)
    return "a: the projection is no fold of the events"


def projection_with_a_double(there):
    there.projection["b"] = fold(there.projection["b"], there.events[-1].event_id)
    return "b: the projection is no fold of the events"


def projection_of_nothing(there):
    there.projection["d"] = EMPTY
    return "d: the projection has it, and there are no events"


def snapshot(there):
    name, version, state = there.snapshots[1]
    there.snapshots[1] = name, version - 1, state
    return "a: the snapshot at version 4 is no fold of the events"


def snapshot_of_the_future(there):
    there.snapshots.append(("a", 8, there.snapshots[1][2]))
    return "a: the snapshot at version 8 is no fold of the events"


def business_lost(there):
    there.business.clear()
    return "batch both is stored without its row of the business"


def business_alone(there):
    there.business.add("never answered")
    return "the business has a row of batch never answered, which is not stored"


@pytest.mark.parametrize(
    "plant",
    [
        half, half_of_a_commit, torn_apart, gap, late_position, head, head_of_nothing, doubled_id,
        lost_in_the_feed, twice_in_the_feed, order_of_the_feed, rolled_back_in_the_feed, never_published,
        published_too_early, projection_lags, projection_with_a_double, projection_of_nothing, snapshot,
        snapshot_of_the_future, business_lost, business_alone,
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(claims, plant):
    there = found()
    fault = plant(there)
    assert any(fault in each for each in faults(claims, there))
