"""Names, versions, ids and envelopes: what they take, what they refuse, and in which words."""

import copy
import dataclasses
import os
import pickle
import time
from collections import UserDict
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import (
    STREAM_EXISTS,
    CorruptDataError,
    EventEnvelope,
    EventStoreError,
    EventVersion,
    InvalidInputError,
    StreamId,
    StreamState,
)
from k1s0_event_store.envelope import (
    MAX_NAME_LENGTH,
    MAX_VERSION,
    changed,
    check_expected_version,
    event_id_of,
    json_texts,
    new_event_id,
    stored_envelope,
    undecoded_envelope,
    unread_envelope,
    utc_moment,
)

ORDER = StreamId("order", "o-1")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MOMENT_SENT = ((MOMENT - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)).to_bytes(8, "big")

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=MAX_NAME_LENGTH
)


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # our own bytes


BAD_NAMES = [
    ("", "1 to 255 characters, not 0"),
    ("x" * 256, "1 to 255 characters, not 256"),
    ("a\x00b", "NUL"),
    ("\ud800", "lone surrogates"),
    ("a\udfff", "lone surrogates"),
    (None, "a string, not NoneType"),
    (7, "a string, not int"),
    (b"order", "a string, not bytes"),
    (UUID(int=1), "a string, not UUID"),
]


@pytest.mark.parametrize(("name", "reason"), BAD_NAMES)
@pytest.mark.parametrize("part", ["aggregate_type", "aggregate_id"])
def test_a_stream_id_refuses_what_is_no_name(part, name, reason):
    parts = {"aggregate_type": "order", "aggregate_id": "o-1", part: name}
    with pytest.raises(InvalidInputError, match=f"{part} must .*{reason}"):
        StreamId(**parts)


@pytest.mark.parametrize(("name", "reason"), BAD_NAMES)
def test_an_envelope_refuses_an_event_type_that_is_no_name(name, reason):
    with pytest.raises(InvalidInputError, match=f"event_type must .*{reason}"):
        EventEnvelope(ORDER, name, {})


@given(names, names)
def test_any_unicode_text_names_a_stream(aggregate_type, aggregate_id):
    stream_id = StreamId(aggregate_type, aggregate_id)
    assert (stream_id.aggregate_type, stream_id.aggregate_id) == (aggregate_type, aggregate_id)
    assert str(stream_id) == f"{aggregate_type}-{aggregate_id}"
    assert pickled(stream_id) == stream_id


def test_the_limit_of_a_name_counts_characters_not_bytes():
    assert StreamId("😀" * 255, "é" * 255).aggregate_type == "😀" * 255


def test_streams_that_print_alike_are_different():
    one, other = StreamId("a-b", "c"), StreamId("a", "b-c")
    assert str(one) == str(other)
    assert one != other
    assert len({one, other, StreamId("a", "b-c")}) == 2


def test_a_stream_id_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ORDER.aggregate_id = "o-2"


@pytest.mark.parametrize("value", [-1, MAX_VERSION + 1, True, False, 1.0, "1", None, STREAM_EXISTS])
def test_a_version_is_a_whole_number_from_0_on(value):
    with pytest.raises(InvalidInputError, match="whole number from 0"):
        EventVersion(value)


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["huge", "hugely negative"])
def test_a_version_that_python_cannot_print_is_refused_as_any_other(value):
    with pytest.raises(InvalidInputError, match="not a number of 16610 bits"):
        EventVersion(value)


@given(st.integers(0, MAX_VERSION))
def test_a_version_is_an_int(value):
    version = EventVersion(value)
    assert version == value
    assert isinstance(version, int)
    assert f"{version} {version!r}" == f"{value} {value}"
    again = pickled(version)
    assert (again, type(again)) == (version, EventVersion)


@pytest.mark.parametrize(
    "value", [-1, -2, MAX_VERSION + 1, True, False, 1.0, "1", "STREAM_EXISTS", float("nan"), [], object()]
)
def test_what_no_stream_can_be_expected_to_be_is_refused_with_what_to_use(value):
    with pytest.raises(InvalidInputError) as refused:
        check_expected_version(value)
    message = str(refused.value)
    assert repr(value) in message
    for advice in ("0 for a new stream", "n for a stream at version n", "STREAM_EXISTS", "None to append"):
        assert advice in message


@pytest.mark.parametrize("value", [0, 1, MAX_VERSION, EventVersion(3), STREAM_EXISTS, None])
def test_an_expected_version_comes_back_as_it_is(value):
    assert check_expected_version(value) is value


