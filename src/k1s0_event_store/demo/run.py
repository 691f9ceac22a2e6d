"""The run of the demo: flights in, with a projection beside, snapshots, a race, and what it all says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.delivery import Notice
from k1s0_event_store.demo.airports import Airports, Reading
from k1s0_event_store.demo.flights import FlightRowError, events_by_aircraft, flights_path, read_flights
from k1s0_event_store.demo.intake import Intake, Streams, take_in
from k1s0_event_store.demo.logbook import Comparison, compare
from k1s0_event_store.demo.projection import NAME, AirportDelays, CatchUp
from k1s0_event_store.demo.race import RACE, Finish, race
from k1s0_event_store.envelope import EventVersion, StreamId
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.postgres.snapshot import PostgresSnapshotStore
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.terminal import say


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a run did and found."""

    intake: Intake
    catch_up: CatchUp
    comparison: Comparison
    finishes: list[Finish]
    airports: Airports
    reading: Reading


def prepare(console: Console, path: Path | None = None, skip_bad_rows: bool = False) -> Streams:
    """The events of a file (None: the month that comes with the package), before any database is touched.

    Bad rows are printed and left out with `skip_bad_rows`, else the first one raises FlightRowError.
    """
    path = flights_path() if path is None else path
    bad: list[FlightRowError] = []
    flights = read_flights(path, bad.append if skip_bad_rows else None)
    streams = events_by_aircraft(flights)
    for error in bad:
        say(console, f"skipped {error}")
    skipped = f"; {len(bad):,} bad rows were skipped" if bad else ""
    say(console, f"{path.name}: {len(flights):,} flights of {len(streams):,} aircraft{skipped}")
    return streams


async def run_demo(config: EventStoreConfig, streams: Streams, console: Console) -> DemoResult:
    """Bring the tables up to date and show, on `streams`, what the store does.

    A second run appends no flight again. Raises EventStoreError.
    """
    await in_transaction(config, partial(upgrade_database, schema=config.schema))
    async with PostgresEventStore(config) as store:
        projection = AirportDelays(store)
        bars = _Bars(console, sum(map(len, streams.values())), await projection.prepare())
        async with projection.runner(bars.projected):
            return await _run(store, projection, streams, console, bars)


async def _run(
    store: PostgresEventStore, projection: AirportDelays, streams: Streams, console: Console, bars: _Bars
) -> DemoResult:
    _title(console, "1. Flights become events, one stream per aircraft")
    with bars:
        intake = await take_in(store, streams, bars.taken_in)
        catch_up = await projection.catch_up()
    _show_intake(console, intake, catch_up)
    _title(console, "2. A snapshot and the events after it give the same state as all events")
    busiest = max(streams, key=lambda stream_id: len(streams[stream_id]))
    snapshots = PostgresSnapshotStore(store.config, bind=store.bind)
    comparison = await compare(store, snapshots, busiest)
    _show_comparison(console, busiest, comparison, store.config.snapshot_interval)
    _title(console, "3. Two writers append to one stream at the same time")
    finishes = await race(store)
    _show_race(console, finishes)
    _title(console, "4. What the events say, airport by airport")
    await projection.catch_up()
    airports = await projection.load()
    _show_airports(console, airports, await projection.behind())
    reading = await projection.check()
    _show_end(console, intake, reading)
    return DemoResult(intake, catch_up, comparison, finishes, airports, reading)


class _RateColumn(ProgressColumn):
    """Events per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} events/s", style="cyan")


class _Bars:
    """How far the import is, and below it the projection: on a terminal, for as long as it is entered."""

    def __init__(self, console: Console, events: int, projected: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,} of {task.total:,}"),
            _RateColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._taken_in = self._progress.add_task("taken in", total=events)
        total = max(events, projected)
        self._projected = self._progress.add_task("projected", total=total, completed=projected)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def taken_in(self, events: int) -> None:
        """So many more events are in the store."""
        self._progress.advance(self._taken_in, events)

    def projected(self, notice: Notice) -> None:
        """What the runner of the projection tells."""
        if notice.kind == "handled":
            self._progress.advance(self._projected, notice.events)


def _show_intake(console: Console, intake: Intake, catch_up: CatchUp) -> None:
    there = intake.events - intake.appended
    known = f"; {there:,} were there already" if there else ""
    if intake.appended:
        say(console, f"{intake.appended:,} events appended to {intake.streams:,} streams{known}")
    else:
        say(console, f"nothing new: all {intake.events:,} events were there already")
    say(console, f"projection {NAME} beside it: {_lag(catch_up)}")


def _lag(catch_up: CatchUp) -> str:
    if not catch_up.behind:
        return "up to date"
    return f"{catch_up.behind:,} events behind, up to date {catch_up.seconds:.2f} s later"


def _show_comparison(console: Console, stream_id: StreamId, comparison: Comparison, interval: int) -> None:
    full, short = comparison.full, comparison.short
    due = f"a snapshot is due every {interval} events, {comparison.snapshots_taken} taken in this run"
    say(console, f"busiest stream {stream_id}: {due}")
    table = _table("", "events read", "landed", "cancelled", "miles", "minutes late")
    start = f"snapshot {short.snapshot_version} and later" if short.snapshot_version else "no snapshot yet"
    for name, replay in (("all events", full), (start, short)):
        book = replay.state
        table.add_row(
            name,
            f"{replay.version - replay.snapshot_version:,}",
            f"{book.landed:,}",
            f"{book.cancelled:,}",
            f"{book.miles:,}",
            f"{book.minutes_late:,}",
        )
    console.print(table)
    say(console, "the two states are equal", "green")


def _show_race(console: Console, finishes: Sequence[Finish]) -> None:
    for finish in finishes:
        if isinstance(finish.outcome, EventVersion):
            say(console, f"{finish.writer}: stored as version {finish.outcome}", "green")
        else:
            say(console, f"{finish.writer}: {type(finish.outcome).__name__}: {finish.outcome}", "yellow")
    say(console, f"stream {RACE} gets one event in every run; it is no flight and not counted as one", "dim")


def _show_airports(console: Console, airports: Airports, behind: int) -> None:
    told = sum(airport.events for airport in airports.values())
    say(console, f"the projection's table, kept while events came in: {told:,} events, {behind:,} behind")
    table = _table("origin", "flights", "cancelled", "share", "diverted", "mean departure delay")
    for code, airport in sorted(airports.items()):
        delay = airport.mean_delay
        table.add_row(
            code,
            f"{airport.flights:,}",
            f"{airport.cancelled:,}",
            f"{airport.cancelled / max(1, airport.flights):.1%}",
            f"{airport.diverted:,}",
            "-" if delay is None else f"{delay:.1f} min",
        )
    console.print(table)


def _show_end(console: Console, intake: Intake, reading: Reading) -> None:
    say(console, f"all {reading.events:,} events, read again one by one, say the same", "green")
    _title(console, "Done")
    if intake.appended:
        say(console, f"import   {_rate(intake.appended, intake.seconds)}, projection beside")
    else:
        say(console, f"import   nothing new: all {intake.events:,} events were there already")
    say(console, f"reading  {_rate(reading.events, reading.seconds)}")


def _rate(events: int, seconds: float) -> str:
    return f"{events:,} events in {seconds:.1f} s: {events / max(seconds, 1e-6):,.0f} events per second"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _title(console: Console, text: str) -> None:
    console.print()
    say(console, text, "bold cyan")
