"""Flights from a CSV file of the US Bureau of Transportation Statistics, and their events.

A row gives FlightScheduled, then FlightDeparted and FlightArrived, or FlightCancelled (it has no
dep_time), or FlightDeparted and FlightDiverted (it has no arr_time). The aircraft is the aggregate.
A cancelled flight may never have got an aircraft: it goes to `unassigned-<carrier>`.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID, uuid5

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import InvalidInputError

AIRCRAFT: Final = "aircraft"
SCHEDULED: Final = "FlightScheduled"
DEPARTED: Final = "FlightDeparted"
ARRIVED: Final = "FlightArrived"
CANCELLED: Final = "FlightCancelled"
DIVERTED: Final = "FlightDiverted"

FILE_NAME: Final = "flights-2013-01.csv.gz"
COLUMNS: Final = (
    "year", "month", "day", "dep_time", "dep_delay", "arr_time", "arr_delay", "carrier", "flight",
    "tailnum", "origin", "dest", "air_time", "distance", "minute", "time_hour",
)  # fmt: skip

_NAMESPACE: Final = UUID("5f0c9a1e-7d0b-5e0f-9b1c-2f6f3d1a4b77")
_NUMBER: Final = re.compile(r"-?[0-9]{1,6}")
_MILES_A_MINUTE: Final = 7
_FIRST_YEAR: Final = 1903
_LAST_YEAR: Final = 2999


class FlightFileError(InvalidInputError):
    """A file that is not a list of flights; prints as `file:line: reason`."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__(f"{path}:{line}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.line, self.reason)


class FlightRowError(FlightFileError):
    """One row that is no flight; the rest of the file can be used without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A row of the file. `departed` and `arrived` say what happened; times are UTC, the rest is minutes."""

    day: date
    scheduled: datetime
    carrier: str
    number: int
    aircraft: str
    origin: str
    destination: str
    miles: int
    departed: bool
    arrived: bool
    departure_delay: int
    arrival_delay: int | None
    minutes_in_air: int | None

    @property
    def key(self) -> str:
        """What no two flights share."""
        return (
            f"{self.scheduled:%Y-%m-%dT%H:%M} {self.carrier} {self.number} {self.origin} {self.destination}"
        )


def flights_path() -> Path:
    """Where the month of flights is: in the package of a wheel, else in the repository's examples."""
    shipped = Path(__file__).parents[1] / "data" / FILE_NAME
    return shipped if shipped.is_file() else Path(__file__).parents[3] / "examples" / FILE_NAME


def read_flights(path: Path, on_bad_row: Callable[[FlightRowError], None] | None = None) -> list[Flight]:
    """The flights of a CSV file, gzip if its name ends in .gz.

    Bad rows go to `on_bad_row` and are left out. Raises FlightRowError for the first one if there
    is no `on_bad_row`, and FlightFileError for a file that cannot be read or has no flights.
    """
    flights: dict[str, Flight] = {}
    line = 1
    # Closed here, so that the file does not stay open for as long as somebody holds the error.
    with closing(_rows(path)) as rows:
        for line, row in rows:
            try:
                flight = _flight(row)
                _check_new(flight, flights)
            except ValueError as exc:
                error = FlightRowError(path, line, str(exc))
                if on_bad_row is None:
                    raise error from exc
                on_bad_row(error)
            else:
                flights[flight.key] = flight
    if not flights:
        raise FlightFileError(path, line, "there are no flights in the file")
    return list(flights.values())


def _check_new(flight: Flight, flights: Mapping[str, Flight]) -> None:
    if flight.key in flights:
        raise ValueError(f"the flight {flight.key} is in the file twice")


