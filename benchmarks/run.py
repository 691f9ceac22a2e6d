"""The table of the README: this library, its peers and the hand-written limit, in one run.

Usage: python benchmarks/run.py [--rounds 4] [--python313 PATH] [--environments FOLDER] [--write] [--large]

Starts an embedded PostgreSQL with its default settings (so fsync and synchronous_commit are on), gives
each store a process and a database of its own, and lets them do each work in turn, round by round;
the figures are medians. Peers are installed into environments of their own; with --environments these
are kept and used again. --write keeps the figures in benchmarks/results, puts the table into README.md
and draws its picture (which needs the dependency group `benchmarks`).

--large instead reads and imports 1,000,000 events, with ours, the limit and the fastest peer, and looks
at the memory that ours needs for it; --write puts that table into docs/performance.md.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg
from report import PERFORMANCE, machine, markdown, save, write_between
from stores import (
    COALESCED,
    LIMIT,
    OURS,
    PEERS,
    TIME_LIMIT,
    Store,
    in_turn,
    new_database,
    peer_pythons,
    server_version,
)
from works import FILLED, IMPORTED, MILLION, OTHERS, SPACE_EVENTS

from k1s0_event_store.sandbox import running_server

FASTEST_PEER = "eventsourcing_pg"
NAMES = {OURS: "**k1s0-event-store**", LIMIT: "asyncpg, by hand", **PEERS}
WORKS = (
    "append_1", "append_1_by_16", "append_1_by_256", "append_beside_16", "append_100", "append_1000",
    "append_5000", "import_many", "load_5000", "load_20", "read_all",
)  # fmt: skip
OF_COALESCED = ("append_1", "append_1_by_16", "append_1_by_256", "append_beside_16")
LARGE_WORKS = ("pass_by", "import_million")


class Row(NamedTuple):
    """A line of the table: a figure of all stores, and what ours should reach."""

    figure: str
    title: str
    ours: str = OURS
    of_peer: str = ""
    of_limit: str = ""
    form: str = ",.0f"
    less_is_better: bool = False
    compared: bool = True


BY_OTHERS = f"while {OTHERS} others write"
ROWS = (
    Row("append_1", "one append at a time", of_peer="3", of_limit="0.85"),
    Row("append_1", "the same, `coalesce=True`", COALESCED),
    Row("append_1_by_16", "16 writers, one event each"),
    Row("append_1_by_16", "the same, `coalesce=True`", COALESCED, "6", "1"),
    Row("append_1_by_256", "256 writers, one event each"),
    Row("append_1_by_256", "the same, `coalesce=True`", COALESCED, "8"),
    Row("append_100", "appends of 100", of_peer="3", of_limit="0.9"),
    Row("append_1000", "appends of 1,000"),
    Row("append_5000", "one append of 5,000", of_peer="3", of_limit="0.9"),
    Row("import_many", f"import of {IMPORTED:,} in streams of 20", of_peer="5", of_limit="0.9"),
    Row("load_5000", "load of 5,000", of_peer="2.5", of_limit="0.9"),
    Row("load_20", "loads of 20 (loads per second)", of_peer="1.5", of_limit="0.85"),
    Row("read_all", f"read everything, {FILLED:,} and more", of_peer="3", of_limit="0.85"),
    Row("bytes_per_event", "bytes on disk per event", of_peer="1", less_is_better=True),
    Row("append_p50", f"p50 of an append {BY_OTHERS}, ms", form=".1f", less_is_better=True),
    Row("append_p50", "the same, `coalesce=True`", COALESCED, form=".1f", less_is_better=True),
    Row("append_p99", f"p99 of an append {BY_OTHERS}, ms", form=".1f", less_is_better=True),
    Row("append_p99", "the same, `coalesce=True`", COALESCED, form=".1f", less_is_better=True),
    Row("p99_to_p50", "p99 divided by p50 (at most 3)", form=".1f", compared=False),
    Row("p99_to_p50", "the same, `coalesce=True`", COALESCED, form=".1f", compared=False),
)
UNDER_50 = "MB of memory above the start (under 50)"
LARGE_ROWS = (
    Row("import_million", f"import of {MILLION:,} in streams of 20", of_peer="5", of_limit="0.9"),
    Row("import_file", "the same from a file, as `import` does it", compared=False),
    Row("memory_of_importing", UNDER_50, form=".1f", compared=False),
    Row("pass_by", f"read everything, {MILLION:,}", of_peer="3", of_limit="0.85"),
    Row("memory_of_reading", UNDER_50, form=".1f", compared=False),
)


def measure(folder, dsn, options):
    """Every store's figures by name."""
    pythons = {OURS: sys.executable, LIMIT: sys.executable}
    pythons |= peer_pythons(options.environments or folder, options.python313)
    spaces = {module: space(module, python, dsn) for module, python in pythons.items() if module != LIMIT}
    stores = [compared(module, python, dsn) for module, python in pythons.items()]
    stores.insert(1, compared(COALESCED, sys.executable, dsn, first=(), works=OF_COALESCED))
    in_turn(stores, WORKS, options.rounds)
    figures = {store.module: store.medians() for store in stores}
    for module, bytes_per_event in spaces.items():
        figures[module]["bytes_per_event"] = bytes_per_event
    return figures


