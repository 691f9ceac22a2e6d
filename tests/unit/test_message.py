"""Messages: what can be published, and how one is kept until it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import CorruptDataError, EventEnvelope, InvalidInputError, Message, StreamId
from k1s0_event_store.jsontext import decode, encode
from k1s0_event_store.message import as_event, events_by_key, from_event, is_enqueued

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20)
PAIRS = st.dictionaries(TEXT, TEXT, max_size=3)


@given(TEXT, st.binary(), PAIRS, PAIRS, TEXT, TEXT)
def test_a_message_comes_back_from_the_event_that_keeps_it(key, body, headers, attributes, kind, message_id):
    message = Message("orders", key, body, headers, attributes, kind, message_id)
    event = as_event(message)
    stored = EventEnvelope(
        event.stream_id, event.event_type, decode(encode(event.payload)), event_id=event.event_id
    )
    assert is_enqueued(stored)
    assert from_event(stored) == message
    assert as_event(message).event_id == event.event_id


def test_messages_have_ids_of_their_own():
    assert Message("t", "k", b"").message_id != Message("t", "k", b"").message_id
    plain = Message("t", "k", b"")
    assert str(as_event(plain).event_id) == plain.message_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": ""},
        {"topic": ".orders"},
        {"topic": "orders placed"},
        {"topic": "örders"},
        {"topic": "o" * 250},
        {"topic": None},
        {"key": ""},
        {"key": "k" * 601},
        {"key": 5},
        {"body": "text"},
        {"headers": {"n": 1}},
        {"headers": {"": "empty"}},
        {"headers": [("a", "b")]},
        {"attributes": {1: "a"}},
        {"content_type": ""},
        {"message_id": ""},
    ],
    ids=str,
)
def test_what_no_broker_takes_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        Message(**{"topic": "t", "key": "k", "body": b"", **wrong})


def test_a_key_that_no_stream_can_have_cannot_be_kept():
    with pytest.raises(InvalidInputError):
        as_event(Message("t", "k" * 256, b""))


@pytest.mark.parametrize("payload", [{}, None, [], {"topic": "t"}, "damaged"], ids=str)
def test_an_event_that_keeps_no_message_is_told(payload):
    event = as_event(Message("t", "k", b"body"))
    payload = {**event.payload, "body": "?"} if payload == "damaged" else payload
    damaged = EventEnvelope(event.stream_id, event.event_type, payload)
    with pytest.raises(CorruptDataError, match="is no message"):
        from_event(damaged)


def test_other_events_keep_no_messages():
    assert not is_enqueued(EventEnvelope(StreamId("order", "k"), "$message", {}))
    assert not is_enqueued(EventEnvelope(StreamId("$outbox", "k"), "Other", {}))


def test_messages_are_grouped_by_key_each_in_order():
    messages = [Message("t", key, str(n).encode()) for n, key in enumerate("bab")]
    groups = events_by_key(messages)
    assert [stream.aggregate_id for stream in groups] == ["a", "b"]
    assert [from_event(event).body for event in groups[StreamId("$outbox", "b")]] == [b"0", b"2"]
