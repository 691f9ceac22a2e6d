"""One store under measurement: takes the name of a work per line, answers with its rate as JSON.

Usage: worker.py MODULE DSN. MODULE is an adapter in peers/ with setup, append, load and read_all,
each async or blocking; for the comparison of projections also clear, rows, and project (and perhaps
project_batch), which come back with the time at which the last row was committed; for aggregates make,
transact and the other works named below, which answer with the number of the aggregate's lines.
"""

import asyncio
import concurrent.futures
import gc
import importlib
import inspect
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

PAYLOAD = {
    "order_id": "o-123",
    "total": 123.45,
    "items": [{"sku": "A", "qty": 1}, {"sku": "B", "qty": 2}],
    "note": "hello world, this is a payload",
}
LONG, SHORT = 5_000, 20
PREPARED = LONG + SHORT
AGGREGATES, AGGREGATE_SIZE = 20, 200


class Work:
    """Every work returns events (or loads) per second."""

    def __init__(self, module):
        self.module = module
        self.runs = 0
        self.long = self.short = ""
        self.aggregates = []

    async def call(self, function, *args):
        answer = getattr(self.module, function)(*args)
        return await answer if inspect.isawaitable(answer) else answer

    def stream(self, name):
        self.runs += 1
        return f"{name}-{self.runs}"

    async def prepare(self):
        self.long, self.short = self.stream("long"), self.stream("short")
        for start in range(0, LONG, 500):
            await self.call("append", self.long, start, [PAYLOAD] * 500)
        await self.call("append", self.short, 0, [PAYLOAD] * SHORT)
        return 1.0

    async def append_1(self, events=300):
        start = time.perf_counter()
        for _ in range(events):
            await self.call("append", self.stream("one"), 0, [PAYLOAD])
        return events / (time.perf_counter() - start)

    async def append_1_by_16(self, each=40):
        names = [[self.stream("by16") for _ in range(each)] for _ in range(16)]
        start = time.perf_counter()
        if inspect.iscoroutinefunction(self.module.append):
            await asyncio.gather(*(self._write(streams) for streams in names))
        else:
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                list(pool.map(self._write_blocking, names))
        return 16 * each / (time.perf_counter() - start)

    async def _write(self, streams):
        for stream in streams:
            await self.module.append(stream, 0, [PAYLOAD])

    def _write_blocking(self, streams):
        for stream in streams:
            self.module.append(stream, 0, [PAYLOAD])

    async def append_1000(self):
        return await self._append_many(1_000, 3)

    async def append_5000(self):
        return await self._append_many(5_000, 1)

    async def append_100(self):
        return await self._append_many(100, 20)

    async def _append_many(self, size, times):
        start = time.perf_counter()
        for _ in range(times):
            await self.call("append", self.stream("many"), 0, [PAYLOAD] * size)
        return size * times / (time.perf_counter() - start)

    async def load_5000(self):
        return await self._load(self.long, LONG, 3)

    async def load_20(self):
        return await self._load(self.short, SHORT, 200) / SHORT

    async def _load(self, stream, size, times):
        start = time.perf_counter()
        for _ in range(times):
            found = await self.call("load", stream)
        rate = size * times / (time.perf_counter() - start)
        assert len(found) == size
        assert found[-1]["total"] == 123.45
        return rate

    async def project(self):
        return await self._project("project")

    async def project_batch(self):
        return await self._project("project_batch")

    async def _project(self, how):
        await self.call("clear")
        start = time.perf_counter()
        end = await self.call(how)
        rows = await self.call("rows")
        assert rows == PREPARED
        return rows / (end - start)

    async def transact(self):
        return await self._with_aggregates("transact")

    async def transact_cached(self):
        return await self._with_aggregates("transact_cached")

    async def typed_cost(self):
        """How many times as long as JSON typed events take to load, by turns: both have the same luck."""
        await self._make_aggregates()
        seconds = {"load_raw": 0.0, "load_typed": 0.0}
        for name in self.aggregates * 5:
            for how in seconds:
                start = time.perf_counter()
                assert await self.call(how, name) >= AGGREGATE_SIZE
                seconds[how] += time.perf_counter() - start
        return seconds["load_typed"] / seconds["load_raw"]

    async def _with_aggregates(self, how):
        """Aggregates per second, one after the other; each has 200 events at first."""
        await self._make_aggregates()
        start = time.perf_counter()
        for name in self.aggregates:
            assert await self.call(how, name) >= AGGREGATE_SIZE - 1
        return AGGREGATES / (time.perf_counter() - start)

    async def _make_aggregates(self):
        if not self.aggregates:
            self.aggregates = [self.stream("aggregate") for _ in range(AGGREGATES)]
            for name in self.aggregates:
                await self.call("make", name, AGGREGATE_SIZE)

    async def read_all(self):
        start = time.perf_counter()
        found = await self.call("read_all")
        return len(found) / (time.perf_counter() - start)


async def main(module, dsn):
    adapter = importlib.import_module(module)
    work = Work(adapter)
    sized = "pool_size" in inspect.signature(adapter.setup).parameters
    await work.call("setup", *((dsn, 16) if sized else (dsn,)))
    # What was imported is not looked through again and again: 60 ms, in the middle of somebody's turn.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(await getattr(work, line.strip())()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
