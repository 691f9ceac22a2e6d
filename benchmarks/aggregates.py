"""Aggregates: load, decide and append, with snapshots every 50 events, against the best peer.

Usage: python benchmarks/aggregates.py [--rounds 40] [--write]

20 aggregates that begin with 200 events each; per work and round, each is changed once. typed_cost loads
all their events, as JSON and as pydantic models in turn. Every store has a process and a database of its
own; the figures are medians. --write puts the table into README.md.
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


def measure(folder, dsn, rounds):
    """Both stores' figures."""
    peer_python = environment(folder / "311", sys.executable, REQUIREMENTS_311)
    ours = Store(OURS, sys.executable, new_database(dsn, "b_ours"))
    peer = Store(PEER, peer_python, new_database(dsn, "b_peer"))
    for _ in range(rounds):
        ours.do("typed_cost")
    in_turn([ours, peer], BOTH, rounds)
    return ours, peer


def table(ours, peer, rounds, server):
    """The figures and the ratios as Markdown."""
    lines = ["| aggregates per second | " + " | ".join(BOTH.values()) + " |", "|---|" + "---:|" * len(BOTH)]
    for name, store in (("**k1s0-event-store**", ours), (f"{PEERS['eventsourcing_pg']}", peer)):
        cells = (f"{store.median(work):,.0f}" for work in BOTH)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ratios = [f"{ours.median(work) / peer.median(work):.2f}" for work in BOTH]
    lines.append(f"| *times the peer* | {' | '.join(ratios)} |")
    cost = f"Typed events take {ours.median('typed_cost'):.2f} times as long to load as JSON (200 at a time)."
    note = (
        f"{cost} Medians of {rounds} rounds by `python benchmarks/aggregates.py`: {machine(server)} "
        "Only ratios within one run count."
    )
    return "\n".join([*lines, "", note])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
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