def test_stream_exists_is_the_same_object_wherever_it_is_copied_to():
    assert pickled(STREAM_EXISTS) is STREAM_EXISTS
    assert copy.deepcopy(STREAM_EXISTS) is STREAM_EXISTS
    assert list(StreamState) == [STREAM_EXISTS]
    assert str(STREAM_EXISTS) == "STREAM_EXISTS"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("stream_id", "order-o-1", "stream_id must be a StreamId, not 'order-o-1'"),
        ("stream_id", None, "stream_id must be a StreamId"),
        ("metadata", [("a", 1)], "metadata must be a mapping, not list"),
        ("metadata", "", "metadata must be a mapping, not str"),
        ("event_id", 0, "event_id must be a uuid.UUID"),
        ("event_id", str(UUID(int=1)), "event_id must be a uuid.UUID"),
        ("version", -1, "version must be a whole number from 0"),
        ("version", True, "version must be a whole number from 0"),
        ("version", "1", "version must be a whole number from 0"),
        ("occurred_at", datetime(2026, 1, 1), "timezone-aware"),
        ("occurred_at", "2026-01-01T00:00:00Z", "timezone-aware"),
        ("occurred_at", 1767225600.0, "timezone-aware"),
        ("occurred_at", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "years 1 to 9999"),
        ("occurred_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "years 1 to 9999"),
    ],
)
def test_an_envelope_refuses_parts_of_the_wrong_kind(field, value, reason):
    parts = {"stream_id": ORDER, "event_type": "Created", "payload": {}, field: value}
    with pytest.raises(InvalidInputError, match=reason) as refused:
        EventEnvelope(**parts)
    assert isinstance(refused.value, EventStoreError)
    assert isinstance(refused.value, ValueError)


def test_an_envelope_needs_three_parts_and_fills_in_the_rest():
    before = datetime.now(UTC)
    event = EventEnvelope(stream_id=ORDER, event_type="Created", payload={"total": 5})
    assert before <= event.occurred_at <= datetime.now(UTC)
    assert event.event_id.version == 7
    assert (event.metadata, event.version, event.recorded_at, event.position) == ({}, 0, None, None)


def test_none_stands_for_what_is_filled_in():
    event = EventEnvelope(ORDER, "Created", {}, None, None, None)
    assert event.metadata == {}
    assert event.event_id.version == 7
    assert event.occurred_at.tzinfo is UTC


def test_envelopes_do_not_share_their_default_metadata():
    one, other = (EventEnvelope(ORDER, "Created", {}) for _ in range(2))
    assert one.metadata is not other.metadata


def test_metadata_may_be_any_mapping():
    event = EventEnvelope(ORDER, "Created", {}, UserDict(trace_id="abc"))
    assert event.metadata["trace_id"] == "abc"


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)))
def test_the_time_of_an_event_is_the_same_moment_in_utc(moment):
    event = EventEnvelope(ORDER, "Created", {}, occurred_at=moment)
    assert event.occurred_at.tzinfo is UTC
    # Compared in UTC: Python takes two times of one zone that differ in `fold` only for equal.
    assert event.occurred_at == moment.astimezone(UTC)


def test_a_time_elsewhere_is_turned_into_utc():
    moment = datetime(2026, 7, 1, 9, 30, 0, 123456, tzinfo=ZoneInfo("Asia/Tokyo"))
    event = EventEnvelope(ORDER, "Created", {}, occurred_at=moment)
    assert event.occurred_at.isoformat() == "2026-07-01T00:30:00.123456+00:00"


