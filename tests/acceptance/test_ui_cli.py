"""`k1s0-event-store ui` as a process, and what it refuses."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from tests.acceptance.commands import COMMAND

from k1s0_event_store import EventEnvelope, StreamId

ORDER = StreamId("order", "o-1")
TOKEN = "a token of 24 characters"  # noqa: S105 - of the tests alone
MODULE = """
from dataclasses import dataclass

from k1s0_event_store import AggregateRoot, EventRegistry, Repository

events = EventRegistry()

@events.register("Placed")
@dataclass(frozen=True)
class Placed:
    total: int

@dataclass
class Order(AggregateRoot):
    aggregate_type = "order"
    total: int = 0

    def apply(self, event):
        self.total = event.total

def repositories(store):
    return [Repository(store, events, Order)]
"""


@contextmanager
def running(dsn, folder, *options, **environment):
    """The command at work: its process, and where it serves."""
    process = subprocess.Popen(
        [*COMMAND, "ui", "--dsn", dsn, "--listen", "0", *options],
        stdout=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **environment},
        text=True,
    )
    with process:
        try:
            said = process.stdout.readline()
            yield process, re.search(r"look at (http://\S+)/ ", said)[1]
        finally:
            process.kill()


@pytest.fixture
def refused(invoke, event_store_dsn):
    """Run the command with options it cannot take; its message."""

    def run(*options, **environment):
        result = invoke("ui", "--dsn", event_store_dsn, *options, env=environment)
        assert result.exit_code == 1, result.output
        return result.stderr

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_the_store_until_a_signal_comes(event_store_dsn, sync_event_store, tmp_path, number):
    sync_event_store.append(ORDER, [EventEnvelope(ORDER, "Placed", {"total": 30})])
    (tmp_path / "shop.py").write_text(MODULE)
    with running(event_store_dsn, tmp_path, "--aggregates", "shop:repositories") as (process, url):
        assert "127.0.0.1" in url
        page = httpx.get(f"{url}/stream?type=order&id=o-1")
        assert "State at version 1" in page.text
        assert "Read only." in page.text
        with httpx.stream("GET", f"{url}/live", timeout=60) as live:
            assert "event: newest" in live.iter_lines()
            process.send_signal(number)
            assert process.wait(60) == 0


def test_the_token_may_come_from_the_environment(event_store_dsn, tmp_path):
    with running(event_store_dsn, tmp_path, K1S0_EVENT_STORE_UI_TOKEN=TOKEN) as (_, url):
        assert httpx.get(f"{url}/").status_code == 401
        metrics = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert "k1s0_event_store_" in metrics.text
        assert httpx.get(f"{url}/metrics").status_code == 401


def test_actions_are_allowed_on_demand(event_store_dsn, tmp_path):
    with running(event_store_dsn, tmp_path, "--allow-actions") as (_, url):
        assert "Actions are allowed." in httpx.get(f"{url}/").text


def test_it_is_not_open_to_other_machines_by_accident(refused):
    assert "other machines could look: give a token" in refused("--listen", "0.0.0.0:0")
    assert "at least 16 characters" in refused("--listen", "0.0.0.0:0", "--token", "short")
    assert "not both" in refused("--token", TOKEN, "--proxy-header", "X-Forwarded-User")


def test_what_it_cannot_do_is_one_line(refused):
    assert "--aggregates is MODULE:NAME" in refused("--aggregates", "shop")
    assert "--aggregates nowhere:x cannot be imported" in refused("--aggregates", "nowhere:x")
    assert "aggregates are a list of repositories" in refused("--aggregates", "json:dumps.__defaults__")
    assert "an address to listen at is" in refused("--listen", "here")


def test_without_the_web_extra_it_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "k1s0_event_store.web.app", None)
    assert "pip install 'k1s0-event-store[web]'" in refused()
