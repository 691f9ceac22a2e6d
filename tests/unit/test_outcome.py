"""What a refused append means: a conflict, a missing stream, a repeated batch, a taken id."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import (
    STREAM_EXISTS,
    ConcurrencyError,
    DuplicateEventError,
    EventVersion,
    StreamId,
    StreamNotFoundError,
)
from k1s0_event_store.outcome import first_answer, is_met, require

ORDER = StreamId("order", "o-1")
A, B, C = (UUID(int=n) for n in (1, 2, 3))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_an_expected_version_is_met_by_that_version_only(expected, actual):
    assert is_met(expected, expected)
    assert is_met(expected, actual) == (expected == actual)


@pytest.mark.parametrize(
    ("expected", "actual", "met"),
    [(None, 0, True), (None, 9, True), (STREAM_EXISTS, 0, False), (STREAM_EXISTS, 1, True)],
)
def test_any_version_and_any_existing_stream(expected, actual, met):
    assert is_met(expected, actual) is met


@pytest.mark.parametrize(("expected", "actual"), [(3, 3), (0, 0), (None, 7), (STREAM_EXISTS, 2)])
def test_the_version_is_answered_where_it_is_as_expected(expected, actual):
    answer = require(ORDER, expected, actual)
    assert (answer, type(answer)) == (actual, EventVersion)


@pytest.mark.parametrize(("expected", "actual"), [(0, 1), (3, 0), (3, 2), (3, 4)])
def test_another_version_is_a_conflict_with_true_facts(expected, actual):
    with pytest.raises(ConcurrencyError, match=f"expected {expected}, got {actual}") as refused:
        require(ORDER, expected, actual)
    assert type(refused.value) is ConcurrencyError
    facts = refused.value
    assert (facts.stream_id, facts.expected_version, facts.actual_version) == (ORDER, expected, actual)


def test_a_missing_stream_has_an_error_of_its_own():
    with pytest.raises(StreamNotFoundError, match="expected STREAM_EXISTS, got 0") as refused:
        require(ORDER, STREAM_EXISTS, 0)
    assert (refused.value.expected_version, refused.value.actual_version) == (STREAM_EXISTS, 0)


@pytest.mark.parametrize("expected", [None, STREAM_EXISTS, 4])
def test_the_same_batch_again_gets_the_first_answer(expected):
    answer = first_answer(ORDER, expected, [A, B, C], {C: 7, A: 5, B: 6})
    assert (answer, type(answer)) == (7, EventVersion)


@pytest.mark.parametrize(
    ("expected", "batch", "known"),
    [
        (None, [A, B], {A: 1}),
        (None, [A, B], {B: 2}),
        (None, [A, B], {A: 2, B: 1}),
        (None, [A, B], {A: 1, B: 3}),
        (None, [A], {A: None}),
        (None, [A, B], {A: 1, B: None}),
        (None, [A, B], {A: None, B: 2}),
        (1, [A, B], {A: 1, B: 2}),
        (0, [A], {A: 5}),
    ],
    ids=[
        "only its beginning", "only its end", "another order", "with a gap", "in another type",
        "half in another type", "the other half in another type", "expected elsewhere", "expected new",
    ],
)  # fmt: skip
def test_ids_that_were_used_for_something_else_are_duplicates(expected, batch, known):
    with pytest.raises(DuplicateEventError) as refused:
        first_answer(ORDER, expected, batch, known)
    assert refused.value.event_ids == tuple(known)
    assert refused.value.stream_id == ORDER
