"""Aggregates: load, decide and append, with snapshots every 50 events, against the best peer.

Usage: python benchmarks/aggregates.py [--rounds 40] [--environments FOLDER] [--write]

20 aggregates that begin with 200 events each; per work and round, each is changed once. typed_cost loads
all their events, as JSON and as pydantic models in turn. Every store has a process and a database of its
own; the figures are medians. --write puts the table into docs/performance.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from report import PERFORMANCE, machine, markdown, write_between
from stores import PEERS, Store, in_turn, new_database, peer_pythons, server_version

from k1s0_event_store.sandbox import running_server

OURS, PEER = "k1s0_event_store_aggregates", "eventsourcing_aggregates"
BOTH = {"transact": "load, decide, append", "transact_cached": "the same with a cache"}


def measure(folder, dsn, rounds):
    """Both stores' figures."""
    peer_python = peer_pythons(folder, None)["eventsourcing_pg"]
    ours = Store(OURS, sys.executable, new_database(dsn, "b_ours"))
    peer = Store(PEER, peer_python, new_database(dsn, "b_peer"))
    for _ in range(rounds):
        ours.do("typed_cost")
    in_turn([ours, peer], BOTH, rounds)
    return ours, peer


def table(ours, peer, rounds, server):
    """The figures and the ratios as Markdown."""
    lines = [
        [name, *(f"{store.median(work):,.0f}" for work in BOTH)]
        for name, store in (("**k1s0-event-store**", ours), (PEERS["eventsourcing_pg"], peer))
    ]
    ratios = [f"{ours.median(work) / peer.median(work):.2f}" for work in BOTH]
    lines.append(["*times the peer*", *ratios])
    cost = f"Typed events take {ours.median('typed_cost'):.2f} times as long to load as JSON (200 at a time)."
    note = (
        f"{cost} Medians of {rounds} rounds by `python benchmarks/aggregates.py`: {machine(server)} "
        "Only ratios within one run count."
    )
    return f"{markdown(['aggregates per second', *BOTH.values()], lines)}\n\n{note}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--environments", type=Path, help="where the peer's environment is, or shall be")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "data") as dsn:
        ours, peer = measure(options.environments or Path(name), dsn, options.rounds)
        text = table(ours, peer, options.rounds, server_version(dsn))
    print(text)
    if options.write:
        write_between(text, "aggregates-benchmark", PERFORMANCE)


if __name__ == "__main__":
    main()
