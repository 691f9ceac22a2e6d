"""The demo on a real database: what it stores, what a second run does, and what it shows."""

import asyncio
import io
from collections import Counter

import pytest
from rich.console import Console

from k1s0_event_store import (
    ConcurrencyError,
    CorruptDataError,
    DuplicateEventError,
    EventEnvelope,
    EventStoreConfig,
    EventVersion,
    InMemoryEventStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
)
from k1s0_event_store.demo.flights import COLUMNS
from k1s0_event_store.demo.intake import append_missing, take_in
from k1s0_event_store.demo.logbook import Logbook, compare
from k1s0_event_store.demo.race import RACE, race
from k1s0_event_store.demo.run import prepare, run_demo

BUSY = StreamId("aircraft", "N1")
ROW = "2013,1,{day},{dep},{delay},{arr},0,UA,{flight},{tail},{origin},IAH,200,1400,15,{time}"


def row(day, flight, tail="N1", origin="EWR", dep="517", delay="4", arr="830"):
    time = f"2013-01-{day:02}T10:00:00Z"
    return ROW.format(
        time=time, day=day, flight=flight, tail=tail, origin=origin, dep=dep, delay=delay, arr=arr
    )


def write(path, rows):
    path.write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    return path


def small_month():
    """20 flights of N1, one diverted; two of N2 from JFK, one without an aircraft."""
    return [
        *(row(day, day) for day in range(1, 20)),
        row(20, 20, arr="NA"),
        row(1, 50, "N2", "JFK", delay="-10"),
        row(2, 51, "N2", "JFK", delay="40"),
        row(3, 52, "NA", "JFK", "NA", "NA", "NA"),
    ]


SMALL_MONTH_EVENTS = 19 * 3 + 3 + 2 * 3 + 2


@pytest.fixture
def shown():
    return io.StringIO()


@pytest.fixture
def console(shown):
    return Console(file=shown, width=100)


@pytest.fixture
def streams(tmp_path, console):
    return prepare(console, write(tmp_path / "small.csv", small_month()))


async def stored(store):
    return [event async for event in store.read_all() if event.stream_id != RACE]


async def test_every_event_is_stored_once_in_the_order_of_its_aircraft(
    event_store, event_store_config, streams, console
):
    result = await run_demo(event_store_config, streams, console)
    assert result.intake.appended == SMALL_MONTH_EVENTS
    for stream_id, events in streams.items():
        loaded = await event_store.load(stream_id)
        assert [event.event_id for event in loaded] == [event.event_id for event in events]
    assert len(await stored(event_store)) == SMALL_MONTH_EVENTS


async def test_a_second_run_appends_nothing_and_says_so(
    event_store, event_store_config, streams, console, shown
):
    await run_demo(event_store_config, streams, console)
    before = await stored(event_store)
    result = await run_demo(event_store_config, streams, console)
    assert result.intake.appended == 0
    assert await stored(event_store) == before
    assert f"nothing new: all {SMALL_MONTH_EVENTS} events were there already" in shown.getvalue()


async def test_an_interrupted_run_is_completed_by_the_next(event_store, event_store_config, streams, console):
    await event_store.append(BUSY, streams[BUSY][:25])
    result = await run_demo(event_store_config, streams, console)
    assert result.intake.appended == SMALL_MONTH_EVENTS - 25
    assert [event.event_id for event in await event_store.load(BUSY)] == [e.event_id for e in streams[BUSY]]


async def test_events_missing_in_the_middle_are_added_without_duplicates(event_store, streams):
    await event_store.append(BUSY, [*streams[BUSY][:10], *streams[BUSY][30:]])
    await take_in(event_store, streams)
    counts = Counter(event.event_id for event in await event_store.load(BUSY))
    assert counts == Counter(event.event_id for event in streams[BUSY])


async def test_a_cancelled_run_stops_all_writers_and_can_be_resumed(event_store, streams):
    class Interrupted(Exception):
        pass

    def interrupt(events):
        raise Interrupted

    with pytest.raises(Interrupted):
        await take_in(event_store, streams, interrupt)
    # The server may still commit what a cancelled writer had sent, so only the ends are certain.
    intake = await take_in(event_store, streams)
    assert 0 < intake.appended < SMALL_MONTH_EVENTS
    assert len(await stored(event_store)) == SMALL_MONTH_EVENTS


async def test_two_runs_at_the_same_time_store_every_event_once(event_store, streams):
    await asyncio.gather(*(take_in(event_store, streams) for _ in range(3)))
    assert len(await stored(event_store)) == SMALL_MONTH_EVENTS


