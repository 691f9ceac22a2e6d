"""Metadata that flows by itself, through blocks, tasks and threads, and from a cause to its reactions."""

import asyncio
import threading
from dataclasses import dataclass
from uuid import UUID

import pytest

from k1s0_event_store import (
    EventEnvelope,
    EventRegistry,
    InMemoryEventStore,
    InvalidEventError,
    InvalidInputError,
    StreamId,
    TypedEventStore,
    caused_by,
    current_metadata,
    event_metadata,
)
from k1s0_event_store.subscription import Handler

ORDER = StreamId("order", "o-1")


def event(number=1, **metadata):
    return EventEnvelope(ORDER, "Placed", {}, metadata, UUID(int=number))


# Blocks


def test_nothing_is_added_outside_of_a_block():
    assert current_metadata() == {}
    with event_metadata(actor="ann"):
        assert current_metadata() == {"actor": "ann"}
    assert current_metadata() == {}


def test_blocks_add_up_and_the_innermost_wins():
    with event_metadata(actor="ann", tenant="t"):
        with event_metadata(actor="bob", trace_id="x"):
            assert current_metadata() == {"actor": "bob", "tenant": "t", "trace_id": "x"}
        assert current_metadata() == {"actor": "ann", "tenant": "t"}


def test_none_takes_a_name_away_until_the_end_of_its_block():
    with event_metadata(actor="ann", tenant="t"):
        with event_metadata(actor=None):
            assert current_metadata() == {"tenant": "t"}
            with event_metadata(actor="bob"):
                assert current_metadata() == {"actor": "bob", "tenant": "t"}
        assert current_metadata() == {"actor": "ann", "tenant": "t"}


def test_a_block_ends_with_an_error_too():
    with pytest.raises(KeyError), event_metadata(actor="ann"), caused_by(event()):
        raise KeyError
    assert current_metadata() == {}


def test_any_json_may_be_said():
    with event_metadata(roles=["clerk"], **{"trace-state": {"a": 1}}):
        assert current_metadata() == {"roles": ["clerk"], "trace-state": {"a": 1}}


def test_what_is_answered_can_be_changed_without_effect():
    with event_metadata(actor="ann"):
        current_metadata()["actor"] = "bob"
        assert current_metadata() == {"actor": "ann"}


# Tasks and threads


async def test_a_task_takes_the_values_with_it_and_keeps_its_own():
    go = asyncio.Event()
    seen = {}

    async def work(name):
        before = current_metadata()
        with event_metadata(trace_id=name):
            await go.wait()
            seen[name] = (before, current_metadata())

    with event_metadata(actor="ann"):
        tasks = [asyncio.create_task(work(name)) for name in "ab"]
        await asyncio.sleep(0)
        assert current_metadata() == {"actor": "ann"}
    go.set()
    await asyncio.gather(*tasks)
    assert seen == {name: ({"actor": "ann"}, {"actor": "ann", "trace_id": name}) for name in "ab"}


async def test_blocks_of_tasks_that_run_at_the_same_time_do_not_meet():
    both = asyncio.Barrier(2)
    seen = {}

    async def work(name):
        with event_metadata(actor=name), caused_by(event(int(name))):
            await both.wait()
            seen[name] = current_metadata()
            await both.wait()
        assert current_metadata() == {}

    await asyncio.gather(work("1"), work("2"))
    for name in "12":
        causation = str(UUID(int=int(name)))
        assert seen[name] == {"actor": name, "correlation_id": causation, "causation_id": causation}


async def test_work_in_asyncio_threads_takes_the_values_with_it():
    with event_metadata(actor="ann"):
        assert await asyncio.to_thread(current_metadata) == {"actor": "ann"}


def test_threads_do_not_see_each_other():
    both = threading.Barrier(2, timeout=10)
    seen = {}

    def work(name):
        with event_metadata(actor=name):
            both.wait()
            seen[name] = current_metadata()
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": {"actor": "a"}, "b": {"actor": "b"}}


# Causes


def test_a_reaction_has_its_cause_and_begins_a_correlation():
    with caused_by(event(7)):
        assert current_metadata() == {"correlation_id": str(UUID(int=7)), "causation_id": str(UUID(int=7))}
    assert current_metadata() == {}


def test_a_reaction_goes_on_with_the_correlation_and_with_who_acted():
    handed_on = {
        "correlation_id": "c-1",
        "actor": "ann",
        "tenant": "t",
        "trace_id": "x",
        "traceparent": "00-x-y-01",
    }
    with caused_by(event(7, **handed_on, causation_id="before", schema_version=2, other="thing")):
        assert current_metadata() == {**handed_on, "causation_id": str(UUID(int=7))}


def test_a_correlation_of_null_is_none():
    with caused_by(event(7, correlation_id=None, actor=None)):
        assert current_metadata() == {"correlation_id": str(UUID(int=7)), "causation_id": str(UUID(int=7))}


