"""Aggregates: load, decide and append, with snapshots every 50 events, against the best peer.

Usage: python benchmarks/aggregates.py [--rounds 7] [--write]

20 aggregates that begin with 200 events each; per work and round, 100 calls one after the other.
load_raw and load_typed load all their events, as JSON and as pydantic models. Every store has a process
and a database of its own; the figures are medians. --write puts the table into README.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from run import (
    PEERS,
    REQUIREMENTS_311,
    Store,
    environment,
    in_turn,
    machine,
    new_database,
    server_version,
    write_to_readme,
)

from k1s0_event_store.sandbox import running_server

BEGIN, END = "<!-- aggregates-benchmark:begin -->", "<!-- aggregates-benchmark:end -->"
OURS, PEER = "k1s0_event_store_aggregates", "eventsourcing_aggregates"
BOTH = {"transact": "load, decide, append", "transact_cached": "the same with a cache"}
OWN = {"load_raw": "load 200, JSON", "load_typed": "load 200, typed"}


def measure(folder, dsn, rounds):
    """Both stores' figures."""
    peer_python = environment(folder / "311", sys.executable, REQUIREMENTS_311)
    ours = Store(OURS, sys.executable, new_database(dsn, "b_ours"))
    peer = Store(PEER, peer_python, new_database(dsn, "b_peer"))
    for work in list(OWN) * rounds:
        ours.do(work)
    in_turn([ours, peer], BOTH, rounds)
    return ours, peer


def table(ours, peer, rounds, server):
    """The figures and the ratios as Markdown."""
    works = {**BOTH, **OWN}
    lines = ["| aggregates per second | " + " | ".join(works.values()) + " |", "|---|" + "---:|" * len(works)]
    for name, store in (("**k1s0-event-store**", ours), (f"{PEERS['eventsourcing_pg']}", peer)):
        cells = (f"{median:,.0f}" if (median := store.median(work)) else "-" for work in works)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ratios = [f"{ours.median(work) / peer.median(work):.2f}" for work in BOTH]
    cost = ours.median("load_raw") / ours.median("load_typed")
    lines.append(f"| *times the peer* | {' | '.join(ratios)} | | {cost:.2f} of the time of JSON |")
    note = (
        f"Medians of {rounds} rounds by `python benchmarks/aggregates.py`: {machine(server)} one run count."
    )
    return "\n".join([*lines, "", note])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "data") as dsn:
        ours, peer = measure(Path(name), dsn, options.rounds)
        text = table(ours, peer, options.rounds, server_version(dsn))
    print(text)
    if options.write:
        write_to_readme(text, BEGIN, END)


if __name__ == "__main__":
    main()
