"""kill -9 of the server, the client and both, at random moments and at every step around COMMIT.

    python -m tests.faults.kills --kills 200 --seed 1

A round: a client works (see clients.py) through a proxy, somebody is killed, the server recovers, the client
that lives on or the next one goes on, settles what was under way and lets the subscriptions catch up. Then
the audit compares the store with what was ever acknowledged.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.connection import create_sync_store_engine
from k1s0_event_store.postgres.schema import upgrade_database

from ..forking import Forks
from ..postgres.wire import Cut, Moment, proxy_before
from .audit import TABLES, faults, look
from .batches import Claims
from .clients import WITHIN, journals, publications
from .servers import own_server

TARGETS = ("server", "client", "server and client")
AT_RANDOM = "at random"
MOMENTS = (AT_RANDOM, *Moment)
GOES_ON = 30
"""So many appends are acknowledged after a kill before it counts as survived."""
KILLS_PER_CLUSTER = 20
"""Then a new one is made: an audit reads all there is."""

SETTINGS = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "on"}
"""A SIGKILL is no power cut: what the kernel has is kept, and it has the log of each answered commit."""


@dataclass(frozen=True)
class Kill:
    """Who is killed, and when; `seed` decides the rest."""

    target: str
    moment: str
    seed: str

    @property
    def kind(self):
        return f"{self.target}, {self.moment}"


def plan(kills, seed):
    """Kills of all kinds in turn: three targets and five moments meet in fifteen ways, soon all of each."""
    return [
        Kill(TARGETS[number % len(TARGETS)], MOMENTS[number % len(MOMENTS)], f"{seed}-{number}")
        for number in range(kills)
    ]


class Trap:
    """Strikes when a COMMIT comes to `moment` for the `nth` time."""

    def __init__(self, moment, nth, strike):
        self.sprung = threading.Event()
        self._moment = moment
        self._left = nth
        self._strike = strike

    def __call__(self, moment):
        if moment is not self._moment or self._left == 0:
            return
        self._left -= 1
        if self._left == 0:
            self._strike()
            self.sprung.set()
            if moment in (Moment.UNSENT, Moment.EXECUTED):
                raise Cut  # What is held here never arrives.


class Arena:
    """A server, a proxy before it, and one client at a time."""

    def __init__(self, server, proxy, forks, folder):
        self.folder = folder
        self.server = server
        self._proxy = proxy
        self._forks = forks
        self._client = 0
        self._names = 0

    def survive(self, kill):
        """A round; what the audit finds."""
        self.strike(kill)
        if kill.target != "client":
            self.server.start()
        if kill.target != "server":
            self._begin_client(kill.seed)
        self._wait_for_acknowledgements(self._acknowledged() + GOES_ON)
        os.kill(self._client, signal.SIGTERM)
        ended = self._forks.says()
        assert ended == "0", f"the client ended with {ended}: {self.log()}"
        return self.audit()

    def strike(self, kill):
        """Have a client work, and whoever is to be killed killed at its moment."""
        chooser = random.Random(kill.seed)
        self._begin_client(kill.seed)
        if kill.moment == AT_RANDOM:
            time.sleep(chooser.random() * 0.4)
            self._kill(kill, chooser)
        else:
            trap = Trap(kill.moment, chooser.randint(1, 100), lambda: self._kill(kill, chooser))
            self._proxy.at = trap
            assert trap.sprung.wait(WITHIN), f"no COMMIT comes by: {self.log()}"
            self._proxy.at = lambda moment: None
        if kill.target != "server":
            assert self._forks.says() == str(-signal.SIGKILL)
        time.sleep(chooser.random() * 0.1)

    def audit(self):
        """What is wrong now."""
        return faults(self.claims(), look(self.server.dsn, publications(self.folder)))

    def claims(self):
        return Claims.of(journals(self.folder))

    def log(self):
        return "".join(path.read_text()[-3_000:] for path in sorted(self.folder.glob("log*")))

    def _begin_client(self, seed):
        self._names += 1
        self._client = self._forks.begin(
            dsn=self._proxy.dsn, folder=str(self.folder), name=f"{self._names:04}", seed=seed
        )
        self._wait_for_acknowledgements(1)

    def _kill(self, kill, chooser):
        victims = []
        if kill.target != "client":
            victims.append(self.server.kill)
        if kill.target != "server":
            victims.append(self._kill_client)
        chooser.shuffle(victims)
        for victim in victims:
            victim()

    def _kill_client(self):
        os.kill(self._client, signal.SIGKILL)

    def _acknowledged(self):
        """By the client that works now."""
        journal = self.folder / f"journal-{self._names:04}"
        return journal.read_text().count('["acknowledged"') if journal.exists() else 0

    def _wait_for_acknowledgements(self, count):
        deadline = time.monotonic() + WITHIN
        while self._acknowledged() < count:
            assert time.monotonic() < deadline, f"no appends are acknowledged: {self.log()}"
            time.sleep(0.01)


@contextmanager
def arena(forks, **settings):
    """One with a new cluster."""
    with ExitStack() as stack:
        server = stack.enter_context(own_server(**{**SETTINGS, **settings}))
        prepare(server.dsn)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k1s0-")))
        proxy = stack.enter_context(proxy_before(server.dsn))
        yield Arena(server, proxy, forks, folder)


def prepare(dsn):
    """Make the tables, ours and those of the clients, to stay whatever the server's settings are."""
    engine = create_sync_store_engine(EventStoreConfig(dsn=dsn))
    with engine.begin() as connection:
        upgrade_database(connection)
    engine.dispose()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (*TABLES, "CHECKPOINT"):
            connection.execute(statement)


@contextmanager
def client_program():
    """The program that clients are forked from."""
    forks = Forks("tests.faults.client_worker")
    try:
        yield forks
    finally:
        forks.end()


@dataclass
class Report:
    """What the rounds came to."""

    kinds: Counter
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    events: int = 0

    def add(self, claims):
        """What all clients of one cluster have said."""
        self.acknowledged += len(claims.acknowledged)
        self.refused += len(claims.refused)
        self.unknown += len(set(claims.unknown))
        self.events += sum(claims.tried[name].total for name in claims.acknowledged)


def run(kills, seed, say=lambda line: None):
    """Kill so many times; the report. Raises AssertionError with the seed and what is wrong."""
    report = Report(Counter())
    rounds = plan(kills, seed)
    with client_program() as forks:
        for start in range(0, kills, KILLS_PER_CLUSTER):
            with arena(forks) as place:
                for number, kill in enumerate(rounds[start : start + KILLS_PER_CLUSTER], start + 1):
                    wrong = place.survive(kill)
                    assert not wrong, f"seed {seed}, kill {number} ({kill.kind}): " + "; ".join(wrong)
                    report.kinds[kill.kind] += 1
                    say(f"kill {number} of {kills} ({kill.kind}): survived")
                report.add(place.claims())
    return report


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    report = run(asked.kills, asked.seed, lambda line: print(line, file=sys.stderr, flush=True))
    for kind, times in sorted(report.kinds.items()):
        print(f"{times:4} kills of {kind}: nothing wrong")
    print(
        f"{asked.kills} kills, seed {asked.seed}: {report.acknowledged:,} acknowledged appends with "
        f"{report.events:,} events are there once and whole, {report.unknown:,} of them or of the "
        f"{report.refused:,} refused had an unknown outcome first; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
