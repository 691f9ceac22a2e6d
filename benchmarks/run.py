"""The table of the README: this library, its peers and the hand-written limit, in one run.

Usage: python benchmarks/run.py [--rounds 5] [--python313 PATH] [--write]

Starts an embedded PostgreSQL with its default settings (so fsync and synchronous_commit are on), gives
each store a process and a database of its own, and lets them do each work in turn, round by round;
the figures are medians. Peers are installed into environments of their own. --write puts the table
into README.md.
"""

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import psycopg

from k1s0_event_store.sandbox import running_server

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
OURS, LIMIT = "k1s0_event_store_pg", "hand_written"
PEERS = {
    "eventsourcing_pg": "eventsourcing 9.5.6",
    "eventsourcing_sqla": "eventsourcing-sqlalchemy 1.0.1",
    "eventsource_py": "eventsource-py 0.15.1",
    "logicblocks_store": "logicblocks-event-store 0.1.11",
}
NAMES = {OURS: "**k1s0-event-store**", LIMIT: "hand-written asyncpg + orjson", **PEERS}
REQUIREMENTS_311 = [
    "eventsourcing[postgres]==9.5.6", "eventsourcing-sqlalchemy==1.0.1", "psycopg[binary]", "sqlalchemy<2.1",
]  # fmt: skip
REQUIREMENTS_313 = [
    "eventsource-py[postgresql]==0.15.1",
    "logicblocks-event-store==0.1.11",
    "psycopg[binary]",
]
WORK = {
    "append_1": "one at a time",
    "append_1_by_16": "16 writers",
    "append_1000": "one append of 1,000",
    "append_5000": "one append of 5,000",
    "append_100": "appends of 100",
    "load_5000": "load 5,000",
    "load_20": "loads of 20 (per s)",
    "read_all": "read all",
}
TIME_LIMIT = 20


class Store:
    """A worker process. A work that takes too long is given up for this store (some peers hang)."""

    def __init__(self, module, python, dsn, time_limit=TIME_LIMIT):
        self.module = module
        self.figures = {}
        self._given_up = set()
        self._time_limit = time_limit
        self._command = [python, str(HERE / "worker.py"), module, dsn]
        self._start()

    def _start(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        self._ask("prepare")

    def _ask(self, work):
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self._time_limit)
        return self._process.stdout.readline() if ready else ""

    def do(self, work):
        if work in self._given_up:
            return
        if line := self._ask(work):
            self.figures.setdefault(work, []).append(json.loads(line))
        else:
            print(f"{self.module} was given up in {work}", file=sys.stderr)
            self._given_up.add(work)
            self.figures.pop(work, None)
            self.stop()
            self._start()

    def stop(self):
        self._process.kill()
        self._process.wait()

    def median(self, work):
        return statistics.median(self.figures[work]) if work in self.figures else None


def environment(folder, python, requirements):
    """A virtual environment for peers; its interpreter."""
    if python == sys.executable:
        venv.create(folder, with_pip=True)
    else:
        subprocess.run([python, "-m", "venv", folder], check=True)
    interpreter = f"{folder}/bin/python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", *requirements], check=True)
    return interpreter


def new_database(dsn, name):
    """An empty database on the server of `dsn`; its DSN."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return dsn.replace("/postgres?", f"/{name}?")


def server_version(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute("SHOW server_version").fetchone()[0]


def in_turn(stores, works, rounds):
    """Let every store do each work in turn, then end them."""
    for work in list(works) * rounds:
        for store in stores:
            store.do(work)
    for store in stores:
        store.stop()


def measure(folder, dsn, rounds, python313):
    """Every store's figures."""
    with_311 = environment(folder / "311", sys.executable, REQUIREMENTS_311)
    pythons = {
        OURS: sys.executable,
        LIMIT: sys.executable,
        "eventsourcing_pg": with_311,
        "eventsourcing_sqla": with_311,
    }
    if python313:
        with_313 = environment(folder / "313", python313, REQUIREMENTS_313)
        pythons |= {"eventsource_py": with_313, "logicblocks_store": with_313}
    stores = [Store(module, python, new_database(dsn, f"b_{module}")) for module, python in pythons.items()]
    in_turn(stores, WORK, rounds)
    return stores


def table(stores, rounds, server):
    """The figures and the ratios as Markdown."""
    lines = ["| events per second | " + " | ".join(WORK.values()) + " |", "|---|" + "---:|" * len(WORK)]
    for store in stores:
        cells = (f"{median:,.0f}" if (median := store.median(work)) else "-" for work in WORK)
        lines.append(f"| {NAMES[store.module]} | " + " | ".join(cells) + " |")
    by_name = {store.module: store for store in stores}
    best = {work: max(s.median(work) or 0 for s in stores if s.module in PEERS) for work in WORK}
    limit = {work: by_name[LIMIT].median(work) for work in WORK}
    for name, base in (("times the best peer", best), ("of the hand-written limit", limit)):
        ratios = (f"{by_name[OURS].median(work) / base[work]:.2f}" for work in WORK)
        lines.append(f"| *{name}* | " + " | ".join(ratios) + " |")
    return "\n".join([*lines, "", note(rounds, server)])


def note(rounds, server):
    """What the figures mean."""
    return (
        f"Medians of {rounds} rounds by `python benchmarks/run.py`, all stores in turn on one machine: "
        f"{machine(server)} Only ratios within one run count. A dash: not run, or given up after "
        f"{TIME_LIMIT} s."
    )


def machine(server):
    """What it ran on."""
    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"PostgreSQL {server} with fsync and synchronous_commit on."
    )


def write_to_readme(text, begin=BEGIN, end=END):
    """Put `text` between two markers of the README."""
    before, found, rest = README.read_text().partition(begin)
    if not found or end not in rest:
        sys.exit(f"README.md has no {begin} with {end} after it")
    README.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python313", help="an interpreter of Python 3.13, for the peers that need it")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "data") as dsn:
        stores = measure(Path(name), dsn, options.rounds, options.python313)
        text = table(stores, options.rounds, server_version(dsn))
    print(text)
    if options.write:
        write_to_readme(text)


if __name__ == "__main__":
    main()
