"""Snapshots: what is checked before a store sees it, and when one is due."""

import math
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import (
    ConfigurationError,
    InMemorySnapshotStore,
    InvalidInputError,
    Snapshot,
    StoreClosedError,
    StreamId,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.envelope import MAX_VERSION
from k1s0_event_store.snapshot import check_snapshot_query, encode_state

ORDER = StreamId("order", "o-1")
STORES = [InMemorySnapshotStore, SyncInMemorySnapshotStore]


def test_a_snapshot_is_frozen_and_of_layout_1_unless_said():
    snapshot = Snapshot(ORDER, 3, {"total": 5}, datetime(2026, 1, 1, tzinfo=UTC))
    assert snapshot.schema_version == 1
    with pytest.raises(FrozenInstanceError):
        snapshot.version = 4


def test_a_state_becomes_json_text():
    assert encode_state(ORDER, 1, {"total": 5}, 1) == '{"total":5}'


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("order-o-1", 1, {}, 1), "stream_id must be a StreamId"),
        ((ORDER, 0, {}, 1), "needs a version from 1 on"),
        ((ORDER, -1, {}, 1), "version must be a whole number"),
        ((ORDER, True, {}, 1), "version must be a whole number"),
        ((ORDER, "3", {}, 1), "version must be a whole number"),
        ((ORDER, None, {}, 1), "version must be a whole number"),
        ((ORDER, 1, {}, -1), "schema_version must be a whole number"),
        ((ORDER, 1, {}, None), "schema_version must be a whole number"),
        ((ORDER, 1, {"x": math.nan}, 1), "state of order-o-1 cannot be saved: .*NaN"),
        ((ORDER, 1, ["\x00"], 1), "state of order-o-1 cannot be saved: .*u0000"),
        ((ORDER, 1, object(), 1), "state of order-o-1 cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_refused(arguments, reason):
    with pytest.raises(InvalidInputError, match=reason):
        encode_state(*arguments)


@pytest.mark.parametrize(("max_version", "last"), [(None, MAX_VERSION), (0, 0), (7, 7)])
def test_a_query_reaches_to_its_highest_version(max_version, last):
    assert check_snapshot_query(ORDER, None, max_version) == last


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((None, None, None), "StreamId"),
        ((ORDER, "1", None), "schema_version"),
        ((ORDER, None, -1), "max_version"),
        ((ORDER, None, 1.5), "max_version"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments, reason):
    with pytest.raises(InvalidInputError, match=reason):
        check_snapshot_query(*arguments)


@pytest.mark.parametrize("store_class", STORES)
@given(st.integers(1, 1000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_snapshot_is_due_after_that_many_events(store_class, interval, last, events):
    store = store_class(snapshot_interval=interval)
    assert store.is_due(last + events, last) == (events >= interval)


@pytest.mark.parametrize("store_class", STORES)
def test_a_batch_that_jumps_over_the_interval_makes_a_snapshot_due(store_class):
    store = store_class(snapshot_interval=50)
    assert [store.is_due(49), store.is_due(50), store.is_due(73)] == [False, True, True]
    assert [store.is_due(122, 73), store.is_due(123, 73)] == [False, True]


@pytest.mark.parametrize("store_class", STORES)
@pytest.mark.parametrize("setting", ["snapshot_interval", "snapshots_kept"])
@pytest.mark.parametrize("value", [0, -1, True, "2", None])
def test_an_in_memory_store_refuses_the_settings_that_the_config_refuses(store_class, setting, value):
    with pytest.raises(ConfigurationError, match=setting):
        store_class(**{setting: value})


async def test_a_closed_in_memory_snapshot_store_refuses_every_call():
    store = InMemorySnapshotStore()
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.save(ORDER, 1, {})
    with pytest.raises(StoreClosedError):
        await store.load_latest(ORDER)


def test_a_closed_blocking_in_memory_snapshot_store_refuses_every_call():
    with SyncInMemorySnapshotStore() as store:
        store.save(ORDER, 1, {"n": 1})
        assert store.load_latest(ORDER).state == {"n": 1}
    with pytest.raises(StoreClosedError):
        store.save(ORDER, 1, {})
    with pytest.raises(StoreClosedError):
        store.load_latest(ORDER)
