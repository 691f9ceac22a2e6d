"""`streams` and `show` on a real database: which ones are found, and what is shown of hostile events."""

import json
import re
import shlex
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from k1s0_event_store import EventEnvelope, StreamId, SyncPostgresEventStore
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.testing.plugin import _execute

ORDER = StreamId("order", "o-1")
HOSTILE = "\x1b[31mred\x07 \x9b1m [bold]<script>"


@pytest.fixture
def run(invoke, event_store_dsn):
    """A command on the test's database."""
    return lambda *arguments, **more: invoke(*arguments, "--dsn", event_store_dsn, **more)


@pytest.fixture
def store(event_store_config):
    with SyncPostgresEventStore(event_store_config) as store:
        yield store


def append(store, stream_id, *payloads, **fields):
    store.append(
        stream_id, [EventEnvelope(stream_id, "OrderPlaced", payload, **fields) for payload in payloads]
    )


def append_text(dsn, stream_id, payload):
    """An event whose payload is just this JSON text, as an app in another language can write it."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version) VALUES (%s, %s, 1)",
            (stream_id.aggregate_type, stream_id.aggregate_id),
        )
        connection.execute(
            "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,"
            " payload, metadata, occurred_at)"
            " VALUES (%s, %s, 1, gen_random_uuid(), 'Foreign', %s, '{}', now())",
            (stream_id.aggregate_type, stream_id.aggregate_id, payload),
        )


def age(dsn, aggregate_id, hours):
    """Make the last change of a stream older than the trigger lets it be."""
    _execute(
        dsn,
        "ALTER TABLE eventstore.streams DISABLE TRIGGER USER; "
        f"UPDATE eventstore.streams SET updated_at = now() - interval '{hours} hours' "
        f"WHERE aggregate_id = '{aggregate_id}'",
    )


def listed(result):
    assert result.exit_code == 0, result.output
    return [(one["aggregate_type"], one["aggregate_id"]) for one in json.loads(result.stdout)]


def versions(result):
    assert result.exit_code == 0, result.output
    return [event["version"] for event in json.loads(result.stdout)]


def test_streams_are_listed_by_key_with_their_events_and_age(run, store, event_store_dsn):
    append(store, StreamId("order", "o-2"), {}, {}, {})
    append(store, ORDER, {})
    age(event_store_dsn, "o-2", hours=3)
    lines = [line.split() for line in run("streams").stdout.splitlines()]
    assert lines[0] == ["type", "id", "events", "last", "change"]
    assert lines[2][:3] == ["order", "o-1", "1"]
    assert lines[3] == ["order", "o-2", "3", "3", "h", "ago"]


def test_a_store_without_streams_says_so(run):
    assert run("streams").stdout == "no streams\n"
    assert run("streams", "--json").stdout == "[]\n"


def test_streams_as_json_have_all_fields(run, store):
    append(store, ORDER, {}, {})
    (stream,) = json.loads(run("streams", "--json").stdout)
    assert stream.keys() == {"aggregate_type", "aggregate_id", "version", "created_at", "updated_at"}
    assert stream["version"] == 2
    assert datetime.fromisoformat(stream["updated_at"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--type", "order"), ["a-1", "a-2"]),
        (("--contains", "-1"), ["a-1", "b-1"]),
        (("--contains", "A"), []),
        (("--min-events", "2"), ["a-2"]),
        (("--max-events", "1"), ["a-1", "b-1"]),
        (("--changed-since", "1h"), ["a-2", "b-1"]),
        (("--changed-before", "1h"), ["a-1"]),
        (("--changed-before", "2020-01-01"), []),
        (("--changed-since", "2020-01-01T12:00:00+01:00", "--type", "user"), ["b-1"]),
    ],
)
def test_streams_are_filtered(run, store, event_store_dsn, options, found):
    append(store, StreamId("order", "a-1"), {})
    append(store, StreamId("order", "a-2"), {}, {})
    append(store, StreamId("user", "b-1"), {})
    age(event_store_dsn, "a-1", hours=2)
    assert [name for _, name in listed(run("streams", "--json", *options))] == found


def test_what_is_left_out_is_said_and_gone_on_with(run, store):
    for number in range(5):
        append(store, StreamId("my order", f"o {number}"), {})
    first = run("streams", "--limit", 3)
    place = first.stdout.split("--after ")[1]
    assert place == "'my order' 'o 2'\n"
    second = run("streams", "--limit", 3, "--after", *shlex.split(place))
    assert "o 3" in second.stdout
    assert "o 2" not in second.stdout
    assert "--after" not in second.stdout
    as_json = run("streams", "--limit", 3, "--json")
    assert len(json.loads(as_json.stdout)) == 3
    assert "--after 'my order' 'o 2'" in as_json.stderr


def test_all_streams_are_listed_over_many_pages(run, store, monkeypatch):
    monkeypatch.setattr("k1s0_event_store.cli.streams._PAGE", 4)
    names = [f"o-{number:02}" for number in range(11)]
    for name in names:
        append(store, StreamId("order", name), {})
    assert [name for _, name in listed(run("streams", "--all", "--json"))] == names
    shown = run("streams", "--all").stdout
    assert [name for name in names if name not in shown] == []
    assert "more" not in shown


def test_a_filter_that_looks_at_many_streams_goes_on_until_it_has_enough(run, store, monkeypatch):
    looked_at = []
    streams = PostgresInspector.streams

    async def streams_one_by_one(self, *arguments, **more):
        looked_at.append(arguments)
        return await streams(self, *arguments, **more, look_at=1)

    monkeypatch.setattr(PostgresInspector, "streams", streams_one_by_one)
    for number in range(4):
        append(store, StreamId("order", f"o-{number}"), {})
    assert listed(run("streams", "--contains", "3", "--limit", 1, "--json")) == [("order", "o-3")]
    assert len(looked_at) == 4


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "0"),
        ("--min-events", "0"),
        ("--after", "order"),
        *(("--changed-since", time) for time in ("soon", "7", "7y", "2026-13-01", "999999999w")),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(run, options):
    assert run("streams", *options).exit_code == 2


def test_a_place_in_another_type_is_refused_in_one_line(run):
    refused = run("streams", "--type", "user", "--after", "order", "o-1")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_an_event_is_shown_with_its_payload_and_metadata(run, store):
    event = EventEnvelope(
        ORDER,
        "OrderPlaced",
        {"total": 12},
        {"by": "me"},
        occurred_at=datetime(2026, 1, 31, 12, 0, 0, 5000, UTC),
    )
    store.append(ORDER, [event])
    assert run("show", "order", "o-1").stdout == (
        "version 1  OrderPlaced\n"
        f"  2026-01-31 12:00:00.005 UTC  {event.event_id}\n"
        '  {"total":12}\n'
        '  metadata {"by":"me"}\n'
    )


def test_a_longer_payload_is_indented(run, store):
    append(store, ORDER, {"lines": [{"article": "a" * 40, "count": 1}, {"article": "b" * 40, "count": 2}]})
    assert '      "count": 2\n' in run("show", "order", "o-1").stdout.replace('"count": 2,', '"count": 2')


def test_a_payload_that_is_too_long_is_cut_but_whole_as_json(run, store):
    append(store, ORDER, {"text": "x" * 1_000_000})
    shown = run("show", "order", "o-1").stdout
    assert len(shown) < 3_000
    assert "and more: --json prints all of it" in shown
    (event,) = json.loads(run("show", "order", "o-1", "--json").stdout)
    assert event["payload"] == {"text": "x" * 1_000_000}


def test_what_would_steer_the_terminal_is_shown_harmlessly(run, store):
    hostile = StreamId("order", HOSTILE)
    store.append(hostile, [EventEnvelope(hostile, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE})])
    shown = [run("streams"), run("show", "order", HOSTILE), run("tail", "--from-start", "--once")]
    as_json = [
        run("streams", "--json"),
        run("show", "order", HOSTILE, "--json"),
        run("tail", "--from-start", "--once", "--json"),
    ]
    for result in (*shown, *as_json):
        assert result.exit_code == 0, result.output
        assert "<script>" in result.stdout
        assert result.stdout.replace("\n", "").isprintable()
    (event,) = json.loads(as_json[1].stdout)
    assert (event["aggregate_id"], event["event_type"]) == (HOSTILE, HOSTILE)
    assert (
        event["payload"]
        == event["metadata"]
        == json.loads(as_json[2].stdout)["payload"]
        == {HOSTILE: HOSTILE}
    )


def test_a_name_with_a_line_break_stays_one_line(run, store):
    forged = StreamId("order", "o-1\nversion 2")
    store.append(forged, [EventEnvelope(forged, "OrderPlaced\nversion 3  OrderPaid", {})])
    shown = "".join(
        run(*command).stdout
        for command in [
            ("streams",),
            ("show", forged.aggregate_type, forged.aggregate_id),
            ("tail", "--from-start", "--once"),
        ]
    )
    assert "OrderPlaced\\nversion 3  OrderPaid" in shown
    assert not re.search("^version [23]", shown, re.MULTILINE)


def test_events_as_json_have_all_fields(run, store):
    append(store, ORDER, {"a": [1, None]}, metadata={"by": "me"})
    (event,) = json.loads(run("show", "order", "o-1", "--json").stdout)
    (stored,) = store.load(ORDER)
    assert event == {
        "aggregate_type": "order",
        "aggregate_id": "o-1",
        "version": 1,
        "event_id": str(stored.event_id),
        "event_type": "OrderPlaced",
        "occurred_at": stored.occurred_at.isoformat(),
        "recorded_at": stored.recorded_at.isoformat(),
        "position": stored.position,
        "metadata": {"by": "me"},
        "payload": {"a": [1, None]},
    }


@pytest.mark.parametrize("number", ["12345678901234567.89", "0.10000000000000000001", "9" * 400, "1.10"])
def test_numbers_are_shown_as_they_are_stored(run, event_store_dsn, number):
    append_text(event_store_dsn, ORDER, number)
    assert f'"payload": {number}}}' in run("show", "order", "o-1", "--json").stdout
    assert f"  {number[:70]}" in run("show", "order", "o-1").stdout


def test_a_payload_of_a_thousand_levels_is_shown(run, event_store_dsn):
    deep = "[" * 1000 + "]" * 1000
    append_text(event_store_dsn, ORDER, deep)
    assert deep in run("show", "order", "o-1", "--json").stdout
    assert run("show", "order", "o-1").exit_code == 0


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), range(1, 61)),
        (("--from", "55"), range(55, 61)),
        (("--to", "13"), range(1, 14)),
        (("--from", "20", "--to", "45"), range(20, 46)),
        (("--backwards",), range(60, 0, -1)),
        (("--backwards", "--from", "20", "--to", "45"), range(45, 19, -1)),
        (("--backwards", "--limit", "21"), range(60, 39, -1)),
        (("--limit", "20"), range(1, 21)),
        (("--from", "61"), ()),
        (("--from", "9", "--to", "8"), ()),
    ],
)
def test_a_part_of_a_stream_is_shown_over_several_pages(run, store, monkeypatch, options, shown):
    monkeypatch.setattr("k1s0_event_store.cli.show.page_size", lambda _mean: 10)
    append(store, ORDER, *range(60))
    assert versions(run("show", "order", "o-1", "--json", *options)) == list(shown)
    if not shown:
        assert run("show", "order", "o-1", *options).stdout == "no events between these versions\n"


def test_pages_of_large_events_are_small(run, store, monkeypatch):
    pages = []
    events = PostgresInspector.events

    async def counted(self, *arguments, **more):
        page = await events(self, *arguments, **more)
        pages.append(len(page))
        return page

    monkeypatch.setattr(PostgresInspector, "events", counted)
    append(store, ORDER, *("x" * 1_000_000 for _ in range(20)))
    assert versions(run("show", "order", "o-1", "--json")) == list(range(1, 21))
    assert sum(pages) == 20
    assert max(pages[1:]) <= 4


def test_a_stream_that_does_not_exist_is_one_line(run):
    missing = run("show", "order", "o-9")
    assert missing.exit_code == 1
    assert missing.stdout == ""
    assert missing.stderr == "error: there is no order 'o-9'\n"
