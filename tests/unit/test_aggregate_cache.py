"""The cache of aggregates: bounded by bytes, the least recently used first."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import AggregateCache, ConfigurationError
from k1s0_event_store.aggregates.cache import CachedAggregate


def entry(size=1_000, version=1):
    made = CachedAggregate(b"", version, uuid4())
    return CachedAggregate(bytes(size - made.size), version, made.event_id)


def test_what_is_kept_is_found_until_it_is_dropped():
    cache, one = AggregateCache(), entry()
    cache.put("a", one)
    assert cache.get("a") is one
    assert (len(cache), cache.bytes) == (1, 1_000)
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_was_not_used_for_longest_makes_room():
    cache = AggregateCache(max_bytes=3_000)
    for key in "abc":
        cache.put(key, entry())
    cache.get("a")
    cache.put("d", entry())
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("e", entry(2_500))
    assert [key for key in "abcde" if cache.get(key) is not None] == ["e"]


def test_what_is_larger_than_the_cache_is_not_kept():
    cache = AggregateCache(max_bytes=3_000)
    cache.put("a", entry())
    cache.put("b", entry(3_001))
    assert len(cache) == 1


def test_a_later_version_replaces_an_earlier_one_and_not_the_other_way_round():
    cache, later = AggregateCache(), entry(2_000, version=2)
    cache.put("a", entry(version=1))
    cache.put("a", later)
    cache.put("a", entry(version=1))
    assert cache.get("a") is later
    assert cache.bytes == 2_000


def test_everything_can_be_forgotten():
    cache = AggregateCache()
    cache.put("a", entry())
    cache.clear()
    assert (len(cache), cache.bytes, cache.get("a")) == (0, 0, None)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(600, 2_500), st.integers(1, 3))))
def test_the_bytes_are_those_of_the_entries_and_never_too_many(puts):
    cache = AggregateCache(max_bytes=4_000)
    for key, size, version in puts:
        cache.put(key, entry(size, version))
        held = [one for key in "abcdef" if (one := cache.get(key)) is not None]
        assert cache.bytes == sum(one.size for one in held) <= 4_000


@pytest.mark.parametrize("size", [0, -1, True, "64 MB", 1.5])
def test_the_size_is_a_number_of_bytes(size):
    with pytest.raises(ConfigurationError):
        AggregateCache(size)
