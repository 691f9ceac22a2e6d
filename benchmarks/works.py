"""The works that a store is measured by. Each answers with events per second, unless it says otherwise."""

import asyncio
import concurrent.futures
import inspect
import json
import statistics
import tempfile
import time
import uuid
from multiprocessing import get_context
from pathlib import Path

import psycopg

PAYLOAD = {
    "order_id": "o-123",
    "total": 123.45,
    "items": [{"sku": "A", "qty": 1}, {"sku": "B", "qty": 2}],
    "note": "hello world, this is a payload",
}
compact = json.JSONEncoder(separators=(",", ":")).encode
PAYLOAD_200 = {**PAYLOAD, "note": "x" * (200 - len(compact({**PAYLOAD, "note": ""})))}
LONG, SHORT = 5_000, 20
PREPARED = LONG + SHORT
FILLED, IMPORTED, MILLION = 100_000, 20_000, 1_000_000
OTHERS, EACH = 16, 40
WARM_UP = 1_000
SPACE_STREAMS, SPACE_WRITERS, SPACE_BATCH = 2_000, 10, 5
SPACE_EVENTS = SPACE_STREAMS * SHORT
IMPORT_CALL = 50_000
AGGREGATES, AGGREGATE_SIZE = 20, 200


class Base:
    """Calls the adapter, which is async or blocking, and names streams."""

    def __init__(self, module, dsn):
        self.module = module
        self.dsn = dsn
        self.runs = 0

    async def call(self, function, *args):
        answer = getattr(self.module, function)(*args)
        return await answer if inspect.isawaitable(answer) else answer

    async def idle(self):
        """Nothing: the answer says that the store is set up."""
        return 1.0

    def stream(self, name):
        self.runs += 1
        return f"{name}-{self.runs}"

    def streams(self, name, number):
        return [self.stream(name) for _ in range(number)]

    async def at_once(self, writers):
        """A task or thread for each writer's list of appends; the seconds that each append took."""
        if inspect.iscoroutinefunction(self.module.append):
            taken = await asyncio.gather(*map(self._write, writers))
        else:
            with concurrent.futures.ThreadPoolExecutor(len(writers)) as pool:
                taken = list(pool.map(self._write_blocking, writers))
        return [seconds for one in taken for seconds in one]

    async def _write(self, appends):
        taken = []
        for append in appends:
            start = time.perf_counter()
            await self.module.append(*append)
            taken.append(time.perf_counter() - start)
        return taken

    def _write_blocking(self, appends):
        taken = []
        for append in appends:
            start = time.perf_counter()
            self.module.append(*append)
            taken.append(time.perf_counter() - start)
        return taken


