"""Clocks that jump, of the server and of a client: order does not hang on them, and nothing is done twice."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from k1s0_event_store import (
    EventEnvelope,
    LeaseLostError,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    SubscriptionRunner,
)
from k1s0_event_store import envelope as envelopes
from k1s0_event_store.postgres.connection import AsyncConnectionRunner, AsyncpgPoolRunner
from k1s0_event_store.subscription import Progress
from k1s0_event_store.testing.contract import new_events, versions

from .interruption import SECONDS, until

ORDER = StreamId("order", "o-1")
HOUR = 3600


@pytest.fixture
def server_clock(sql, monkeypatch):
    """Sets by how many seconds the server's clock is wrong, for the statements of the library."""
    sql("CREATE SCHEMA clock")
    sql("CREATE TABLE clock.wrong AS SELECT 0::float8 AS seconds")
    sql("CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
        "'SELECT pg_catalog.clock_timestamp() + seconds * interval ''1 s'' FROM clock.wrong'")  # fmt: skip
    sql("ALTER TABLE eventstore.events ALTER recorded_at SET DEFAULT clock.clock_timestamp()")
    for runner in (AsyncpgPoolRunner, AsyncConnectionRunner):
        monkeypatch.setattr(runner, "fetch", by_the_wrong_clock(runner.fetch))
    return lambda seconds: sql("UPDATE clock.wrong SET seconds = %s", seconds)


def by_the_wrong_clock(fetch):
    def fetch_by_it(runner, query):
        text = query.statement.dollar.replace("pg_catalog.clock_timestamp()", "clock.clock_timestamp()")
        return fetch(runner, replace(query, statement=replace(query.statement, dollar=text)))

    return fetch_by_it


async def test_versions_positions_and_the_feed_do_not_hang_on_the_servers_clock(server_clock, event_store):
    cursor = None
    for number, seconds in enumerate((0, -HOUR, HOUR, -2 * HOUR), 1):
        server_clock(seconds)
        assert await event_store.append(ORDER, new_events(ORDER, 1), number - 1) == number
        page = await event_store.read_page(cursor)
        assert versions(page.events) == [number]
        cursor = page.cursor
    stored = await event_store.load(ORDER)
    times = [event.recorded_at for event in stored]
    assert times[1] < times[0] < times[2]
    assert times[3] < times[1]
    assert versions(stored) == versions([e async for e in event_store.read_all()]) == [1, 2, 3, 4]
    assert [event.position for event in stored] == sorted(event.position for event in stored)


async def test_versions_positions_and_the_feed_do_not_hang_on_a_clients_clock(event_store, monkeypatch):
    now = time.time_ns()
    events = []
    for hours in (0, -1, 2, -3):
        monkeypatch.setattr(envelopes, "_now", lambda hours=hours: now + hours * HOUR * 10**9)
        moment = datetime.now(UTC) + timedelta(hours=hours)
        events += [EventEnvelope(ORDER, "Counted", {}, occurred_at=moment) for _ in range(3)]
    assert len({event.event_id for event in events}) == len(events)
    for event in events:
        await event_store.append(ORDER, [event])
    stored = [event async for event in event_store.read_all()]
    assert [event.event_id for event in stored] == [event.event_id for event in events]
    assert [event.occurred_at for event in stored] == [event.occurred_at for event in events]
    assert versions(stored) == list(range(1, len(events) + 1))


@pytest.fixture
async def storage(event_store):
    async with event_store.bind.begin() as connection:
        await connection.execute(text("CREATE TABLE public.ledger (number serial, version integer)"))
    return PostgresSubscriptionStore(event_store.config, bind=event_store.bind)


async def project(event, session):
    await session.execute(text("INSERT INTO public.ledger (version) VALUES (:v)"), {"v": event.version})


async def ledger(store):
    async with store.bind.connect() as connection:
        return list(await connection.scalars(text("SELECT version FROM public.ledger ORDER BY number")))


async def jump_under_runners(store, storage, jump):
    """Two processes share two partitions while `jump` is called with one offset after the other."""
    runners = [
        SubscriptionRunner(
            store,
            storage,
            [Projection("orders", project, partitions=2)],
            worker=name,
            lease_seconds=2.0,
            poll=(0.005, 0.05),
        )
        for name in ("a", "b")
    ]
    running = [asyncio.create_task(runner.run()) for runner in runners]
    for number, seconds in enumerate((0, -HOUR, HOUR, 0, 2 * HOUR), 1):
        jump(seconds)
        assert await store.append(ORDER, new_events(ORDER, 1)) == number

        async def has_come(number=number):
            return len(await ledger(store)) >= number

        await until(has_come, f"nobody goes on after a jump to {seconds} s")
    for runner in runners:
        runner.stop()
    await asyncio.wait_for(asyncio.gather(*running), SECONDS)
    assert await ledger(store) == [1, 2, 3, 4, 5]


async def test_subscriptions_handle_everything_once_while_the_servers_clock_jumps(
    server_clock, event_store, storage
):
    await jump_under_runners(event_store, storage, server_clock)


async def test_subscriptions_handle_everything_once_while_a_clients_clock_jumps(
    event_store, storage, monkeypatch
):
    real = time.time

    def jump(seconds):
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    await jump_under_runners(event_store, storage, jump)


async def test_a_lease_that_a_jump_forward_ended_can_move_nothing(server_clock, event_store, storage):
    await event_store.append(ORDER, new_events(ORDER, 1))
    await storage.register("orders", 1, 1)
    (old,) = await storage.beat("orders", 1, "old", 60)
    server_clock(HOUR)
    (new,) = await storage.beat("orders", 1, "new", 60)
    with pytest.raises(LeaseLostError):
        await storage.save(old, Progress(await event_store.latest_cursor(), 1))
    await storage.save(new, Progress(await event_store.latest_cursor(), 1))


async def test_after_a_jump_back_the_lease_of_one_that_lives_stays_and_is_renewed(server_clock, storage):
    await storage.register("orders", 1, 1)
    (lease,) = await storage.beat("orders", 1, "old", 60)
    server_clock(-HOUR)
    assert await storage.beat("orders", 1, "new", 60) == []
    (renewed,) = await storage.beat("orders", 1, "old", 60)
    assert renewed.token == lease.token
    server_clock(-HOUR + 61)
    assert len(await storage.beat("orders", 1, "new", 60)) == 1


async def test_after_a_jump_back_what_a_dead_one_held_is_free_when_its_owner_is_made_to_leave(
    server_clock, storage
):
    await storage.register("orders", 1, 1)
    await storage.beat("orders", 1, "dead", 60)
    server_clock(-HOUR)
    assert await storage.beat("orders", 1, "new", 60) == []
    await storage.leave("orders", 1, "dead")
    assert len(await storage.beat("orders", 1, "new", 60)) == 1
