"""A batch: what append refuses before anything is sent, and in which words."""

import copy
import math
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import pytest

from k1s0_event_store import (
    DuplicateEventError,
    EventEnvelope,
    InvalidEventError,
    InvalidInputError,
    StreamId,
)
from k1s0_event_store.batch import encode_batch

ORDER = StreamId("order", "o-1")


def event(payload=None, **fields):
    return EventEnvelope(ORDER, "Changed", payload, **fields)


def test_a_batch_keeps_the_events_in_their_order():
    at = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=9)))
    events = [event({"n": 1}, metadata={"trace": "t"}), EventEnvelope(ORDER, "Closed", [2], occurred_at=at)]
    batch = encode_batch(ORDER, events)
    assert len(batch) == 2
    assert batch.event_ids == [one.event_id for one in events]
    assert batch.event_types == ["Changed", "Closed"]
    assert batch.payloads == ['{"n":1}', "[2]"]
    assert batch.metadata == ['{"trace":"t"}', "{}"]
    assert batch.occurred_at == [events[0].occurred_at, datetime(2026, 1, 1, 18, tzinfo=UTC)]


def test_no_events_are_a_batch_too():
    assert len(encode_batch(ORDER, [])) == 0


def test_events_may_come_from_any_iterable():
    events = [event(n) for n in range(3)]
    assert (
        encode_batch(ORDER, iter(events)) == encode_batch(ORDER, tuple(events)) == encode_batch(ORDER, events)
    )


@pytest.mark.parametrize("stream_id", ["order-o-1", None, ("order", "o-1"), 5])
def test_a_stream_is_named_by_a_stream_id(stream_id):
    with pytest.raises(
        InvalidInputError, match=r"must be a StreamId\(aggregate_type=..., aggregate_id=...\)"
    ):
        encode_batch(stream_id, [])


@pytest.mark.parametrize("events", [event(), None, 7, object()], ids=["an envelope", "None", "int", "object"])
def test_what_is_no_list_of_events_is_refused(events):
    with pytest.raises(
        InvalidInputError, match=f"must be a list of EventEnvelope, not {type(events).__name__}"
    ):
        encode_batch(ORDER, events)


@pytest.mark.parametrize("item", [None, {"event_type": "Changed"}, "Changed", ORDER])
def test_an_item_that_is_no_envelope_is_named_by_its_index(item):
    with pytest.raises(
        InvalidEventError, match=f"Event 1 .*must be an EventEnvelope, not {type(item).__name__}"
    ) as e:
        encode_batch(ORDER, [event(), item])
    assert (e.value.stream_id, e.value.index) == (ORDER, 1)


@pytest.mark.parametrize("other", [StreamId("order", "o-2"), StreamId("invoice", "o-1")])
def test_an_event_of_another_stream_is_refused(other):
    with pytest.raises(InvalidEventError, match=f"belongs to stream {other}") as refused:
        encode_batch(ORDER, [event(), event(), EventEnvelope(other, "Changed", {})])
    assert refused.value.index == 2


def test_an_equal_stream_id_is_the_same_stream():
    assert len(encode_batch(StreamId("order", "o-1"), [event()])) == 1


def test_an_event_that_was_loaded_from_a_store_is_refused():
    with pytest.raises(InvalidEventError, match="is stored already, as version 4; make a new EventEnvelope"):
        encode_batch(ORDER, [event(version=4)])


@pytest.mark.parametrize(
    "value", [math.nan, {"a": [math.inf]}, "\x00", "\ud800", object(), {"a": {"\x00": 1}}]
)
@pytest.mark.parametrize("field", ["payload", "metadata"])
def test_what_is_no_json_is_refused_in_payload_and_metadata(field, value):
    bad = event(**{"payload": {}, field: value if field == "payload" else {"key": value}})
    with pytest.raises(
        InvalidEventError, match=r"Event 1 of the batch .*payload or metadata .*JSON"
    ) as refused:
        encode_batch(ORDER, [event(), bad])
    assert refused.value.index == 1
    assert isinstance(refused.value.__cause__, ValueError)


def test_an_id_twice_in_one_batch_is_refused_and_named():
    one, other = event(1), event(2)
    with pytest.raises(DuplicateEventError, match="stands twice in one batch") as refused:
        encode_batch(ORDER, [one, other, event(3, event_id=one.event_id)])
    assert (refused.value.stream_id, refused.value.event_ids) == (ORDER, (one.event_id,))


def test_metadata_may_be_a_read_only_mapping():
    assert encode_batch(ORDER, [event(metadata=MappingProxyType({"a": 1}))]).metadata == ['{"a":1}']


def test_what_the_caller_gave_is_only_read():
    events = [event({"a": [1, {"b": 2}]}, metadata={"m": [1]})]
    before = copy.deepcopy(events)
    encode_batch(ORDER, events)
    assert events == before