def compared(module, python, dsn, *, first=("prepare", "fill"), works=None):
    return Store(module, python, new_database(dsn, f"b_{module}"), first=first, works=works)


def space(module, python, dsn):
    """Bytes on disk per event of many streams, with all indexes, after VACUUM."""
    database = new_database(dsn, f"space_{module}")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE space_{module} SET synchronous_commit = off")
        store = Store(module, python, database, time_limit=4 * TIME_LIMIT, first=())
        store.do("idle")
        empty = table_bytes(connection)
        store.do("interleave")
        store.stop()
        connection.execute("VACUUM ANALYZE")
        return (table_bytes(connection) - empty) / SPACE_EVENTS


def table_bytes(connection):
    """What all tables of a database take, but the system's."""
    query = """
    SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')"""
    return int(connection.execute(query).fetchone()[0])


def measure_large(folder, dsn, options):
    """Figures of reading and importing 1,000,000 events, by store."""
    pythons = {OURS: sys.executable, LIMIT: sys.executable}
    pythons[FASTEST_PEER] = peer_pythons(options.environments or folder, None)[FASTEST_PEER]
    fill = ("fill_million",)
    figures = {
        module: done_once(module, python, new_database(dsn, f"large_{module}"), LARGE_WORKS, fill)
        for module, python in pythons.items()
    }
    # In a process of its own: what an earlier work has left to it would hide what it needs.
    figures[OURS] |= done_once(OURS, sys.executable, new_database(dsn, "large_file"), ["import_file"])
    return figures


def done_once(module, python, dsn, works, first=()):
    store = Store(module, python, dsn, time_limit=1_000, first=first)
    in_turn([store], works, 1)
    return store.medians()


def table(results, rows):
    """The figures and the ratios as Markdown."""
    figures = results["figures"]
    modules = [module for module in NAMES if module in figures]
    head = ["events per second", *map(NAMES.get, modules), "times the best peer", "of the limit"]
    lines = [[row.title, *cells(row, figures, modules), *ratios(row, figures)] for row in rows]
    return f"{markdown(head, lines)}\n\n{results['note']}"


def cells(row, figures, modules):
    for module in modules:
        figure = figures.get(row.ours if module == OURS else module, {}).get(row.figure)
        repeated = row.ours == COALESCED and module != OURS
        yield "" if repeated else "-" if figure is None else format(figure, row.form)


def ratios(row, figures):
    """Against the best peer and the limit, with the targets behind."""
    of_peer, of_limit = ratio(row, figures, PEERS), ratio(row, figures, [LIMIT])
    return aimed(of_peer, row.of_peer), aimed(of_limit, row.of_limit)


def ratio(row, figures, others):
    """How many times better ours is than the best of `others`; None where one of them has no figure."""
    known = [figures[name][row.figure] for name in others if row.figure in figures.get(name, {})]
    ours = figures.get(row.ours, {}).get(row.figure)
    if not known or ours is None or not row.compared:
        return None
    return min(known) / ours if row.less_is_better else ours / max(known)


def aimed(reached, target):
    if reached is None:
        return ""
    return f"{reached:.2f} ({target})" if target else f"{reached:.2f}"


def note(options, server):
    """What the figures mean."""
    return (
        f"Medians of {options.rounds} rounds by `python benchmarks/run.py`, all stores in turn on one "
        f"machine: {machine(server)} Only ratios within one run count; above 1 ours is better, and what it "
        f"should reach stands in brackets. A dash: not run, or given up after {TIME_LIMIT} s."
    )


def large_note(server):
    """What the figures of the large form mean."""
    return f"One run of `python benchmarks/run.py --large`: {machine(server)} In brackets: the targets."


def run(options):
    """Figures and note, from a server of their own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dsn = stack.enter_context(running_server(folder / "data"))
        server = server_version(dsn)
        if options.large:
            return {"figures": measure_large(folder, dsn, options), "note": large_note(server)}
        return {"figures": measure(folder, dsn, options), "note": note(options, server)}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--python313", help="an interpreter of Python 3.13, for the peers that need it")
    parser.add_argument("--environments", type=Path, help="where the peers' environments are, or shall be")
    parser.add_argument("--large", action="store_true", help="1,000,000 events, read and imported")
    parser.add_argument("--write", action="store_true", help="put table and picture into the documents")
    return parser.parse_args()


def main():
    options = arguments()
    if options.write:
        import pictures  # before the run: matplotlib may be missing
    results = run(options)
    print(table(results, LARGE_ROWS if options.large else ROWS))
    if options.write and options.large:
        save(results, "large")
        write_between(table(results, LARGE_ROWS), "large", PERFORMANCE)
    elif options.write:
        save(results, "run")
        write_between(table(results, ROWS), "benchmark")
        pictures.draw_run()


if __name__ == "__main__":
    main()
