"""The runner: bad input, its ends, and errors where none is expected."""

import asyncio
import contextlib
import logging
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from k1s0_event_store import ConfigurationError, Cursor, EventEnvelope, FeedPage, StreamId
from k1s0_event_store.memory import InMemoryEventStore, InMemorySubscriptionStore
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.subscription import FailurePolicy, PartitionState, Projection, Subscriber
from k1s0_event_store.testing.runner_contract import eventually
from k1s0_event_store.worker import PartitionWorker, Watch


def shown(value):
    """The value without its address: a test has one name in all processes."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


ORDER = StreamId("order", "o-1")
LOGGER = "k1s0_event_store.subscriptions"


class Broken:
    """In the place of a method: raises, so many times or always, then calls the method."""

    def __init__(self, error, method=None, times=None):
        self.calls = 0
        self._error = error
        self._method = method
        self._times = times

    async def __call__(self, *args, **options):
        self.calls += 1
        if self._times is None or self.calls <= self._times:
            raise self._error
        return await self._method(*args, **options)


async def handle(event, session=None):
    """Nothing."""


@pytest.fixture
def store():
    return InMemoryEventStore()


@pytest.fixture
def storage(store):
    return InMemorySubscriptionStore(store)


def runner_of(store, storage, *subscriptions, **options):
    return SubscriptionRunner(
        store, storage, subscriptions, **{"lease_seconds": 0.3, "poll": (0.001, 0.02)} | options
    )


async def append(store, count=1):
    await store.append(ORDER, [EventEnvelope(ORDER, "Counted", {}) for _ in range(count)])


async def is_stopped(storage):
    statuses = await storage.statuses()
    return bool(statuses) and statuses[0].partitions[0].state is PartitionState.STOPPED


# Bad input


@pytest.mark.parametrize(
    "subscriptions",
    [
        [],
        None,
        handle,
        [handle],
        Projection("a", handle),
        [Projection("a", handle), Subscriber("a", handle)],
        [Projection("a", handle, version=2), Projection("b", handle), Projection("a", handle, version=2)],
    ],
    ids=shown,
)
def test_what_is_no_list_of_different_subscriptions_is_refused(store, storage, subscriptions):
    with pytest.raises(ConfigurationError, match="subscriptions"):
        SubscriptionRunner(store, storage, subscriptions)


@pytest.mark.parametrize(
    "options",
    [
        {"poll": (0, 1)},
        {"poll": (2, 1)},
        {"poll": (1,)},
        {"poll": 1},
        {"poll": ("1", "2")},
        {"lease_seconds": 0},
        {"lease_seconds": float("nan")},
        {"lease_seconds": None},
    ],
    ids=str,
)
def test_nonsense_as_times_is_refused(store, storage, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SubscriptionRunner(store, storage, [Projection("a", handle)], **options)


def test_two_versions_of_a_name_can_run_in_one_runner(store, storage):
    SubscriptionRunner(store, storage, [Projection("a", handle), Projection("a", handle, version=2)])


def test_every_runner_is_a_worker_of_its_own(store, storage):
    workers = {SubscriptionRunner(store, storage, [Projection("a", handle)]).worker for _ in range(10)}
    assert len(workers) == 10
    assert SubscriptionRunner(store, storage, [Projection("a", handle)], worker="w").worker == "w"


# Beginning and end


async def test_it_ends_although_it_had_not_begun(store, storage):
    async with asyncio.timeout(5), runner_of(store, storage, Projection("a", handle)) as runner:
        pass
    await runner.__aexit__(None, None, None)
    assert runner.notify(SimpleNamespace()) is None


async def test_run_ends_with_stop(store, storage):
    seen = []

    async def note(event, session):
        seen.append(event.version)
        asyncio.get_running_loop().call_soon(runner.stop)

    runner = runner_of(store, storage, Projection("a", note))
    await append(store)
    await asyncio.wait_for(runner.run(), 5)
    assert seen == [1]
    (status,) = await storage.statuses()
    assert (status.caught_up, status.partitions[0].owner) == (True, None)


async def test_a_run_that_is_cancelled_while_it_ends_leaves_a_runner_that_can_be_used_again(
    store, storage, monkeypatch
):
    handled, ending = [], asyncio.Event()

    async def ends_late():
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.Event().wait()

    async def count(event, session=None):
        handled.append(event.version)

    runner = runner_of(store, storage, Projection("totals", count))
    await append(store)
    with monkeypatch.context() as patched:
        patched.setattr(runner.watch, "run", ends_late)
        task = asyncio.create_task(runner.run())
        await eventually(lambda: handled == [1])
        runner.stop()
        await ending.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await append(store)
    await asyncio.wait_for(runner.run_until_caught_up(), 60)
    assert handled == [1, 2]


async def test_a_run_that_is_cancelled_gives_its_leases_back(store, storage):
    runner = runner_of(store, storage, Projection("a", handle, partitions=3))
    task = asyncio.create_task(runner.run())
    await append(store)
    await asyncio.sleep(0.02)
    (status,) = await storage.statuses()
    assert {partition.owner for partition in status.partitions} == {runner.worker}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (status,) = await storage.statuses()
    assert {partition.owner for partition in status.partitions} == {None}


async def test_one_subscription_that_cannot_run_ends_all(store, storage):
    await storage.register("b", 1, 2)
    runner = runner_of(store, storage, Projection("a", handle), Projection("b", handle))
    with pytest.raises(ConfigurationError, match="partitions"):
        await asyncio.wait_for(runner.run(), 5)

    async def in_the_background():
        async with runner:
            await asyncio.sleep(0.02)

    with pytest.raises(ConfigurationError, match="partitions"):
        await in_the_background()
    with pytest.raises(ConfigurationError, match="partitions"):
        await asyncio.wait_for(runner.run_until_caught_up(), 5)


async def test_leases_that_cannot_be_given_back_do_not_keep_it_from_ending(
    store, storage, monkeypatch, caplog
):
    monkeypatch.setattr(storage, "leave", Broken(ConnectionResetError()))
    await append(store)
    await runner_of(store, storage, Projection("a", handle)).run_until_caught_up()
    assert "leases could not be given back" in caplog.text


async def test_a_last_checkpoint_that_cannot_be_saved_does_not_keep_it_from_ending(
    store, storage, monkeypatch, caplog
):
    seen = []

    async def note(event):
        seen.append(event.version)
        if event.version == 2:
            runner.stop()

    await append(store, 5)
    monkeypatch.setattr(storage, "save", Broken(ConnectionResetError()))
    runner = runner_of(store, storage, Subscriber("a", note, batch_size=2))
    await asyncio.wait_for(runner.run(), 5)
    assert seen == [1, 2]
    assert "the last checkpoint could not be saved" in caplog.text


async def test_what_is_handled_is_counted_once_though_its_checkpoint_could_not_be_saved(
    store, storage, monkeypatch
):
    async def note(event):
        pass

    await append(store, 6)
    save, broken = storage.save, iter([True, True])

    async def failing(*arguments):
        if next(broken, False):
            raise ConnectionResetError
        await save(*arguments)

    monkeypatch.setattr(storage, "save", failing)
    subscriber = Subscriber("a", note, batch_size=3, concurrency=2, checkpoint_every=1)
    await asyncio.wait_for(runner_of(store, storage, subscriber).run_until_caught_up(), 20)
    (status,) = await storage.statuses("a")
    assert status.partitions[0].handled == 6


async def test_a_lease_lost_at_the_last_checkpoint_is_told(store, storage):
    notices = []

    async def note(event):
        await storage.pause("a")
        runner.stop()

    await append(store, 5)
    runner = runner_of(store, storage, Subscriber("a", note, batch_size=1), observe=notices.append)
    await asyncio.wait_for(runner.run(), 5)
    assert [notice.kind for notice in notices] == ["started", "handled", "ended", "lost"]


# Waking up


async def test_an_append_is_handled_at_once_where_the_store_listens(store, storage):
    async with runner_of(store, storage, Projection("a", handle), poll=(5, 60), lease_seconds=60):
        await asyncio.sleep(0.02)
        for version in (1, 2, 3):
            await append(store)
            await storage.wait_until("a", ORDER, version, within=1)


async def test_without_listening_an_append_is_found_by_looking(store, storage, monkeypatch):
    monkeypatch.setattr(storage, "listen", lambda wake: contextlib.nullcontext())
    async with runner_of(store, storage, Projection("a", handle, partitions=3), lease_seconds=60):
        await asyncio.sleep(0.02)
        for version in (1, 2, 3):
            await append(store)
            await storage.wait_until("a", ORDER, version, within=1)


async def test_a_watch_looks_less_and_less_often_while_there_is_nothing_new():
    times = []
    loop = asyncio.get_running_loop()

    class Store:
        async def latest_cursor(self):
            return Cursor("end")

        async def read_page(self, after, limit):
            times.append(loop.time())
            return SimpleNamespace(events=[], more=False, cursor=after)

    watching = asyncio.create_task(Watch(Store(), (0.001, 0.05), lambda: None).run())
    await asyncio.sleep(0.15)
    watching.cancel()
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert 4 < len(pauses) < 20
    assert pauses[-1] > 2 * pauses[0]


async def test_a_watch_that_cannot_look_wakes_those_who_can_tell():
    woken = asyncio.Event()
    store = SimpleNamespace(latest_cursor=Broken(ConnectionResetError("gone")))
    watching = asyncio.create_task(Watch(store, (0.001, 0.01), woken.set).run())
    await asyncio.wait_for(woken.wait(), 5)
    watching.cancel()


# Errors where none is expected


async def test_a_partition_whose_worker_fails_begins_anew(store, storage, monkeypatch, caplog):
    real = PartitionWorker._recover
    fails = Broken(RuntimeError("a bug"), real, times=1)

    async def recover(self, error):
        await fails(self, error)

    monkeypatch.setattr(PartitionWorker, "_recover", recover)
    errors = iter([OSError("first"), OSError("second")])

    async def weak(event, session):
        for error in errors:
            raise error

    await append(store)
    async with runner_of(store, storage, Projection("a", weak)):
        await asyncio.sleep(0.02)
        await storage.wait_until("a", ORDER, 1)
    assert fails.calls == 2
    assert "partition 0 failed" in caplog.text


async def test_an_outage_of_any_length_is_waited_for(store, storage):
    await storage.register("a", 1, 1)
    (lease,) = await storage.beat("a", 1, "w", 60)
    worker = PartitionWorker(
        Projection("a", handle), store, storage, lease, (1.0, 1.0), Watch(store, (1, 1), print), print
    )
    worker._errors = 10_000
    worker.stop()
    await worker._recover(OSError("down"))
    (status,) = await storage.statuses("a")
    assert status.partitions[0].error == "OSError: down"


async def test_a_replay_that_cannot_go_on_yet_does_not_spin(store, storage):
    await append(store)
    await storage.register("a", 1, 1)
    (lease,) = await storage.beat("a", 1, "w", 60)
    reads = 0

    async def read_page(after, limit, *, only, until):
        nonlocal reads
        reads += 1
        return FeedPage(Cursor("memory 0"), False, list, lambda position: until)

    behind = SimpleNamespace(read_page=read_page)
    lease = replace(lease, replay_until=Cursor("memory 1"))
    watch = Watch(behind, (1, 1), print)
    worker = PartitionWorker(Projection("a", handle), behind, storage, lease, (1, 1), watch, print)
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    worker.stop()
    await task
    assert (reads, worker.reads_to_the_end) == (1, 0)


async def test_a_policy_that_fails_itself_counts_as_a_no(store, storage, caplog):
    def is_transient(error):
        raise RuntimeError("of the judge")

    async def fails(event, session):
        raise ValueError("of the handler")

    await append(store)
    policy = FailurePolicy(attempts=1, is_transient=is_transient)
    await runner_of(store, storage, Projection("a", fails, failure=policy)).run_until_caught_up()
    (parked,) = await storage.parked()
    assert parked.error == "ValueError: of the handler"
    assert "is_transient failed" in caplog.text


async def test_a_predicate_that_fails_stops_the_partition_with_its_reason(store, storage):
    async with runner_of(store, storage, Projection("a", handle, where=lambda event: event.payload["x"])):
        await append(store)
        await eventually(lambda: is_stopped(storage))
    (status,) = await storage.statuses()
    assert status.partitions[0].error == "KeyError: 'x'"


async def test_what_happens_is_logged(store, storage, caplog):
    async def fails(event, session):
        raise ValueError("no")

    await append(store)
    caplog.set_level(logging.INFO, LOGGER)
    policy = FailurePolicy(attempts=1)
    await runner_of(store, storage, Projection("a", fails, failure=policy)).run_until_caught_up()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "a version 1 partition 0 parked version 1 of order-o-1 (Counted)"
    assert record.exc_info is not None
