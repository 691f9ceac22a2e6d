"""The errors: one tree, exported and drawn, with facts that survive pickling."""

import copy
import functools
import inspect
import pickle
import re
from uuid import UUID

import pytest

import k1s0_event_store
from k1s0_event_store import (
    STREAM_EXISTS,
    AggregateNotFoundError,
    AuthenticationError,
    BrokerUnavailableError,
    ChainBrokenError,
    ClusterChangedError,
    ConcurrencyError,
    ConfigurationError,
    CorruptDataError,
    DatabaseError,
    DeadlockError,
    DuplicateEventError,
    EventDecodeError,
    EventParkedError,
    EventStoreError,
    InvalidEventError,
    InvalidInputError,
    LeaseLostError,
    LimitExceededError,
    LockTimeoutError,
    MessageRefusedError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PersonalDataError,
    PublishError,
    RegistryError,
    SchemaError,
    StoreClosedError,
    StoreUnavailableError,
    StreamId,
    StreamNotFoundError,
    SubscriptionError,
    SubscriptionNotFoundError,
    TenantRequiredError,
    TransactionRequiredError,
    TransferError,
    UnknownEventTypeError,
    WaitTimeoutError,
    exceptions,
)

ORDER = StreamId("order", "o-1")
IDS = tuple(UUID(int=n) for n in range(1, 6))

DEEP = functools.reduce(lambda inner, _: [inner], range(100_000), [])


class Unprintable:
    def __repr__(self):
        raise KeyError("no repr")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a" * 1_000, "'" + "a" * 199),
        (10**5_000, "a number of 16610 bits"),
        (-(10**5_000), "a number of 16610 bits"),
        ([10**5_000], "list that cannot be printed"),
        (DEEP, "list that cannot be printed"),
        (Unprintable(), "Unprintable that cannot be printed"),
    ],
    ids=["short", "long", "huge", "negative and huge", "huge in a list", "deep", "without a repr"],
)
def test_whatever_is_refused_can_be_shown(value, text):
    assert exceptions.shown(value) == text


SPECIMENS = [
    (EventStoreError("text"), {}),
    (ConcurrencyError(ORDER, 2, 3), {"stream_id": ORDER, "expected_version": 2, "actual_version": 3}),
    (ConcurrencyError(ORDER, None, None), {"expected_version": None, "actual_version": None}),
    (StreamNotFoundError(ORDER, STREAM_EXISTS, 0), {"expected_version": STREAM_EXISTS, "actual_version": 0}),
    (DuplicateEventError(ORDER, IDS, "why"), {"stream_id": ORDER, "event_ids": IDS, "reason": "why"}),
    (DuplicateEventError(ORDER, (), "why"), {"event_ids": ()}),
    (LockTimeoutError(ORDER, 1.5), {"stream_id": ORDER, "wait": 1.5}),
    (LockTimeoutError(ORDER, None), {"wait": None}),
    (DeadlockError("text"), {}),
    (InvalidInputError("text"), {}),
    (InvalidEventError(ORDER, 3, "why"), {"stream_id": ORDER, "index": 3, "reason": "why"}),
    (LimitExceededError("payload", 10, 12, 3), {"limit": "payload", "most": 10, "actual": 12, "index": 3}),
    (TransferError("why", 7), {"reason": "why", "line": 7}),
    (ConfigurationError("text"), {}),
    (RegistryError("text"), {}),
    (TenantRequiredError("text"), {}),
    (CorruptDataError("text"), {}),
    (ChainBrokenError("text"), {}),
    (
        EventDecodeError(ORDER, 4, "placed", "why", ("lines.0",)),
        {"stream_id": ORDER, "version": 4, "event_type": "placed", "reason": "why", "fields": ("lines.0",)},
    ),
    (
        UnknownEventTypeError(ORDER, 4, "placed", 2),
        {"stream_id": ORDER, "version": 4, "event_type": "placed", "schema_version": 2},
    ),
    (UnknownEventTypeError(ORDER, 4, "placed"), {"schema_version": None}),
    (AggregateNotFoundError(ORDER), {"stream_id": ORDER}),
    (
        PersonalDataError("event 1", "$.name", "why"),
        {"bound_to": "event 1", "path": "$.name", "reason": "why"},
    ),
    (SchemaError("s", ("no table",)), {"schema": "s", "problems": ("no table",)}),
    (TransactionRequiredError("text"), {}),
    (ClusterChangedError(8, 7), {"cluster": 8, "known": 7}),
    (SubscriptionError("text"), {}),
    (SubscriptionNotFoundError("totals"), {"name": "totals", "version": None}),
    (SubscriptionNotFoundError("totals", 2), {"name": "totals", "version": 2}),
    (LeaseLostError("totals", 2, 3), {"name": "totals", "version": 2, "partition": 3}),
    (
        WaitTimeoutError("totals", ORDER, 4, 1.5),
        {"name": "totals", "stream_id": ORDER, "version": 4, "seconds": 1.5},
    ),
    (EventParkedError("totals", ORDER, 4), {"name": "totals", "stream_id": ORDER, "version": 4}),
    (PublishError("text"), {}),
    (BrokerUnavailableError("text"), {}),
    (MessageRefusedError("text"), {}),
    (StoreClosedError("text"), {}),
    (OutcomeUnknownError("text"), {}),
    (StoreUnavailableError("text"), {}),
    (AuthenticationError("text"), {}),
    (PermissionDeniedError("text"), {}),
    (DatabaseError("text", "22P02"), {"sqlstate": "22P02"}),
    (DatabaseError("text"), {"sqlstate": None}),
]

