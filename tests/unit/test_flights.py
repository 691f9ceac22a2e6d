"""Rows of a file become flights, and flights become events."""

import gzip
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from k1s0_event_store import InvalidInputError, StreamId
from k1s0_event_store.demo import flights
from k1s0_event_store.demo.flights import (
    COLUMNS,
    FlightFileError,
    FlightRowError,
    events_by_aircraft,
    flight_events,
    flights_path,
    read_flights,
)

ARRIVED = {
    "year": "2013", "month": "1", "day": "1", "dep_time": "517", "dep_delay": "2", "arr_time": "830",
    "arr_delay": "11", "carrier": "UA", "flight": "1545", "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
    "air_time": "227", "distance": "1400", "minute": "15", "time_hour": "2013-01-01T10:00:00Z",
}  # fmt: skip
NOT_ARRIVED = {"arr_time": "NA", "arr_delay": "NA", "air_time": "NA"}
NOT_DEPARTED = {**NOT_ARRIVED, "dep_time": "NA", "dep_delay": "NA"}
BROKEN_TIME = "time_hour must be a time"


def write(path: Path, *rows: dict[str, str]) -> Path:
    """A file with the header and the rows, each given by what differs from a flight that arrived."""
    lines = [",".join(COLUMNS), *(",".join({**ARRIVED, **row}[name] for name in COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flights.csv"


def types(path):
    (flight,) = read_flights(path)
    return [event.event_type for event in flight_events(flight)]


def test_a_flight_that_arrived_is_scheduled_departed_and_arrived(path):
    assert types(write(path, {})) == ["FlightScheduled", "FlightDeparted", "FlightArrived"]


def test_a_flight_that_never_departed_is_cancelled(path):
    assert types(write(path, NOT_DEPARTED)) == ["FlightScheduled", "FlightCancelled"]


def test_a_flight_that_departed_and_did_not_arrive_is_diverted(path):
    assert types(write(path, NOT_ARRIVED)) == ["FlightScheduled", "FlightDeparted", "FlightDiverted"]


def test_events_are_dated_from_the_scheduled_time_in_utc(path):
    (flight,) = read_flights(write(path, {}))
    scheduled, departed, arrived = flight_events(flight)
    assert scheduled.occurred_at == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert departed.occurred_at == datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    assert arrived.occurred_at == datetime(2013, 1, 1, 14, 4, tzinfo=UTC)


def test_the_end_of_a_flight_without_air_time_is_estimated_from_the_distance(path):
    (flight,) = read_flights(write(path, NOT_ARRIVED))
    assert flight_events(flight)[-1].occurred_at == datetime(2013, 1, 1, 13, 37, tzinfo=UTC)


def test_the_same_row_gives_the_same_event_ids_and_another_row_gives_others(path):
    first, second, other = (
        [event.event_id for event in flight_events(read_flights(write(path, row))[0])]
        for row in ({}, {}, {"flight": "1546"})
    )
    assert first == second
    assert len({*first, *other}) == 6


def test_a_flight_without_an_aircraft_is_kept_under_its_carrier(path):
    streams = events_by_aircraft(read_flights(write(path, {**NOT_DEPARTED, "tailnum": "NA"})))
    assert list(streams) == [StreamId("aircraft", "unassigned-UA")]


def test_an_aircraft_has_its_flights_in_the_order_of_the_schedule(path):
    late = {"flight": "2", "time_hour": "2013-01-01T20:00:00Z"}
    (events,) = events_by_aircraft(read_flights(write(path, late, {}))).values()
    assert [event.payload["flight"] for event in events[::3]] == ["UA1545", "UA2"]


def test_gzip_and_a_byte_order_mark_are_read(path, tmp_path):
    packed = tmp_path / "flights.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + write(path, {}).read_bytes()))
    assert read_flights(packed) == read_flights(path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"dep_delay": "soon"}, "dep_delay must be a whole number, not 'soon'"),
        ({"dep_delay": "NA"}, "dep_delay must be a whole number, not ''"),
        ({"dep_delay": "9999999999"}, "dep_delay must be a whole number"),
        ({"distance": "1e3"}, "distance must be a whole number"),
        ({"flight": ""}, "flight must be a whole number"),
        ({"day": "32"}, "there is no day 2013-1-32"),
        ({"month": "2", "day": "29"}, "there is no day 2013-2-29"),
        ({"year": "0"}, "year must be"),
        ({"minute": "60"}, "minute must be 0 to 59"),
        ({"time_hour": "tomorrow"}, BROKEN_TIME),
        ({"time_hour": "2013-01-01T10:00:00"}, BROKEN_TIME),
        ({"time_hour": "9999-12-31T23:00:00Z"}, BROKEN_TIME),
        ({"time_hour": "0001-01-01T00:00:00+10:00"}, BROKEN_TIME),
        ({"time_hour": "2013-02-01T10:00:00Z"}, "is not on the day 2013-01-01"),
        ({"carrier": "NA"}, "carrier must be a word"),
        ({"origin": "E W R"}, "origin must be a word"),
        ({"tailnum": "N" * 300}, "tailnum must be a word"),
        ({"dep_time": "NA"}, "arr_time but no dep_time"),
        ({"time_hour": "2013-01-01T10:00:00Z,more"}, "number of columns"),
        ({"flight": "1545"}, "in the file twice"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_line(path, row, reason):
    with pytest.raises(FlightRowError, match=reason) as caught:
        read_flights(write(path, {}, row))
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert isinstance(caught.value, InvalidInputError)


def test_the_file_is_closed_while_the_error_is_still_held(path, monkeypatch):
    opened = []

    def opening(path):
        opened.append(path.open())
        return opened[0]

    monkeypatch.setattr(flights, "_open", opening)
    with pytest.raises(FlightRowError) as caught:
        read_flights(write(path, {"day": "99"}, {}))
    assert opened[0].closed
    assert caught.value.line == 2


def test_a_row_that_is_cut_off_is_refused(path):
    write(path, {}).write_text(path.read_text() + "2013,1\n")
    with pytest.raises(FlightRowError, match="3: the number of columns"):
        read_flights(path)


def test_bad_rows_are_handed_over_and_the_others_kept(path):
    bad = []
    kept = read_flights(write(path, {"day": "99"}, {}, {"minute": "x", "flight": "7"}), bad.append)
    assert [flight.number for flight in kept] == [1545]
    assert [error.line for error in bad] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", b"", "1: the file is empty"),
        ("header.csv", ",".join(COLUMNS).encode(), "1: there are no flights"),
        ("other.csv", b"a,b\n1,2\n", "1: columns are missing in the header: year, month"),
        ("twice.csv", ",".join([*COLUMNS, "day"]).encode(), "1: columns stand twice in the header: day"),
        ("plain.csv.gz", b"year,month\n", "1: the file is not gzip"),
        ("empty.csv.gz", b"", "1: the file is empty"),
        ("cut.csv.gz", gzip.compress(b"year" * 1000, mtime=0)[:-20], "the file is not gzip, or cut off"),
        ("binary.csv", b"\xff\xfe\x00", "1: the file is not text in UTF-8"),
        ("quote.csv", ",".join(COLUMNS).encode() + b'\n"20"13,1\n', "2: the file is not CSV"),
    ],
)
def test_a_file_that_is_no_list_of_flights_is_refused_even_if_rows_may_be_skipped(
    tmp_path, name, content, reason
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FlightFileError, match=reason):
        read_flights(path, [].append)


@pytest.mark.parametrize("name", ["missing.csv", "missing.csv.gz", "."])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(FlightFileError, match="the file cannot be read"):
        read_flights(tmp_path / name)


def test_no_flight_of_the_real_month_is_lost():
    streams = events_by_aircraft(read_flights(flights_path()))
    counts = Counter(event.event_type for events in streams.values() for event in events)
    assert counts == {
        "FlightScheduled": 27_004,
        "FlightDeparted": 26_483,
        "FlightArrived": 26_468,
        "FlightCancelled": 521,
        "FlightDiverted": 15,
    }
    assert sum(len(streams[i]) for i in streams if i.aggregate_id.startswith("unassigned-")) == 2 * 155
