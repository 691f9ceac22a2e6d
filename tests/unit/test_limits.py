"""The limits as values, and how deep JSON nests."""

import json
import random
import sys

import pytest

from k1s0_event_store import (
    ConfigurationError,
    EventStoreConfig,
    InvalidInputError,
    LimitExceededError,
    Limits,
)
from k1s0_event_store.batch import encode_batch
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.jsontext import encode, nesting, nests_deeper
from k1s0_event_store.limits import MAX_NESTING

ORDER = StreamId("order", "o-1")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("payload", 0), ("payload", -1), ("payload", 1.5), ("payload", "1000"), ("payload", True),
        ("metadata", 1), ("state", 0), ("events", 0), ("depth", 0), ("depth", 251), ("name", 0),
        ("name", 256), ("name", None),
    ],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused(setting, value):
    with pytest.raises(ConfigurationError, match=f"the limit {setting}"):
        Limits(**{setting: value})


def test_limits_are_a_value():
    assert Limits() == Limits(payload=16 * 2**20)
    assert hash(Limits()) == hash(EventStoreConfig().limits)
    with pytest.raises(AttributeError):
        Limits().payload = 1


def test_a_configuration_file_may_set_limits():
    config = EventStoreConfig.from_mapping({"limits": {"payload": 1000, "events": 10}})
    assert config.limits == Limits(payload=1000, events=10)
    assert EventStoreConfig.from_mapping({"limits": Limits(depth=9)}).limits == Limits(depth=9)
    with pytest.raises(ConfigurationError, match="unknown limits: size; known are payload, metadata"):
        EventStoreConfig.from_mapping({"limits": {"size": 1}})
    with pytest.raises(ConfigurationError, match=r"limits must be Limits\(...\), not int"):
        EventStoreConfig(limits=1000)


def test_an_error_says_what_was_found_and_what_to_do():
    error = LimitExceededError("payload", 1000, 12345, 3)
    assert isinstance(error, InvalidInputError)
    assert str(error) == (
        "event 3 of the batch: the characters of the payload's JSON are 12,345, and 1,000 are allowed: "
        "give less, or allow more with Limits(payload=...) in the store's configuration"
    )
    assert str(LimitExceededError("depth", 5, None)).startswith("the levels of the JSON are more, and 5")


def test_an_endless_batch_is_not_read_to_its_end():
    def endless():
        while True:
            yield EventEnvelope(ORDER, "Placed", {})

    with pytest.raises(LimitExceededError) as refused:
        encode_batch(ORDER, endless(), Limits(events=100))
    assert (refused.value.limit, refused.value.most) == ("events", 100)


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def any_json(chance, levels=6):
    kind = chance.randrange(5) if levels else 2
    if kind < 2:
        return [any_json(chance, levels - 1) for _ in range(chance.randrange(4))]
    if kind == 2:
        return chance.choice(["", "[[[", "]}", '"[', "\\", '\\"{[', "é[📦", "\n[\t", 1, -1.5e9, None, True])
    return {any_json(chance, 0) if chance.random() < 0.5 else "a": any_json(chance, levels - 1) for _ in "ab"}


def test_the_nesting_of_json_is_counted_without_decoding_it():
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(2_000):
        value = json.loads(json.dumps(any_json(chance)))
        for text in (encode(value), json.dumps(value, indent=2)):
            assert nesting(text) == depth_of(value), (seed, text)
        assert nests_deeper(value, depth_of(value)) is False
        assert depth_of(value) == 0 or nests_deeper(value, depth_of(value) - 1), (seed, value)


def test_looking_for_deep_nesting_ends_where_a_value_is_shared_or_holds_itself():
    shared = [1]
    for _ in range(200):
        shared = [shared, shared]
    assert not nests_deeper(shared, 201)
    assert nests_deeper(shared, 200)
    circle = []
    circle.append(circle)
    assert nests_deeper(circle, MAX_NESTING)


def test_what_the_deepest_limit_allows_is_encoded():
    value = 1
    for _ in range(MAX_NESTING):
        value = [value]
    batch = encode_batch(ORDER, [EventEnvelope(ORDER, "Deep", value, {"a": value[0]})])
    assert nesting(batch.payloads[0]) == nesting(batch.metadata[0]) == MAX_NESTING


def test_the_largest_limits_there_are_still_let_events_through():
    largest = Limits(payload=sys.maxsize - 1, events=sys.maxsize - 1)
    stream_id = StreamId("order", "1")
    assert len(encode_batch(stream_id, [EventEnvelope(stream_id, "Placed", {})], largest)) == 1
    with pytest.raises(ConfigurationError, match="at most"):
        Limits(events=sys.maxsize)