CLASSES = {cls for _, cls in inspect.getmembers(exceptions, inspect.isclass) if issubclass(cls, Exception)}


def drawn_tree():
    """Class name to the name of its parent, as the module's docstring draws them."""
    parents, above = {}, []
    for line in exceptions.__doc__.splitlines():
        if found := re.match(r"    ([ │├└─]*)([A-Z]\w+Error)\b", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1] if depth else None
    return parents


def test_the_drawn_tree_is_the_real_one():
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}
    assert drawn_tree() == {**real, "EventStoreError": None}


def test_every_error_is_exported_by_the_root():
    assert {cls.__name__ for cls in CLASSES} <= set(k1s0_event_store.__all__)
    assert all(getattr(k1s0_event_store, cls.__name__) is cls for cls in CLASSES)


def test_every_error_is_tested_below():
    assert {type(error) for error, _ in SPECIMENS} == CLASSES


@pytest.mark.parametrize(("error", "facts"), SPECIMENS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])  # noqa: S301  # our own bytes
def test_an_error_keeps_its_facts_and_words_in_another_process(error, facts, again):
    arrived = again(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error) != ""
    assert {name: getattr(arrived, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConcurrencyError(ORDER, 2, 3), "Concurrency conflict: expected 2, got 3 (stream order-o-1)"),
        (ConcurrencyError(ORDER, None, 3), "expected any version, got 3"),
        (ConcurrencyError(ORDER, 2, None), "expected 2, got a change by another transaction"),
        (StreamNotFoundError(ORDER, STREAM_EXISTS, 0), "expected STREAM_EXISTS, got 0"),
        (DuplicateEventError(ORDER, IDS[:1], "why"), f"why ({IDS[0]}). Give every new event its own id"),
        (DuplicateEventError(ORDER, IDS, "why"), f"{IDS[2]}, ...)"),
        (DuplicateEventError(ORDER, (), "why"), "(id not known)"),
        (LockTimeoutError(ORDER, 1.5), "waited 1.5 s"),
        (LockTimeoutError(ORDER, None), "waited the server's lock_timeout"),
        (TransferError("why", 7), "line 7: why"),
        (TransferError("why"), "why"),
        (InvalidEventError(ORDER, 3, "why"), "Event 3 of the batch for stream order-o-1: why"),
        (PersonalDataError("event 1", "$.name", "why"), "data of event 1 at $.name cannot be read: why;"),
        (
            EventDecodeError(ORDER, 4, "placed", "why"),
            "version 4 of order-o-1 cannot be read as 'placed': why",
        ),
        (UnknownEventTypeError(ORDER, 4, "placed"), "event type 'placed' is not registered; register it, or"),
        (UnknownEventTypeError(ORDER, 4, "placed", 2), "'placed' in schema version 2 is not registered"),
        (AggregateNotFoundError(ORDER), "there is no order 'o-1'"),
        (SchemaError("s", ("no a", "no b")), "no a; no b. Run `k1s0-event-store db upgrade`"),
        (ClusterChangedError(8, 7), "belongs to cluster 7, but this is cluster 8"),
        (ClusterChangedError(8, 7), "run `k1s0-event-store db rebase` once"),
        (SubscriptionNotFoundError("totals"), "no subscription 'totals': run it once"),
        (SubscriptionNotFoundError("totals", 2), "no subscription 'totals' version 2: "),
        (LeaseLostError("totals", 2, 3), "another process holds partition 3 of 'totals' version 2 now"),
        (WaitTimeoutError("totals", ORDER, 4, 1.5), "not handled version 4 of order-o-1 within 1.5 s"),
        (EventParkedError("totals", ORDER, 4), "has parked version 4 of order-o-1; retry or drop it"),
    ],
)
def test_an_error_says_what_happened_and_what_to_do(error, text):
    assert text in str(error)


def test_what_may_succeed_when_done_again_says_so():
    assert {cls for cls in CLASSES if cls.retryable} == {
        ConcurrencyError, DeadlockError, LeaseLostError, LockTimeoutError, OutcomeUnknownError,
        BrokerUnavailableError, StoreUnavailableError, WaitTimeoutError,
    }  # fmt: skip


def test_bad_input_is_a_value_error_too():
    assert {cls for cls in CLASSES if issubclass(cls, ValueError)} == {
        InvalidInputError, InvalidEventError, LimitExceededError, TransferError, ConfigurationError,
        RegistryError, TenantRequiredError,
    }  # fmt: skip