class Appends(Base):
    """Writing."""

    async def append_1(self, events=300):
        start = time.perf_counter()
        for _ in range(events):
            await self.call("append", self.stream("one"), 0, [PAYLOAD])
        return events / (time.perf_counter() - start)

    async def append_1_by_16(self):
        return await self._append_by(16, 40)

    async def append_1_by_256(self):
        return await self._append_by(256, 4)

    async def _append_by(self, writers, each):
        appends = self._new_streams(writers, each)
        start = time.perf_counter()
        await self.at_once(appends)
        return writers * each / (time.perf_counter() - start)

    def _new_streams(self, writers, each):
        return [[(name, 0, [PAYLOAD]) for name in self.streams("by", each)] for _ in range(writers)]

    async def append_beside_16(self):
        """Milliseconds of one append: half of them take no longer, and 99 of 100."""
        seconds = await self.at_once(self._new_streams(1 + OTHERS, EACH))
        cuts = [1e3 * cut for cut in statistics.quantiles(seconds, n=100)]
        return {"append_p50": cuts[49], "append_p99": cuts[98], "p99_to_p50": cuts[98] / cuts[49]}

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

    async def import_many(self):
        return await self._import(IMPORTED)

    async def import_million(self):
        return await self._import(MILLION)

    async def _import(self, events):
        start = time.perf_counter()
        for first in range(0, events, IMPORT_CALL):
            streams = self.streams("imported", min(IMPORT_CALL, events - first) // SHORT)
            await self._import_streams(streams)
        return events / (time.perf_counter() - start)

    async def _import_streams(self, streams):
        """By the store's own way to write many streams at once; where it has none, by 16 writers."""
        if hasattr(self.module, "import_many"):
            await self.call("import_many", streams, [PAYLOAD] * SHORT)
        else:
            appends = [(stream, 0, [PAYLOAD] * SHORT) for stream in streams]
            await self.at_once([appends[writer::OTHERS] for writer in range(OTHERS)])

    async def interleave(self):
        """Streams that grow side by side, a few events at a time, to look at the space that they take."""
        names = [str(uuid.uuid4()) for _ in range(SPACE_STREAMS)]
        start = time.perf_counter()
        await self.at_once([self._little_by_little(names[w::SPACE_WRITERS]) for w in range(SPACE_WRITERS)])
        return SPACE_EVENTS / (time.perf_counter() - start)

    def _little_by_little(self, names):
        batch = [PAYLOAD_200] * SPACE_BATCH
        return [(name, start, batch) for name in names for start in range(0, SHORT, SPACE_BATCH)]


class Reads(Base):
    """Reading what `prepare` wrote."""

    long = short = ""

    async def prepare(self):
        """What is loaded: appended, and before the rest is filled in."""
        self.long, self.short = self.stream("long"), self.stream("short")
        for start in range(0, LONG, 500):
            await self.call("append", self.long, start, [PAYLOAD] * 500)
        await self.call("append", self.short, 0, [PAYLOAD] * SHORT)
        return 1.0

    async def fill(self):
        return self._fill(FILLED)

    async def fill_million(self):
        return self._fill(MILLION)

    def _fill(self, events):
        """Put events into the store's tables by SQL, in streams of 20, so that reading has enough to do."""
        start = time.perf_counter()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in self.module.FILL:
                values = {"streams": events // SHORT, "each": SHORT, "payload": compact(PAYLOAD)}
                connection.execute(statement, values)
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        return events / (time.perf_counter() - start)

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

    async def read_all(self):
        start = time.perf_counter()
        found = await self.call("read_all")
        return len(found) / (time.perf_counter() - start)


class Large(Reads, Appends):
    """Works on 1,000,000 events that nobody keeps: also the megabytes of memory that they take."""

    async def pass_by(self):
        """Look at every event and keep none."""
        await self.call("pass_by", WARM_UP)
        memory, start = PeakMemory(), time.perf_counter()
        number = await self.call("pass_by", MILLION)
        seconds = time.perf_counter() - start
        assert number == MILLION
        return {"pass_by": number / seconds, "memory_of_reading": memory.growth()}

    async def import_file(self):
        """A file of events, written by another process: it would leave its memory to this one."""
        with tempfile.TemporaryDirectory() as folder:
            small, large = Path(folder) / "small", Path(folder) / "large"
            for path, events in ((small, WARM_UP), (large, MILLION)):
                in_another_process(
                    self.module.write_file, path, path.name, events // SHORT, [PAYLOAD] * SHORT
                )
            await self.call("import_file", small)
            memory, start = PeakMemory(), time.perf_counter()
            await self.call("import_file", large)
            seconds = time.perf_counter() - start
        return {"import_file": MILLION / seconds, "memory_of_importing": memory.growth()}


class Projections(Base):
    """A read model of what `prepare` wrote: the adapter comes back with the time of the last commit."""

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


class Aggregates(Base):
    """Aggregates that are loaded, changed and stored, in aggregates per second."""

    aggregates = ()

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
        """One after the other; each has 200 events at first."""
        await self._make_aggregates()
        start = time.perf_counter()
        for name in self.aggregates:
            assert await self.call(how, name) >= AGGREGATE_SIZE - 1
        return AGGREGATES / (time.perf_counter() - start)

    async def _make_aggregates(self):
        if not self.aggregates:
            self.aggregates = self.streams("aggregate", AGGREGATES)
            for name in self.aggregates:
                await self.call("make", name, AGGREGATE_SIZE)


class Work(Large, Projections, Aggregates):
    """All of them, by name."""


class PeakMemory:
    """By how many megabytes the resident memory of this process grew at most, since this was made."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
        self._start = self._peak()

    def growth(self):
        return self._peak() - self._start

    def _peak(self):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def in_another_process(function, *args):
    process = get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0
