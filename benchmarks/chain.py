"""What the hash chain costs: how much longer appends take with it than without.

Usage: python benchmarks/chain.py [--rounds 15]

Two databases on an embedded PostgreSQL with its default settings, one of them with the chain, take turns as
the layouts of layout.py do, with its appends: of 1 event (to a new stream, and to one that is there), of 100
and of 5,000 to a new stream. Needs Linux.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from layout import Layout, Subject, compared
from report import markdown
from stores import new_database
from works import SHORT

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.chain import add_chain
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server

WORKS = {"append_1": 30, "append_100": 5, "append_5000": 1}
STREAMS = 500
PLAIN, CHAINED = Layout("without the chain"), Layout("with the chain")


def migrate(connection):
    upgrade_database(connection)
    add_chain(connection)


async def figures(server, rounds):
    plain = Subject(new_database(server, "plain"), PLAIN)
    dsn = new_database(server, "chained")
    await in_transaction(EventStoreConfig(dsn=dsn), migrate)
    subjects = [plain, Subject(dsn, CHAINED)]
    for subject in subjects:
        await subject.open()
        await subject.fill(STREAMS, SHORT)
    return await compared(subjects, WORKS, rounds)


def table(found):
    rows = []
    for work in WORKS:
        without, with_chain = (found[layout.title][work] for layout in (PLAIN, CHAINED))
        name = f"{int(work.removeprefix('append_')):,}"
        rows.append([name, f"{without:,.1f} µs", f"{with_chain:,.1f} µs", f"{with_chain / without:.2f}"])
    return markdown(["append of", "each event without", "with the chain", "times"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="k1s0-") as folder, running_server(Path(folder) / "data") as dsn:
        print(table(asyncio.run(figures(dsn, rounds))))


if __name__ == "__main__":
    main()