def _rows(path: Path) -> Generator[tuple[int, dict[str | None, Any]], None, None]:
    line = 0
    try:
        with _open(path) as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames)
            line = reader.line_num
            for row in reader:
                line = reader.line_num
                yield line, row
    except UnicodeDecodeError as exc:
        raise FlightFileError(path, line + 1, "the file is not text in UTF-8") from exc
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise FlightFileError(path, line + 1, f"the file is not gzip, or cut off: {exc}") from exc
    except OSError as exc:
        raise FlightFileError(path, line + 1, f"the file cannot be read: {exc.strerror or exc}") from exc
    except csv.Error as exc:
        raise FlightFileError(path, line + 1, f"the file is not CSV: {exc}") from exc


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _check_header(path: Path, header: Iterable[str] | None) -> None:
    names = list(header or ())
    if not names:
        raise FlightFileError(path, 1, "the file is empty")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise FlightFileError(path, 1, f"columns are missing in the header: {', '.join(missing)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FlightFileError(path, 1, f"columns stand twice in the header: {', '.join(twice)}")


def _flight(row: Mapping[str | None, Any]) -> Flight:
    """Raises ValueError with what is wrong in the row."""
    if None in row or None in row.values():
        raise ValueError("the number of columns is not that of the header")
    cells: dict[str, str] = {str(name): "" if value == "NA" else value for name, value in row.items()}
    day, carrier = _day(cells), _word(cells, "carrier")
    departed, arrived = bool(cells["dep_time"]), bool(cells["arr_time"])
    if arrived and not departed:
        raise ValueError("there is an arr_time but no dep_time")
    return Flight(
        day=day,
        scheduled=_scheduled(cells, day),
        carrier=carrier,
        number=_number(cells, "flight"),
        aircraft=_word(cells, "tailnum") if cells["tailnum"] else f"unassigned-{carrier}",
        origin=_word(cells, "origin"),
        destination=_word(cells, "dest"),
        miles=_number(cells, "distance"),
        departed=departed,
        arrived=arrived,
        departure_delay=_number(cells, "dep_delay") if departed else 0,
        arrival_delay=_number(cells, "arr_delay") if cells["arr_delay"] else None,
        minutes_in_air=_number(cells, "air_time") if cells["air_time"] else None,
    )


def _number(cells: Mapping[str, str], name: str) -> int:
    if not _NUMBER.fullmatch(cells[name]):
        raise ValueError(f"{name} must be a whole number, not {cells[name]!r}")
    return int(cells[name])


def _word(cells: Mapping[str, str], name: str) -> str:
    value = cells[name]
    if not 0 < len(value) <= 20 or not value.isprintable() or " " in value:
        raise ValueError(f"{name} must be a word of 1 to 20 characters, not {value!r}")
    return value


def _day(cells: Mapping[str, str]) -> date:
    year, month, day = (_number(cells, name) for name in ("year", "month", "day"))
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        raise ValueError(f"year must be {_FIRST_YEAR} to {_LAST_YEAR}, not {year}")
    try:
        return date(year, month, day)
    except ValueError as exc:
        raise ValueError(f"there is no day {year}-{month}-{day}: {exc}") from exc


def _scheduled(cells: Mapping[str, str], day: date) -> datetime:
    """`time_hour` is the scheduled hour in UTC; `minute` is added to it. `day` is local."""
    minute = _number(cells, "minute")
    if not 0 <= minute < 60:
        raise ValueError(f"minute must be 0 to 59, not {minute}")
    scheduled = _time(cells["time_hour"]) + timedelta(minutes=minute)
    if abs(scheduled.date() - day) > timedelta(days=1):
        raise ValueError(f"time_hour {cells['time_hour']} is not on the day {day}")
    return scheduled


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        utc = time.astimezone(UTC)
    except (ValueError, OverflowError):
        time = utc = datetime.max
    if time.tzinfo is None or utc.year > _LAST_YEAR:
        raise ValueError(f"time_hour must be a time like 2013-01-31T21:00:00Z, not {text!r}")
    return utc


def events_by_aircraft(flights: Iterable[Flight]) -> dict[StreamId, list[EventEnvelope]]:
    """The events of each aircraft, flight by flight in the order of the schedule."""
    streams: dict[StreamId, list[EventEnvelope]] = {}
    for flight in sorted(flights, key=lambda flight: flight.key):
        events = flight_events(flight)
        streams.setdefault(events[0].stream_id, []).extend(events)
    return streams


def flight_events(flight: Flight) -> list[EventEnvelope]:
    """What happened to a flight, in order. The same flight always gives the same event ids.

    The file has no UTC times but the scheduled departure. So scheduling and cancelling are dated
    to it, the departure to it plus the delay, and the end of the flight to the departure plus the
    minutes in the air, estimated from the distance where they are not known.
    """
    scheduled = flight.scheduled
    events = [_event(flight, SCHEDULED, scheduled, day=flight.day, departure=scheduled, miles=flight.miles)]
    if not flight.departed:
        return [*events, _event(flight, CANCELLED, scheduled)]
    departure = scheduled + timedelta(minutes=flight.departure_delay)
    in_air = flight.minutes_in_air
    end = departure + timedelta(minutes=flight.miles // _MILES_A_MINUTE if in_air is None else in_air)
    events.append(_event(flight, DEPARTED, departure, delay=flight.departure_delay))
    if not flight.arrived:
        return [*events, _event(flight, DIVERTED, end)]
    arrival = _event(
        flight, ARRIVED, end, delay=flight.arrival_delay, minutes_in_air=in_air, miles=flight.miles
    )
    return [*events, arrival]


def _event(flight: Flight, event_type: str, occurred_at: datetime, **facts: object) -> EventEnvelope:
    return EventEnvelope(
        stream_id=StreamId(AIRCRAFT, flight.aircraft),
        event_type=event_type,
        payload={
            "flight": f"{flight.carrier}{flight.number}",
            "origin": flight.origin,
            "destination": flight.destination,
            **facts,
        },
        event_id=uuid5(_NAMESPACE, f"{event_type} {flight.key}"),
        occurred_at=occurred_at,
    )