def test_an_envelope_is_frozen_hashable_copied_and_pickled():
    event = EventEnvelope(ORDER, "Created", {"tags": ["a"]}, {"trace_id": "t"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.version = 1
    assert len({event, copy.deepcopy(event), pickled(event)}) == 1
    assert dataclasses.replace(event, event_type="Renamed").event_id == event.event_id


def test_an_envelope_made_by_a_store_equals_one_made_by_the_class():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    values = (ORDER, "Created", {"n": 1}, {"t": "x"}, new_event_id(), moment, 3, moment, 9)
    names = [field.name for field in dataclasses.fields(EventEnvelope)]
    stored = stored_envelope(dict(zip(names, values, strict=True)))
    assert stored == EventEnvelope(*values)
    assert dataclasses.replace(stored, version=4).version == 4


def as_sent(payload='{"n": [1]}', metadata='{"t":"x"}', occurred_at=MOMENT_SENT, recorded_at=MOMENT_SENT):
    """An envelope as a server sends it: version 3 of the stream, at position 9."""
    return undecoded_envelope(
        ORDER, "Created", payload, metadata, UUID(int=7), occurred_at, 3, recorded_at, 9
    )


def test_what_a_server_sent_equals_what_the_class_makes_of_it():
    event = EventEnvelope(ORDER, "Created", {"n": [1]}, {"t": "x"}, UUID(int=7), MOMENT, 3, MOMENT, 9)
    assert as_sent() == event
    assert repr(as_sent()) == repr(event)
    assert dataclasses.asdict(as_sent()) == dataclasses.asdict(event)
    assert copy.deepcopy(as_sent()) == pickled(as_sent()) == dataclasses.replace(as_sent()) == event
    assert len({as_sent(), event}) == 1
    assert as_sent(metadata="{}").metadata == {}


def test_what_a_server_sent_is_decoded_once():
    event = as_sent()
    assert event.payload is event.payload
    event.payload["n"].append(2)
    assert event.payload == {"n": [1, 2]}


def test_an_envelope_has_no_other_attributes_than_its_own():
    for event in (as_sent(), EventEnvelope(ORDER, "Created", {})):
        assert not hasattr(event, "payloads")
    with pytest.raises(AttributeError, match="no attribute 'payload'"):
        EventEnvelope.payload  # noqa: B018
    with pytest.raises(dataclasses.FrozenInstanceError):
        as_sent().payload = {}


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        ({"payload": "[" * 5_000}, "payload", "stored JSON cannot be decoded"),
        ({"metadata": "1e"}, "metadata", "stored JSON cannot be decoded"),
        ({"occurred_at": (2**63 - 1).to_bytes(8, "big")}, "occurred_at", "infinite"),
        ({"recorded_at": (-(2**63)).to_bytes(8, "big", signed=True)}, "recorded_at", "infinite"),
    ],
)
def test_what_cannot_be_decoded_is_told_with_its_place_when_somebody_looks(sent, field, words):
    event = as_sent(**sent)
    for _ in range(2):
        with pytest.raises(CorruptDataError, match=rf"^stream order-o-1, version 3, {field}: .*{words}"):
            getattr(event, field)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_that_a_server_sends_is_the_time_to_the_microsecond(moment):
    microseconds = (moment - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert utc_moment(microseconds.to_bytes(8, "big", signed=True)) == moment


def test_the_text_of_a_payload_is_the_stored_one_until_somebody_looks():
    event = as_sent()
    assert json_texts(event)[0] == '{"n": [1]}'
    event.payload["n"].append(2)
    assert json_texts(event)[0] == '{"n":[1,2]}'
    assert json_texts(changed(as_sent(), payload={"m": 1}))[0] == '{"m":1}'
    with pytest.raises(ValueError, match="NaN"):
        json_texts(changed(as_sent(), payload=float("nan")))


def test_an_event_id_is_a_uuid_of_version_7_and_of_now():
    before = time.time_ns() // 1_000_000
    event_id = new_event_id()
    assert (event_id.version, event_id.variant) == (7, RFC_4122)
    assert before <= event_id.int >> 80 <= time.time_ns() // 1_000_000


def test_event_ids_do_not_repeat():
    assert len({new_event_id() for _ in range(100_000)}) == 100_000


def test_event_ids_use_all_their_random_bits():
    seen_0 = seen_1 = 0
    for _ in range(500):
        value = new_event_id().int
        seen_1, seen_0 = seen_1 | value, seen_0 | ~value
    random_bits = 2**62 - 1
    assert seen_1 & seen_0 & random_bits == random_bits


@pytest.mark.parametrize("step", [1_000_000, 245])
def test_event_ids_of_later_times_are_greater_also_within_a_millisecond(monkeypatch, step):
    clock = iter(range(1_700_000_000_000_000_000, 1_700_000_001_000_000_000, step))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    ids = [new_event_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert [str(i) for i in ids] == sorted(map(str, ids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_children_draw_other_event_ids(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)  # only the random part differs
    drawn = {_event_id_of_a_child() for _ in range(4)} | {new_event_id()}
    assert len(drawn) == 5


def _event_id_of_a_child():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_event_id().bytes)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        drawn = pipe.read()
    os.waitpid(child, 0)
    return UUID(bytes=drawn)


@given(st.uuids())
def test_an_event_id_is_read_from_its_text(event_id):
    for text in (str(event_id), str(event_id).upper(), event_id.hex, event_id.urn, f"{{{event_id}}}"):
        read = event_id_of(text)
        assert (read, str(read), hash(read), read.is_safe) == (
            event_id,
            str(event_id),
            hash(event_id),
            event_id.is_safe,
        )


@pytest.mark.parametrize("text", ["", "7", "x" * 32, "0" * 31, "0" * 33, "-" * 36])
def test_what_is_no_event_id_is_refused(text):
    with pytest.raises(ValueError, match=r"hexadecimal|invalid literal"):
        event_id_of(text)


def test_an_envelope_of_what_was_read_elsewhere_is_one_like_any_other():
    event_id = new_event_id()
    event = unread_envelope(ORDER, "Placed", '{"n": 1.0}', '{"t":"x"}', event_id, MOMENT, 3)
    assert json_texts(event) == ('{"n": 1.0}', '{"t":"x"}')
    made = EventEnvelope(ORDER, "Placed", {"n": 1.0}, {"t": "x"}, event_id, MOMENT, version=3)
    assert (event, repr(event)) == (made, repr(made))
    assert json_texts(event) == ('{"n":1.0}', '{"t":"x"}')
    assert json_texts(EventEnvelope(ORDER, "Placed", {})) == ("{}", "{}")
