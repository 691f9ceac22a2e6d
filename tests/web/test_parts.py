"""Parts of the stream browser by themselves: pictures, JSON for the eye, lag, changes of a state."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import StreamId
from k1s0_event_store.inspection import EventView, Interval
from k1s0_event_store.subscription import PartitionState, PartitionStatus, SubscriptionStatus
from k1s0_event_store.web.causality import graph
from k1s0_event_store.web.json_view import marked
from k1s0_event_store.web.lag import MOST_SAMPLES, Lag, LagHistory
from k1s0_event_store.web.pictures import CHART_HEIGHT, LINE_WIDTH, bars, line, percent
from k1s0_event_store.web.recent import Recent
from k1s0_event_store.web.rendering import _duration
from k1s0_event_store.web.states import _changes

NOW = datetime(2026, 1, 31, tzinfo=UTC)
HOUR = timedelta(hours=1)


# JSON


@given(
    st.text() | st.sampled_from(['{"a": "<b>\\"</b>", "c": [1, -2.5e3, true, null]}', '{"cut": "in the mi'])
)
def test_marking_json_changes_nothing_of_it(text):
    shown = marked(text)
    assert unescape(re.sub("</?span[^>]*>", "", shown)) == unescape(text.replace("&", "&amp;"))
    assert set(re.findall("<[^>]*>", shown)) <= {
        "</span>",
        *(f'<span class="json-{kind}">' for kind in ("key", "string", "number", "word")),
    }


def test_the_parts_of_json_are_marked():
    assert marked('{"k": "v", "n": -1.5, "t": true}') == (
        '{<span class="json-key">&#34;k&#34;</span>: <span class="json-string">&#34;v&#34;</span>, '
        '<span class="json-key">&#34;n&#34;</span>: <span class="json-number">-1.5</span>, '
        '<span class="json-key">&#34;t&#34;</span>: <span class="json-word">true</span>}'
    )
    many = f"[{','.join('1' * 5_000)}]"
    assert marked(many).count("<span") == 1_000
    assert marked(many).striptags() == many


# Causes and effects


@dataclass
class Story:
    """Events by position, each with the position of its cause."""

    events: list[EventView] = field(default_factory=list)

    def tell(self, cause=None):
        position = len(self.events) + 1
        causation_id = None if cause is None else str(self.events[cause - 1].event_id)
        stream_id = StreamId("order", "o-1")
        texts = ("{}", 2, "{}", "c", causation_id)
        self.events.append(EventView(stream_id, position, position, uuid4(), "Told", NOW, NOW, *texts))

    def graph(self, this=1):
        return graph(self.events, self.events[this - 1])


@given(st.lists(st.integers(0, 30), max_size=60))
def test_no_line_leads_through_an_event_or_a_text_that_it_does_not_belong_to(causes):
    story = Story()
    story.tell()
    for number, cause in enumerate(causes, 1):
        story.tell(min(cause, number) or None)
    picture = story.graph()
    nodes = {node.event.position: node for node in picture.nodes}
    last_effect = {p: max([n.y for n in nodes.values() if n.cause is nodes[p].event] or [0]) for p in nodes}
    columns = {node.x for node in nodes.values()}
    if max(columns) < 18 + 20 * 26:  # beyond that all share the last column
        for position, node in nodes.items():
            between = [n for n in nodes.values() if n.x == node.x and node.y < n.y < last_effect[position]]
            assert between == []
    for position, node in nodes.items():
        beside = [n for n in nodes.values() if node.y <= n.y < last_effect[position]]
        assert all(n.text_x > node.x for n in beside)
    assert len(picture.edges) == sum(node.cause is not None for node in picture.nodes)
    assert all(node.cause is None or nodes[node.cause.position].x <= node.x for node in nodes.values())


def test_the_list_has_every_event_once_however_deep():
    story = Story()
    story.tell()
    for number in range(1, 200):
        story.tell(number)

    def flat(branches, depth=0):
        assert depth < 30
        for branch in branches:
            yield branch.node.event.position
            yield from flat(branch.effects, depth + 1)

    assert sorted(flat(story.graph().roots)) == list(range(1, 201))


def test_causes_that_stand_later_or_are_not_there_are_not_drawn():
    story = Story()
    story.tell()
    story.tell()
    first, second = story.events
    odd = [
        EventView(*_fields(first, causation_id=str(second.event_id))),
        EventView(*_fields(second, causation_id=str(uuid4()))),
    ]
    picture = graph(odd, odd[0])
    assert picture.edges == []
    assert [node.is_this for node in picture.nodes] == [True, False]


def _fields(event, causation_id):
    return (*(getattr(event, name) for name in event.__slots__[:-1]), causation_id)


# Pictures


def test_the_highest_bar_fills_the_chart_and_a_small_one_can_be_seen():
    drawn = bars([Interval(NOW + n * HOUR, events) for n, events in enumerate((0, 1, 1_000_000))], HOUR)
    assert [bar.height for bar in drawn] == [0, 2, CHART_HEIGHT]
    assert all(bar.y + bar.height == CHART_HEIGHT for bar in drawn)
    assert (drawn[2].begins, drawn[2].ends) == (NOW + 2 * HOUR, NOW + 3 * HOUR)
    assert bars([], HOUR) == []


@pytest.mark.parametrize(("part", "whole", "shown"), [(1, 3, 33.3), (0, 0, 0), (5, 4, 100), (0, 4, 0)])
def test_shares_are_percent(part, whole, shown):
    assert percent(part, whole) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59, "59 s"), (90, "2 min"), (7_200, "2 h"), (200_000, "2 d")]
)
def test_times_are_told_roughly(seconds, shown):
    assert _duration(seconds) == shown


def status(name="mailer", *behind):
    partitions = tuple(
        PartitionStatus(n, PartitionState.RUNNING, None, None, 0, events, 1.0, False, None, None)
        for n, events in enumerate(behind)
    )
    return SubscriptionStatus(name, 1, True, partitions, 0)


def test_lag_is_remembered_for_a_while_and_forgotten_with_its_subscription():
    history = LagHistory()
    assert history.of(status()) == []
    for behind in range(MOST_SAMPLES + 10):
        history.add([status("mailer", 3, behind), status("other")])
    samples = history.of(status("mailer"))
    assert [sample.events for sample in samples] == list(range(10, MOST_SAMPLES + 10))
    assert history.of(status("other"))[-1].events == 0
    history.add([status("other")])
    assert history.of(status("mailer")) == []


def test_a_line_goes_from_the_first_sample_to_the_last():
    samples = [Lag(NOW + n * HOUR, events, 0.0) for n, events in enumerate((0, 10, 5))]
    assert line(samples[:1]) is None
    drawn = line(samples)
    assert drawn.points == f"0.0,38.0 {LINE_WIDTH / 2},2.0 {LINE_WIDTH}.0,20.0"
    assert (drawn.first, drawn.last, drawn.most) == (NOW, NOW + 2 * HOUR, 10)


# States


def test_changes_are_told_by_their_place():
    before = {"status": "new", "lines": [{"sku": "a"}], "gone": 1, "same": {"x": None}, "list": []}
    after = {"status": "paid", "lines": [{"sku": "a"}, {"sku": "b"}], "same": {"x": None}, "list": [1]}
    assert [(one.path, one.before, one.after) for one in _changes(before, after)] == [
        ("status", '"new"', '"paid"'),
        ("gone", "1", None),
        ("list", "[]", None),
        ("lines[1].sku", None, '"b"'),
        ("list[0]", None, "1"),
    ]
    assert len(list(_changes({}, {str(n): n for n in range(1_000)}))) == 100


# One question for all


async def test_what_was_asked_just_now_is_not_asked_again():
    asked = 0

    async def ask():
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("away")
        return asked

    recent = Recent(ask, 60)
    with pytest.raises(OSError, match="away"):
        await recent.get()
    assert [await recent.get(), await recent.get()] == [2, 2]
    recent.forget()
    assert await recent.get() == 3
