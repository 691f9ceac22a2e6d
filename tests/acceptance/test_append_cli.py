"""`append` on a real database: what is written, what is refused, and that nothing is written then."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from k1s0_event_store import (
    EventEnvelope,
    OutcomeUnknownError,
    PostgresEventStore,
    StoreUnavailableError,
    StreamId,
    SyncPostgresEventStore,
)

ORDER = StreamId("order", "o-1")
PLACED = '{"event_type": "OrderPlaced", "payload": {"total": 12.5}}'
PAID = '{"event_type": "OrderPaid", "payload": null}'
SAME = (
    '[{"event_id": "018f0000-0000-7000-8000-000000000001", "event_type": "OrderPlaced", "payload": 1},'
    ' {"event_id": "018f0000-0000-7000-8000-000000000002", "event_type": "OrderPaid", "payload": 2}]'
)


@pytest.fixture
def append(invoke, event_store_dsn):
    """Append what comes on stdin to the stream of the tests."""
    return lambda text, *more: invoke("append", "order", "o-1", *more, "--dsn", event_store_dsn, input=text)


@pytest.fixture
def store(event_store_config):
    with SyncPostgresEventStore(event_store_config) as store:
        yield store


def types(store):
    return [event.event_type for event in store.load(ORDER)]


def line_of(refused, store):
    """The one line that an append was refused with; nothing was written."""
    assert refused.exit_code == 1, refused.output
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert not store.exists(ORDER)
    return refused.stderr.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    "text",
    [
        f"{PLACED}\n{PAID}\n",
        f"\ufeff{PLACED}\r\n\r\n{PAID}",
        f"[{PLACED}, {PAID}]",
        f"  [\n{PLACED}\n,\n{PAID}\n]\n",
        f"{json.dumps(json.loads(PLACED), indent=2)}\n{json.dumps(json.loads(PAID), indent=2)}",
    ],
)
def test_events_come_as_lines_or_as_an_array(append, store, text):
    done = append(text)
    assert (done.exit_code, done.stdout) == (0, "order-o-1 is at version 2\n")
    assert types(store) == ["OrderPlaced", "OrderPaid"]
    assert [event.payload for event in store.load(ORDER)] == [{"total": 12.5}, None]


def test_events_come_from_a_file(append, store, tmp_path):
    path = tmp_path / "events.json"
    path.write_text(PLACED)
    assert append(None, path).exit_code == 0
    assert append(PAID, "-").exit_code == 0
    assert types(store) == ["OrderPlaced", "OrderPaid"]


def test_an_event_keeps_its_id_metadata_and_time(append, store):
    fields = {
        "event_type": "OrderPlaced",
        "payload": 2**70,
        "metadata": {"by": "me"},
        "event_id": "018f0000-0000-7000-8000-000000000001",
        "occurred_at": "2026-01-31T13:00:00+01:00",
    }
    append(json.dumps(fields))
    (event,) = store.load(ORDER)
    assert (event.payload, event.metadata) == (2**70, {"by": "me"})
    assert event.event_id == UUID(fields["event_id"])
    assert event.occurred_at == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_the_new_version_as_json(append, store):
    answer = json.loads(append(f"{PLACED}\n{PAID}", "--json").stdout)
    assert answer == {"version": 2, "event_ids": [str(event.event_id) for event in store.load(ORDER)]}


def test_the_same_events_again_are_written_once(append, store):
    answers = [append(SAME, "--expected-version", "no-stream") for _ in range(2)]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout == "order-o-1 is at version 2\n"
    assert len(types(store)) == 2


def losing_answers(monkeypatch, *then):
    """The first append is done, but its answer is lost; the next ones raise `then`."""
    errors = iter([OutcomeUnknownError("the connection broke"), *then])
    append = PostgresEventStore.append

    async def lossy(*arguments):
        answer = await append(*arguments)
        error = next(errors, None)
        if error is not None:
            raise error
        return answer

    monkeypatch.setattr(PostgresEventStore, "append", lossy)


def test_events_without_ids_are_written_once_though_the_answer_is_lost(append, store, monkeypatch):
    losing_answers(monkeypatch)
    done = append(f"{PLACED}\n{PAID}", "--expected-version", "0")
    assert (done.exit_code, done.stdout) == (0, "order-o-1 is at version 2\n")
    assert types(store) == ["OrderPlaced", "OrderPaid"]


def test_a_database_that_goes_away_meanwhile_leaves_the_outcome_unknown(append, monkeypatch):
    losing_answers(monkeypatch, StoreUnavailableError("away"))
    refused = append(PLACED)
    assert (refused.exit_code, refused.stderr) == (1, "error: the connection broke\n")


@pytest.mark.parametrize(
    ("before", "expected", "version"),
    [(0, "any", 1), (0, "no-stream", 1), (0, "0", 1), (1, "any", 2), (1, "exists", 2), (1, "1", 2)],
)
def test_a_version_that_is_as_expected(append, store, before, expected, version):
    store.append(ORDER, [EventEnvelope(ORDER, "Before", {}) for _ in range(before)])
    done = append(PLACED, "--expected-version", expected)
    assert done.stdout == f"order-o-1 is at version {version}\n"


@pytest.mark.parametrize(
    ("before", "expected", "said"),
    [
        (1, "no-stream", "expected 0, got 1"),
        (2, "1", "expected 1, got 2"),
        (1, "7", "expected 7, got 1"),
        (0, "exists", "expected STREAM_EXISTS, got 0"),
    ],
)
def test_a_conflict_is_one_line_with_the_actual_version_and_exit_code_3(
    append, store, before, expected, said
):
    store.append(ORDER, [EventEnvelope(ORDER, "Before", {}) for _ in range(before)])
    refused = append(PLACED, "--expected-version", expected)
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert refused.stderr == f"error: Concurrency conflict: {said} (stream order-o-1)\n"
    assert types(store) == ["Before"] * before


def test_an_event_id_that_is_taken_has_exit_code_3(append, store):
    append(SAME)
    refused = append(SAME.replace("0001", "0003"))
    assert refused.exit_code == 3
    assert refused.stderr.startswith("error: Duplicate event id in stream order-o-1")
    assert types(store) == ["OrderPlaced", "OrderPaid"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there are no events"),
        (" [ ] ", "there are no events"),
        (f"{PLACED}\n{PAID[:-1]}", "line 2: bad JSON"),
        (f"{PLACED}\n\n\nnot JSON", "line 4: bad JSON"),
        (f"[\n{PLACED},\n{PAID}", "line 3: bad JSON: a comma or the end of the array is missing"),
        (f"[\n{PLACED},\n]", "line 3: bad JSON"),
        (f"[{PLACED}\n{PAID}]", "line 2: bad JSON: a comma"),
        (f"{PLACED}\n[]", "line 2: an event is an object like"),
        (f"{PLACED}\n12", "line 2: an event is an object like"),
        (f'{PLACED}\n{{"event_type": "X"}}', "line 2: an event is an object like"),
        ('{"event_type": "X", "payload": 1, "type": 2}', "line 1: unknown: type; an event has event_type"),
        ('{"event_type": 7, "payload": 1}', "line 1: event_type must be a string"),
        ('{"event_type": "", "payload": 1}', "line 1: event_type must have 1 to 255 characters"),
        ('{"event_type": "X", "payload": 1, "metadata": [1]}', "line 1: metadata must be a mapping"),
        ('{"event_type": "X", "payload": 1, "event_id": "7"}', "line 1: event_id must be a UUID, not '7'"),
        ('{"event_type": "X", "payload": 1, "event_id": 7}', "line 1: event_id must be a UUID, not 7"),
        ('{"event_type": "X", "payload": 1, "occurred_at": "soon"}', "line 1: occurred_at must be a time"),
        (
            '{"event_type": "X", "payload": 1, "occurred_at": "2026-01-31T12:00"}',
            "line 1: occurred_at must be",
        ),
        (f'{PLACED}\n{{"event_type": "X", "payload": "\\u0000"}}', "line 2: payload or metadata not JSON"),
        ('{"event_type": "X", "payload": NaN}', "line 1: bad JSON: NaN is no JSON number"),
        ('{"event_type": "X", "payload": 1e400}', "line 1: bad JSON: the number 1e400 does not fit"),
        ('{"event_type": "X", "payload": 0.12345678901234567890}', "line 1: bad JSON: the number 0.123"),
        ('{"event_type": "X", "payload": 1e-99999999999999999999}', "line 1: bad JSON: the number 1e-9"),
        (f'{{"event_type": "X", "payload": {"9" * 5000}}}', "line 1: bad JSON"),
        (f'{{"event_type": "X", "payload": {"[" * 100_000}', "line 1: bad JSON"),
        ('{"event_type": "X", "payload": {"a": 1, "a": 2}}', "line 1: bad JSON: the name 'a' stands twice"),
    ],
)
def test_bad_events_are_refused_with_their_line_before_anything_is_written(append, store, text, said):
    assert line_of(append(text), store).startswith(said)


def test_bytes_that_are_no_text_are_refused_with_their_line(append, store):
    assert line_of(append(PLACED.encode() + b'\n"\xff"'), store) == "line 2: this is no text in UTF-8"


def test_an_id_that_stands_twice_writes_nothing(append, store):
    assert append(SAME.replace("2", "1")).exit_code == 3
    assert not store.exists(ORDER)


def test_a_file_that_is_not_there_is_one_line(append, store, tmp_path):
    assert "No such file" in line_of(append(None, tmp_path / "none.json"), store)


@pytest.mark.parametrize("expected", ["-1", "1.5", "latest", "", "9" * 30])
def test_an_expected_version_that_is_none_is_wrong_usage(append, store, expected):
    refused = append(PLACED, f"--expected-version={expected}")
    assert refused.exit_code == 2
    assert not store.exists(ORDER)