async def test_a_writer_that_was_overtaken_appends_only_what_is_still_missing(event_store, streams):
    events = streams[BUSY]

    class Overtaken(InMemoryEventStore):
        overtaken = False

        async def append(self, stream_id, given, expected_version=None):
            if not self.overtaken:
                self.overtaken = True
                await super().append(stream_id, events[:7])
            return await super().append(stream_id, given, expected_version)

    store = Overtaken()
    assert await append_missing(store, BUSY, events) == len(events) - 7
    assert [event.event_id for event in await store.load(BUSY)] == [event.event_id for event in events]


async def test_an_event_id_that_is_taken_elsewhere_is_an_error_and_no_endless_loop(event_store, streams):
    other = StreamId("boat", "N1")
    first = streams[BUSY][0]
    await event_store.append(other, [EventEnvelope(other, "Launched", {}, event_id=first.event_id)])
    with pytest.raises(DuplicateEventError):
        await append_missing(event_store, BUSY, streams[BUSY])


async def test_snapshot_and_delta_give_the_same_state_as_all_events(event_store_config, streams, console):
    result = await run_demo(event_store_config, streams, console)
    comparison = result.comparison
    assert comparison.snapshots_taken == 1
    assert (comparison.short.snapshot_version, comparison.short.version) == (50, 60)
    assert comparison.short.state == comparison.full.state
    assert comparison.full.state == Logbook(20, 19, 0, 1, 19 * 1400, 80, "IAH")


async def test_a_snapshot_that_contradicts_the_events_is_an_error(event_store, snapshot_store, streams):
    await take_in(event_store, streams)
    await snapshot_store.save(BUSY, 50, Logbook(scheduled=1000))
    with pytest.raises(CorruptDataError, match="version 50 does not agree"):
        await compare(event_store, snapshot_store, BUSY)


async def test_a_stream_shorter_than_the_interval_gets_no_snapshot(event_store, event_store_config, streams):
    async with PostgresSnapshotStore(event_store_config) as snapshots:
        await take_in(event_store, streams)
        comparison = await compare(event_store, snapshots, StreamId("aircraft", "unassigned-UA"))
    assert comparison.snapshots_taken == comparison.short.snapshot_version == 0
    assert comparison.full.state == Logbook(scheduled=1, cancelled=1)


async def test_one_of_two_racing_writers_is_refused_in_every_run(event_store):
    for run in range(1, 4):
        outcomes = [finish.outcome for finish in await race(event_store)]
        assert [o for o in outcomes if isinstance(o, EventVersion)] == [run]
        (refusal,) = [o for o in outcomes if isinstance(o, ConcurrencyError)]
        assert (refusal.expected_version, refusal.actual_version) == (run - 1, run)


async def test_the_airports_are_counted_from_the_events(event_store_config, streams, console, shown):
    airports = (await run_demo(event_store_config, streams, console)).reading.airports
    assert (airports["EWR"].flights, airports["EWR"].diverted, airports["EWR"].mean_delay) == (20, 1, 4.0)
    assert (airports["JFK"].flights, airports["JFK"].cancelled, airports["JFK"].mean_delay) == (3, 1, 15.0)
    assert "15.0 min" in shown.getvalue()


async def test_other_events_of_the_database_are_left_out_of_the_table(
    event_store, event_store_config, streams, console
):
    order = StreamId("order", "1")
    await event_store.append(order, [EventEnvelope(order, "FlightScheduled", {})])
    reading = (await run_demo(event_store_config, streams, console)).reading
    assert sum(airport.flights for airport in reading.airports.values()) == 23


async def test_an_airport_without_departures_has_no_mean_delay(event_store_config, tmp_path, console, shown):
    path = write(tmp_path / "all.csv", [row(3, 52, "NA", "JFK", "NA", "NA", "NA")])
    result = await run_demo(event_store_config, prepare(console, path), console)
    assert result.reading.airports["JFK"].mean_delay is None
    assert "no snapshot yet" in shown.getvalue()


async def test_a_terminal_shows_the_rate_of_the_import(event_store_config, streams):
    terminal = io.StringIO()
    await run_demo(event_store_config, streams, Console(file=terminal, width=100, force_terminal=True))
    assert f"{SMALL_MONTH_EVENTS} of {SMALL_MONTH_EVENTS}" in terminal.getvalue()


async def test_the_demo_makes_its_tables_in_a_schema_of_any_name(event_store_dsn, streams, console):
    config = EventStoreConfig(dsn=event_store_dsn, schema='Flug "1"')
    assert (await run_demo(config, streams, console)).intake.appended == SMALL_MONTH_EVENTS
    async with PostgresEventStore(config) as store:
        await store.validate()


async def test_the_real_month_is_taken_in_completely(event_store, event_store_config, console):
    result = await run_demo(event_store_config, prepare(console), console)
    assert result.intake.appended == result.intake.events == 80_491
    assert len(await stored(event_store)) == 80_491
    flights = {code: (a.flights, a.cancelled) for code, a in result.reading.airports.items()}
    assert flights == {"EWR": (9893, 238), "JFK": (9161, 100), "LGA": (7950, 183)}
