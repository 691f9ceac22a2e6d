"""`stats` on a real database: what is counted, and on which day."""

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from k1s0_event_store.testing.plugin import _execute

TODAY = datetime(2026, 1, 31, tzinfo=UTC)
EVENTS = [  # recorded so many days ago
    ("order", "OrderPlaced", 0),
    ("order", "OrderPlaced", 0),
    ("order", "OrderPlaced", 2),
    ("order", "OrderPaid", 6),
    ("user", "[red]Named", 400),
    ("order", "Named", 7),
]


@pytest.fixture
def stats(invoke, event_store_dsn, monkeypatch):
    """The command, at noon of a day."""
    monkeypatch.setattr("k1s0_event_store.cli.stats._now", lambda: TODAY + timedelta(hours=12))
    return lambda *options: invoke("stats", *options, "--dsn", event_store_dsn)


@pytest.fixture
def recorded(event_store_dsn):
    """Events of several days: the last moment of each but today's, of which it is the first."""
    with psycopg.connect(event_store_dsn) as connection:
        for number, (aggregate_type, event_type, days) in enumerate(EVENTS):
            moment = TODAY - timedelta(days=days - 1, microseconds=1) if days else TODAY
            connection.execute(
                "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,"
                " payload, metadata, occurred_at, recorded_at)"
                " VALUES (%s, %s, 1, gen_random_uuid(), %s, '{}', '{}', now(), %s)",
                (aggregate_type, str(number), event_type, moment),
            )


def day(days_ago):
    return (TODAY - timedelta(days=days_ago)).date().isoformat()


def of_type(found, event_type, aggregate_type="order"):
    (one,) = [
        one
        for one in found["types"]
        if (one["aggregate_type"], one["event_type"]) == (aggregate_type, event_type)
    ]
    return one["events"], {day: count for day, count in one["days"].items() if count}


@pytest.mark.usefixtures("recorded")
def test_events_are_counted_by_type_and_day(stats):
    found = json.loads(stats("--json").stdout)
    assert found["events"] == 6
    assert of_type(found, "OrderPlaced") == (3, {day(0): 2, day(2): 1})
    assert of_type(found, "OrderPaid") == (1, {day(6): 1})
    assert of_type(found, "[red]Named", "user") == (1, {})
    assert list(found["days"].items()) == [
        (day(6), 1), (day(5), 0), (day(4), 0), (day(3), 0), (day(2), 1), (day(1), 0), (day(0), 2),
    ]  # fmt: skip


@pytest.mark.usefixtures("recorded")
def test_the_number_of_days_can_be_chosen(stats):
    found = json.loads(stats("--json", "--days", "8").stdout)
    assert of_type(found, "Named") == (1, {day(7): 1})
    assert list(json.loads(stats("--json", "--days", "1").stdout)["days"].values()) == [2]


@pytest.mark.usefixtures("recorded")
def test_a_day_is_one_of_utc_whatever_the_servers_time_zone(stats, event_store_dsn):
    _execute(
        event_store_dsn,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database()); "
        "END $$",
    )
    assert json.loads(stats("--json").stdout)["days"][day(0)] == 2


@pytest.mark.usefixtures("recorded")
def test_sizes_and_growth_are_told(stats):
    found = json.loads(stats("--json").stdout)
    events = next(table for table in found["tables"] if table["name"] == "events")
    assert events["table_bytes"] > 0
    assert events["index_bytes"] > 0
    growth = found["growth"]
    assert growth["events_per_day"] == round(4 / 6.5, 1)
    size = (events["table_bytes"] + events["index_bytes"]) / 6
    assert growth["bytes_per_day"] == round(size * 4 / 6.5)


@pytest.mark.usefixtures("recorded")
def test_the_tables_show_the_most_frequent_type_first(stats):
    lines = stats().stdout.splitlines()
    assert lines[2].split()[:4] == ["order", "OrderPlaced", "3", "3"]
    assert any(line.split()[:4] == ["user", "[red]Named", "1", "0"] for line in lines)
    assert any(line.split() == ["all", "6", "4"] for line in lines)
    assert any(line.split() == [day(0), "2"] for line in lines)
    assert max(map(len, lines)) <= 80


def test_an_empty_store_has_no_growth(stats):
    found = json.loads(stats("--json").stdout)
    assert (found["events"], found["types"]) == (0, [])
    assert found["growth"] == {"events_per_day": 0.0, "bytes_per_day": 0}
    assert stats().exit_code == 0


@pytest.mark.parametrize("days", ["0", "-1", "367", "x"])
def test_a_number_of_days_that_makes_no_sense_is_wrong_usage(stats, days):
    assert stats(f"--days={days}").exit_code == 2
