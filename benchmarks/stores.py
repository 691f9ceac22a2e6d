"""Stores under measurement: a process, an environment and a database for each, and works done in turn."""

import itertools
import json
import select
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import psycopg

WORKER = Path(__file__).with_name("worker.py")
TIME_LIMIT = 20
OURS, COALESCED, LIMIT = "k1s0_event_store_pg", "k1s0_event_store_coalesced", "hand_written"
PEERS = {
    "eventsourcing_pg": "eventsourcing 9.5.6",
    "eventsourcing_sqla": "eventsourcing-sqlalchemy 1.0.1",
    "eventsource_py": "eventsource-py 0.15.1",
    "logicblocks_store": "logicblocks-event-store 0.1.11",
}
REQUIREMENTS_311 = [
    "eventsourcing[postgres]==9.5.6", "eventsourcing-sqlalchemy==1.0.1", "psycopg[binary]", "sqlalchemy<2.1",
]  # fmt: skip
REQUIREMENTS_313 = [
    "eventsource-py[postgresql]==0.15.1",
    "logicblocks-event-store==0.1.11",
    "psycopg[binary]",
]


class Store:
    """A worker process. A work that takes too long is given up for this store (some peers hang)."""

    def __init__(self, module, python, dsn, *, time_limit=TIME_LIMIT, first=("prepare",), works=None):
        self.module = module
        self.figures = {}
        self._given_up = set()
        self._time_limit = time_limit
        self._first = first
        self._works = works
        self._command = [python, str(WORKER), module, dsn]
        self._start()

    def _start(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        for work in self._first:
            self._ask(work)

    def _ask(self, work):
        """The answer as JSON; nothing from a process that hangs or has ended."""
        try:
            self._process.stdin.write(f"{work}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        ready, _, _ = select.select([self._process.stdout], [], [], self._time_limit)
        return self._process.stdout.readline() if ready else ""

    def do(self, work):
        """Do a work once and keep its figure, or its figures by name."""
        if work in self._given_up or (self._works is not None and work not in self._works):
            return
        if line := self._ask(work):
            answer = json.loads(line)
            for name, figure in (answer if isinstance(answer, dict) else {work: answer}).items():
                self.figures.setdefault(name, []).append(figure)
        else:
            self._give_up(work)

    def _give_up(self, work):
        print(f"{self.module} was given up in {work}", file=sys.stderr)
        self._given_up.add(work)
        self.figures.pop(work, None)
        self.stop()
        self._start()

    def stop(self):
        self._process.kill()
        self._process.wait()

    def median(self, figure):
        return statistics.median(self.figures[figure]) if figure in self.figures else None

    def medians(self):
        """All figures by name."""
        return {name: statistics.median(values) for name, values in self.figures.items()}


def in_turn(stores, works, rounds):
    """Let every store do each work in turn, then end them.

    Another store begins each work of each round: who comes first finds the machine as other work left it.
    """
    turns = itertools.cycle(range(len(stores)))
    for number in range(1, rounds + 1):
        for work, first in zip(works, turns, strict=False):
            print(f"round {number} of {rounds}: {work}", file=sys.stderr)
            for store in (*stores[first:], *stores[:first]):
                store.do(work)
    for store in stores:
        store.stop()


def environment(folder, python, requirements):
    """A virtual environment for peers, made where it is not there yet; its interpreter."""
    interpreter = folder / "bin/python"
    if not interpreter.exists():
        if python == sys.executable:
            venv.create(folder, with_pip=True)
        else:
            subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", *requirements], check=True)
    return str(interpreter)


def peer_pythons(folder, python313):
    """The interpreter of each peer that can run; environments are made in `folder`, or found there."""
    with_311 = environment(folder / "311", sys.executable, REQUIREMENTS_311)
    pythons = {"eventsourcing_pg": with_311, "eventsourcing_sqla": with_311}
    if python313:
        with_313 = environment(folder / "313", python313, REQUIREMENTS_313)
        pythons |= {"eventsource_py": with_313, "logicblocks_store": with_313}
    return pythons


def new_database(dsn, name):
    """An empty database on the server of `dsn`; its DSN."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return dsn.replace("/postgres?", f"/{name}?")


def server_version(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute("SHOW server_version").fetchone()[0]