def test_the_innermost_cause_is_the_cause():
    with caused_by(event(1, actor="ann", tenant="t")):
        with caused_by(event(2, correlation_id="c-2")):
            assert current_metadata() == {"correlation_id": "c-2", "causation_id": str(UUID(int=2))}
        assert current_metadata()["causation_id"] == str(UUID(int=1))


def test_a_block_inside_wins_over_the_cause_and_the_cause_over_blocks_around_it():
    with (
        event_metadata(correlation_id="start", causation_id="start", actor="worker", host="h"),
        caused_by(event(7, correlation_id="c-1", actor="ann")),
    ):
        inherited = {"correlation_id": "c-1", "causation_id": str(UUID(int=7)), "actor": "ann", "host": "h"}
        assert current_metadata() == inherited
        with event_metadata(actor="clerk", causation_id=None):
            assert current_metadata() == {"correlation_id": "c-1", "actor": "clerk", "host": "h"}
            with caused_by(event(8)):
                assert current_metadata() == {
                    "correlation_id": str(UUID(int=8)),
                    "causation_id": str(UUID(int=8)),
                    "actor": "clerk",
                    "host": "h",
                }


# Handlers


class Noting:
    """Notes the metadata that its appends would get."""

    def __init__(self):
        self.handled = []
        self.fired = []

    async def handle(self, event, *session):
        self.handled.append((event.event_id, *session, current_metadata()))

    async def side_effect(self, event):
        self.fired.append((event.event_id, current_metadata()))


async def test_the_event_that_is_handled_is_the_cause_in_side_effects_too():
    noting = Noting()
    handler = Handler.of(noting, batch=False)
    one, other = event(1, actor="ann"), event(2, correlation_id="c-2")
    await handler([one, other], "session")
    await handler.fire([one, other])
    first = {"correlation_id": str(UUID(int=1)), "causation_id": str(UUID(int=1)), "actor": "ann"}
    second = {"correlation_id": "c-2", "causation_id": str(UUID(int=2))}
    assert noting.handled == [(UUID(int=1), "session", first), (UUID(int=2), "session", second)]
    assert noting.fired == [(UUID(int=1), first), (UUID(int=2), second)]
    assert current_metadata() == {}


async def test_many_events_at_a_time_have_no_one_cause():
    seen = []

    async def handle(events):
        seen.append((len(events), current_metadata()))

    await Handler.of(handle, batch=True)([event(1), event(2)])
    assert seen == [(2, {})]


# Appends


@dataclass
class Placed:
    n: int = 1


@pytest.fixture
def orders():
    events = EventRegistry()
    events.register("Placed")(Placed)
    return TypedEventStore(InMemoryEventStore(), events)


async def appended(orders, *events, **options):
    """The metadata of what was appended."""
    version = await orders.append(ORDER, events, **options)
    return [dict(each.metadata) for each in await orders.load(ORDER, version - len(events) + 1)]


async def test_an_append_gets_what_flows_and_what_is_given_with_it_wins(orders):
    assert await appended(orders, Placed()) == [{}]
    with event_metadata(actor="ann", tenant="t"):
        assert await appended(orders, Placed()) == [{"actor": "ann", "tenant": "t"}]
        own = EventEnvelope(ORDER, "Placed", Placed(), {"actor": "carl"})
        found = await appended(orders, Placed(), own, metadata={"actor": "bob", "x": None})
    assert found == [
        {"actor": "bob", "tenant": "t"},
        {"actor": "carl", "tenant": "t"},
    ]


async def test_an_append_is_a_reaction_to_the_cause(orders):
    (first,) = await appended(orders, Placed(), metadata={"actor": "ann"})
    assert first == {"actor": "ann"}
    (stored,) = await orders.load(ORDER)
    with caused_by(stored):
        (second,) = await appended(orders, Placed())
    causation = str(stored.event_id)
    assert second == {"actor": "ann", "correlation_id": causation, "causation_id": causation}
    with caused_by((await orders.load(ORDER))[1]):
        (third,) = await appended(orders, Placed())
    assert third["correlation_id"] == causation
    assert third["causation_id"] == str((await orders.load(ORDER))[1].event_id)


async def test_metadata_that_cannot_be_stored_is_refused_with_the_event(orders):
    with event_metadata(at=object()), pytest.raises(InvalidEventError, match="metadata not JSON"):
        await orders.append(ORDER, [Placed()])
    with event_metadata(schema_version=2), pytest.raises(InvalidEventError, match="set by the library"):
        await orders.append(ORDER, [Placed()])
    with pytest.raises(InvalidInputError, match="metadata must be a mapping, not list"):
        await orders.append(ORDER, [Placed()], metadata=["actor"])
    assert await orders.load(ORDER) == []
