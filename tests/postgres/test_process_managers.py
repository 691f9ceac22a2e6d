"""Process managers: effects exactly once, through crashes, restarts and rebuilds."""

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k1s0_event_store import StreamId, SubscriptionRunner, TypedEventStore
from k1s0_event_store.testing.runner_contract import eventually

from .process_worker import OrderPlaced, events, invoicing

ORDERS = 150


@pytest.fixture
async def typed(event_store, sql):
    sql("CREATE TABLE outbox (id bigserial PRIMARY KEY, order_id text NOT NULL)")
    return TypedEventStore(event_store, events)


async def place(typed, numbers):
    for number in numbers:
        await typed.append(StreamId("order", f"o-{number}"), [OrderPlaced(total=number)])


def effects(sql):
    invoices = sql("SELECT payload->>'order_id' FROM eventstore.events WHERE event_type = 'invoice.issued'")
    return sorted(invoices), sorted(sql("SELECT order_id FROM outbox"))


def start(dsn):
    program = Path(__file__).with_name("process_worker.py")
    return subprocess.Popen([sys.executable, str(program), dsn], stdin=subprocess.DEVNULL)


async def test_effects_happen_once_although_processes_are_killed(typed, event_store_dsn, sql):
    """Two processes; one of them is killed again and again, wherever it happens to be."""
    chance = random.Random(7)
    processes = [start(event_store_dsn) for _ in range(2)]
    try:
        for first in range(0, ORDERS, 30):
            await place(typed, range(first, first + 30))
            await eventually(lambda first=first: len(effects(sql)[1]) > first, 30)
            await asyncio.sleep(chance.random() / 10)
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait(10)
            processes[0] = start(event_store_dsn)
        await eventually(lambda: len(effects(sql)[1]) >= ORDERS, 60)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    expected = sorted((f"o-{number}",) for number in range(ORDERS))
    assert effects(sql) == (expected, expected)
    causes = sql(
        "SELECT count(*) FROM eventstore.events AS invoice JOIN eventstore.events AS placed"
        " ON placed.event_id::text = invoice.metadata->>'causation_id'"
        " AND placed.aggregate_id = invoice.payload->>'order_id'"
    )
    assert causes == [(ORDERS,)]


async def test_a_reset_or_a_new_version_does_nothing_twice(typed, event_store, subscription_store, sql):
    runner = SubscriptionRunner(event_store, subscription_store, [invoicing(event_store)])
    await place(typed, range(10))
    await runner.run_until_caught_up()
    once = effects(sql)
    assert len(once[1]) == 10
    await subscription_store.reset("invoicing")
    await runner.run_until_caught_up()
    assert effects(sql) == once
    await place(typed, range(10, 13))
    await runner.run_until_caught_up()
    assert len(effects(sql)[1]) == 13
