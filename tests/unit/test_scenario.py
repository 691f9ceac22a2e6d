"""The scenario: given events, then rows, as a runner would have it, without a runner."""

import re

import pytest

from k1s0_event_store import ConfigurationError, EventEnvelope, InvalidEventError, StreamId
from k1s0_event_store.subscription import Projection, Subscriber
from k1s0_event_store.testing import ProjectionScenario

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")


def placed(stream_id=ORDER, total=1, event_type="OrderPlaced"):
    return EventEnvelope(stream_id, event_type, {"total": total})


class FakeSession:
    """Keeps rows, and gives all of them for any query."""

    def __init__(self):
        self.rows = []

    def add(self, *row):
        self.rows.append(row)

    async def execute(self, query):
        return iter([list(row) for row in self.rows])


class BlockingSession(FakeSession):
    def execute(self, query):
        return list(self.rows)


async def totals(event, session):
    session.add(event.stream_id.aggregate_id, event.payload["total"])


@pytest.fixture
def session():
    return FakeSession()


@pytest.mark.parametrize("kind", [FakeSession, BlockingSession])
async def test_the_rows_that_the_handler_wrote_are_compared(kind):
    async with ProjectionScenario(Projection("totals", totals), kind()) as scenario:
        await scenario.then("SELECT", [])
        await scenario.given(ORDER, placed(total=3), placed(total=4))
        await scenario.given(OTHER, placed(OTHER, 5))
        await scenario.then("SELECT", [("o-1", 3), ("o-1", 4), ("o-2", 5)])


async def test_events_get_versions_and_positions_in_the_order_they_are_given():
    seen = []

    async def handle(event, session):
        assert session is None
        seen.append(event)

    async with ProjectionScenario(Projection("totals", handle)) as scenario:
        await scenario.given(ORDER, placed(), placed())
        await scenario.given(OTHER, placed(OTHER))
        await scenario.given(ORDER, placed())
        assert [(e.stream_id, e.version, e.position) for e in seen] == [
            (ORDER, 1, 1),
            (ORDER, 2, 2),
            (OTHER, 1, 3),
            (ORDER, 3, 4),
        ]
        assert scenario.handled == seen


async def test_only_wanted_events_reach_the_handler(session):
    projection = Projection(
        "totals", totals, aggregate_types=["order"], event_types=["OrderPlaced"],
        where=lambda event: event.payload["total"] > 1,
    )  # fmt: skip
    async with ProjectionScenario(projection, session) as scenario:
        await scenario.given(ORDER, placed(total=1), placed(total=2), placed(total=3, event_type="Other"))
        plane = StreamId("plane", "p-1")
        await scenario.given(plane, placed(plane, 9))
        assert [event.version for event in scenario.handled] == [2]
        await scenario.then("SELECT", [("o-1", 2)])


async def test_a_handler_for_many_gets_up_to_the_batch_size():
    batches = []

    class Many:
        async def handle_batch(self, events, session):
            batches.append([event.version for event in events])

    async with ProjectionScenario(Projection("totals", Many(), batch_size=100)) as scenario:
        await scenario.given(ORDER, *(placed() for _ in range(250)))
        await scenario.given(ORDER, placed())
    assert [len(batch) for batch in batches] == [100, 100, 50, 1]
    assert [version for batch in batches for version in batch] == list(range(1, 252))


async def test_a_subscriber_gets_no_session_and_its_side_effect_is_fired():
    done = []

    class Mails:
        async def handle(self, event):
            done.append(("handled", event.version))

        async def side_effect(self, event):
            done.append(("fired", event.version))

    async with ProjectionScenario(Subscriber("mails", Mails()), object()) as scenario:
        await scenario.given(ORDER, placed(), placed())
    assert done == [("handled", 1), ("handled", 2), ("fired", 1), ("fired", 2)]


async def test_an_error_of_the_handler_is_raised_as_it_is():
    async def fails(event, session):
        raise LookupError("no such order")

    async with ProjectionScenario(Projection("totals", fails)) as scenario:
        with pytest.raises(LookupError, match="no such order"):
            await scenario.given(ORDER, placed())
        assert scenario.handled == []
        with pytest.raises(InvalidEventError):
            await scenario.given(OTHER, placed(ORDER))


async def test_rows_that_differ_are_listed(session):
    async with ProjectionScenario(Projection("totals", totals), session) as scenario:
        await scenario.given(ORDER, placed(total=3), placed(total=3), placed(total=5))
        message = """Projection('totals', version=1): other rows than expected after 3 handled events
missing:
  ('o-1', 4)
not expected:
  ('o-1', 3)
  ('o-1', 5)"""
        with pytest.raises(AssertionError, match=re.escape(message)):
            await scenario.then("SELECT", [("o-1", 3), ("o-1", 4)])
        with pytest.raises(AssertionError, match=r"missing:\n  \('o-9', 1\)$"):
            await scenario.then("SELECT", [*session.rows, ("o-9", 1)])


async def test_the_order_counts_only_where_the_query_orders(session):
    async with ProjectionScenario(Projection("totals", totals), session) as scenario:
        await scenario.given(ORDER, placed(total=1), placed(total=2))
        await scenario.then("SELECT total", [("o-1", 2), ("o-1", 1)])
        await scenario.then("SELECT total ORDER BY total", [("o-1", 1), ("o-1", 2)])
        with pytest.raises(AssertionError, match=r"found in this order:\n  \('o-1', 1\)\n  \('o-1', 2\)"):
            await scenario.then("SELECT total ORDER BY total", [("o-1", 2), ("o-1", 1)])


async def test_without_a_session_there_are_no_rows_to_look_at():
    async with ProjectionScenario(Projection("totals", totals)) as scenario:
        with pytest.raises(ConfigurationError, match="session"):
            await scenario.then("SELECT", [])
