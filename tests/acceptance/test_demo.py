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
    PostgresSubscriptionStore,
    StreamId,
    SubscriptionError,
)
from k1s0_event_store.demo import intake
from k1s0_event_store.demo.flights import COLUMNS
from k1s0_event_store.demo.intake import append_missing, take_in
from k1s0_event_store.demo.logbook import Logbook, compare
from k1s0_event_store.demo.projection import AirportDelays
from k1s0_event_store.demo.race import RACE, race
from k1s0_event_store.demo.run import prepare, run_demo
from k1s0_event_store.testing.plugin import _execute

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
async def subscriptions(event_store):
    return PostgresSubscriptionStore(event_store.config, bind=event_store.bind)


async def delays(subscriptions):
    (status,) = await subscriptions.statuses("airport-delays")
    return status.partitions[0]


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


async def test_an_interrupted_intake_has_whole_streams_and_can_be_resumed(event_store, streams, monkeypatch):
    monkeypatch.setattr(intake, "BATCH", 1)

    class Interrupted(Exception):
        pass

    def interrupt(events):
        raise Interrupted

    with pytest.raises(Interrupted):
        await take_in(event_store, streams, interrupt)
    first = next(iter(streams))
    assert len(await stored(event_store)) == len(streams[first])
    assert (await take_in(event_store, streams)).appended == SMALL_MONTH_EVENTS - len(streams[first])
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
    airports = (await run_demo(event_store_config, streams, console)).airports
    assert (airports["EWR"].flights, airports["EWR"].diverted, airports["EWR"].mean_delay) == (20, 1, 4.0)
    assert (airports["JFK"].flights, airports["JFK"].cancelled, airports["JFK"].mean_delay) == (3, 1, 15.0)
    assert "15.0 min" in shown.getvalue()


async def test_other_events_of_the_database_are_left_out_of_the_table(
    event_store, event_store_config, streams, console
):
    order = StreamId("order", "1")
    await event_store.append(order, [EventEnvelope(order, "FlightScheduled", {})])
    airports = (await run_demo(event_store_config, streams, console)).airports
    assert sum(airport.flights for airport in airports.values()) == 23


async def test_an_airport_without_departures_has_no_mean_delay(event_store_config, tmp_path, console, shown):
    path = write(tmp_path / "all.csv", [row(3, 52, "NA", "JFK", "NA", "NA", "NA")])
    result = await run_demo(event_store_config, prepare(console, path), console)
    assert result.airports["JFK"].mean_delay is None
    assert "no snapshot yet" in shown.getvalue()


async def test_the_table_comes_from_the_projection_and_agrees_with_all_events(
    event_store_config, streams, console, shown
):
    result = await run_demo(event_store_config, streams, console)
    assert result.airports == result.reading.airports
    assert sum(airport.events for airport in result.airports.values()) == SMALL_MONTH_EVENTS
    assert f"kept while events came in: {SMALL_MONTH_EVENTS} events, 0 behind" in shown.getvalue()
    assert f"all {SMALL_MONTH_EVENTS + 1} events, read again one by one, say the same" in shown.getvalue()


async def test_a_second_run_handles_only_what_is_new(event_store_config, streams, console, subscriptions):
    first = await run_demo(event_store_config, streams, console)
    second = await run_demo(event_store_config, streams, console)
    assert second.airports == first.airports
    assert (await delays(subscriptions)).handled == SMALL_MONTH_EVENTS + 2  # of the two races
    assert (await delays(subscriptions)).caught_up


async def test_events_from_before_there_was_a_read_model_are_in_it(
    event_store, event_store_config, streams, console
):
    await take_in(event_store, streams)
    result = await run_demo(event_store_config, streams, console)
    assert (result.intake.appended, result.airports["EWR"].flights) == (0, 20)


@pytest.mark.parametrize(
    "loss",
    ["DROP TABLE eventstore.demo_airports", "DELETE FROM eventstore.subscriptions"],
    ids=["table", "checkpoint"],
)
async def test_a_read_model_that_lost_its_other_half_is_built_anew(
    event_store_config, streams, console, loss
):
    first = await run_demo(event_store_config, streams, console)
    _execute(event_store_config.dsn, loss)
    assert (await run_demo(event_store_config, streams, console)).airports == first.airports


async def test_a_read_model_that_contradicts_the_events_is_an_error(event_store_config, streams, console):
    await run_demo(event_store_config, streams, console)
    _execute(event_store_config.dsn, "UPDATE eventstore.demo_airports SET flights = flights + 1")
    with pytest.raises(CorruptDataError, match="subscriptions remove airport-delays 1"):
        await run_demo(event_store_config, streams, console)


async def test_events_that_come_in_during_the_check_are_waited_for(event_store, event_store_config, streams):
    projection = AirportDelays(event_store)
    await projection.prepare()
    half = {stream_id: events[: len(events) // 2] for stream_id, events in streams.items()}
    await take_in(event_store, half)
    async with projection.runner(lambda notice: None):
        reading, _ = await asyncio.gather(projection.check(), take_in(event_store, streams))
        assert (await projection.check()).airports["EWR"].flights == 20
    assert reading.airports.keys() == {"EWR", "JFK"}


async def test_a_projection_at_rest_ends_the_demo_and_says_how_it_goes_on(
    event_store_config, streams, console, subscriptions
):
    await run_demo(event_store_config, streams, console)
    await subscriptions.pause("airport-delays")
    with pytest.raises(SubscriptionError, match=r"paused.*subscriptions resume airport-delays"):
        await run_demo(event_store_config, streams, console)


async def test_a_terminal_shows_how_far_import_and_projection_are(event_store_config, streams):
    terminal = io.StringIO()
    await run_demo(event_store_config, streams, Console(file=terminal, width=100, force_terminal=True))
    last = terminal.getvalue().split("appended to")[0]
    for bar in ("taken in", "projected"):
        done = last.rpartition(bar)[2]
        assert f"{SMALL_MONTH_EVENTS} of {SMALL_MONTH_EVENTS}" in done


async def test_elsewhere_the_output_is_whole_lines_of_plain_text(event_store_config, streams, console, shown):
    await run_demo(event_store_config, streams, console)
    assert "\x1b" not in shown.getvalue()
    assert "projected" not in shown.getvalue()
    assert "projection airport-delays beside it: " in shown.getvalue()


async def test_the_demo_makes_its_tables_in_a_schema_of_any_name(event_store_dsn, streams, console):
    config = EventStoreConfig(dsn=event_store_dsn, schema='Flug "1"')
    assert (await run_demo(config, streams, console)).intake.appended == SMALL_MONTH_EVENTS
    async with PostgresEventStore(config) as store:
        await store.validate()


async def test_the_real_month_is_taken_in_completely(event_store, event_store_config, console):
    result = await run_demo(event_store_config, prepare(console), console)
    assert result.intake.appended == result.intake.events == 80_491
    assert len(await stored(event_store)) == 80_491
    flights = {code: (a.flights, a.cancelled) for code, a in result.airports.items()}
    assert flights == {"EWR": (9893, 238), "JFK": (9161, 100), "LGA": (7950, 183)}
