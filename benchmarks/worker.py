"""One store under measurement: takes the name of a work per line, answers with its figure as JSON.

Usage: worker.py MODULE DSN. MODULE is an adapter in peers/ with setup, append, load and read_all, each
async or blocking, and FILL, the SQL that puts many events into its tables; perhaps import_many, which
writes many streams at once. For the comparison of projections also clear, rows, and project (and perhaps
project_batch); for aggregates make, transact and the other functions that works.py calls.
"""

import asyncio
import gc
import importlib
import inspect
import json
import sys
from pathlib import Path

from works import Work

sys.path.insert(0, str(Path(__file__).parent / "peers"))


async def main(module, dsn):
    adapter = importlib.import_module(module)
    work = Work(adapter, dsn)
    sized = "pool_size" in inspect.signature(adapter.setup).parameters
    await work.call("setup", *((dsn, 16) if sized else (dsn,)))
    # What was imported is not looked through again and again: 60 ms, in the middle of somebody's turn.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(await getattr(work, line.strip())()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
