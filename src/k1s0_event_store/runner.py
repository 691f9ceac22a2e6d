"""Running subscriptions: leases kept alive, partitions at work, an end in which nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Self
from uuid import uuid4

from k1s0_event_store.delivery import Notice, place_fields
from k1s0_event_store.exceptions import (
    ConfigurationError,
    LeaseLostError,
    SubscriptionError,
    SubscriptionNotFoundError,
)
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import Lease, Subscription, SubscriptionStore
from k1s0_event_store.waiting import wait_for_event
from k1s0_event_store.worker import PartitionWorker, Watch

logger = logging.getLogger("k1s0_event_store.subscriptions")


class _Group:
    """The partitions of one subscription that this process works on."""

    def __init__(self, runner: SubscriptionRunner, subscription: Subscription) -> None:
        self.subscription = subscription
        self.workers: dict[int, PartitionWorker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._runner = runner
        self._bell = asyncio.Event()
        self._stopping = False
        self._registered = False

    async def run(self) -> None:
        """Keep the leases alive and a worker on each of them, also while the workers come to their end."""
        try:
            while not self._stopping or self._tasks:
                self._bell.clear()
                await self._try_beat()
                if self._stopping:
                    self._stop_workers()
                if self._tasks or not self._stopping:
                    await wait_for_event(self._bell, self._runner.lease_seconds / 3)
        finally:
            await self._cancel(list(self._tasks))
            await self._leave()

    def stop(self) -> None:
        """Let the workers finish what they have in hand, then end."""
        self._stopping = True
        self._stop_workers()
        self._bell.set()

    def wake(self) -> None:
        """Let the workers look at the feed."""
        for worker in self.workers.values():
            worker.bell.set()

    def _stop_workers(self) -> None:
        for worker in self.workers.values():
            worker.stop()

    async def _try_beat(self) -> None:
        try:
            await self._beat()
        except ConfigurationError:
            raise
        except Exception as error:
            # The leases last a while, and the next beat may work. Somebody may have removed the rows.
            self._registered = self._registered and not isinstance(error, SubscriptionNotFoundError)
            subscription = self.subscription
            logger.warning(
                "%r: no beat of the heart", subscription, exc_info=error, extra=place_fields(subscription)
            )
            self._runner.notify(Notice("waiting", subscription.name, subscription.version, -1, error=error))

    async def _beat(self) -> None:
        runner, subscription = self._runner, self.subscription
        one = (subscription.name, subscription.version)
        if not self._registered:
            await runner.storage.register(*one, subscription.partitions, repeats=subscription.repeats)
            self._registered = True
        valid_until = monotonic() + runner.lease_seconds
        leases = {
            lease.partition: lease
            for lease in await runner.storage.beat(*one, runner.worker, runner.lease_seconds)
        }
        await self._cancel([p for p, worker in self.workers.items() if not _is_same(leases.get(p), worker)])
        for partition, lease in leases.items():
            if lease.surplus:
                await self._hand_over(lease)
            elif partition not in self.workers and not self._stopping:
                self._start(lease)
            if partition in self.workers:
                self.workers[partition].renew(lease, valid_until)

    def _start(self, lease: Lease) -> None:
        runner = self._runner
        worker = PartitionWorker(
            self.subscription, runner.store, runner.storage, lease, runner.poll, runner.watch, runner.notify
        )
        self.workers[lease.partition] = worker
        self._tasks[lease.partition] = asyncio.create_task(self._work(worker, lease))

    async def _work(self, worker: PartitionWorker, lease: Lease) -> None:
        try:
            await worker.run()
        except LeaseLostError as error:
            logger.warning("%s", error, extra=place_fields(lease))
            worker.report("lost", error)
        except Exception as error:
            # It begins anew with the next beat, not at once: the same may happen again.
            logger.exception(
                "%r: partition %d failed", self.subscription, lease.partition, extra=place_fields(lease)
            )
            worker.report("waiting", error)
            return
        finally:
            self._forget(lease.partition)
        self._bell.set()

    def _forget(self, partition: int) -> None:
        self.workers.pop(partition, None)
        self._tasks.pop(partition, None)

    async def _hand_over(self, lease: Lease) -> None:
        """Another process is to have the partition, once the page in hand is done."""
        worker = self.workers.get(lease.partition)
        if worker is None:
            await self._runner.storage.release(lease)
        else:
            worker.stop()

    async def _cancel(self, partitions: Sequence[int]) -> None:
        """End workers at once: what they have in hand cannot be saved any more, or must not be waited for."""
        tasks = [self._tasks[partition] for partition in partitions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for partition in partitions:  # those that had not begun yet
            self._forget(partition)

    async def _leave(self) -> None:
        subscription = self.subscription
        try:
            await self._runner.storage.leave(subscription.name, subscription.version, self._runner.worker)
        except Exception:
            logger.warning(
                "%r: leases could not be given back", subscription,
                exc_info=True, extra=place_fields(subscription),
            )  # fmt: skip


def _is_same(lease: Lease | None, worker: PartitionWorker) -> bool:
    return lease is not None and lease.token == worker.lease.token


def _check_subscriptions(subscriptions: Sequence[Subscription]) -> None:
    good = isinstance(subscriptions, Sequence) and all(isinstance(one, Subscription) for one in subscriptions)
    names = [(one.name, one.version) for one in subscriptions] if good else []
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            "give the runner a list of one or more subscriptions, each name and version once"
        )


def _check_times(poll: tuple[float, float], lease_seconds: float) -> None:
    try:
        shortest, longest = poll
        good = 0 < shortest <= longest and lease_seconds > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ConfigurationError("poll must be two times in seconds, lease_seconds above 0")


class SubscriptionRunner:
    """Runs projections and subscribers in this process, and shares their partitions with other processes.

    `run()` works until `stop()`, then finishes the pages in hand and saves. As a context manager it
    runs in the background. `lease_seconds`: how long the partitions of a process that died stay with
    it. `poll`: seconds between two looks at the feed when there is nothing new, at first and at most.
    `observe` is told what happens (for metrics); its errors are logged.
    """

    def __init__(
        self,
        store: EventStore,
        storage: SubscriptionStore,
        subscriptions: Sequence[Subscription],
        *,
        worker: str | None = None,
        lease_seconds: float = 15.0,
        poll: tuple[float, float] = (0.02, 1.0),
        observe: Callable[[Notice], object] | None = None,
    ) -> None:
        _check_subscriptions(subscriptions)
        _check_times(poll, lease_seconds)
        self.store = store
        self.storage = storage
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}" if worker is None else worker
        self.lease_seconds = lease_seconds
        self.poll = poll
        self._observe = observe
        self.watch = Watch(store, poll, self.wake)
        self.subscriptions = tuple(subscriptions)
        self._groups = self._new_groups()
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work until `stop()`. Raises ConfigurationError; on cancellation it ends at once."""
        async with self.storage.listen(self.wake):
            watching = asyncio.create_task(self.watch.run())
            tasks = [asyncio.create_task(group.run()) for group in self._groups]
            try:
                await asyncio.gather(*tasks)
            finally:
                tasks.append(watching)
                for task in tasks:
                    task.cancel()
                try:
                    await asyncio.gather(*tasks, return_exceptions=True)
                finally:  # this wait may be cancelled, too; the old ones would count as caught up
                    self._groups = self._new_groups()

    def stop(self) -> None:
        """Let `run` end after the pages in hand; safe to call from a signal handler of the event loop."""
        for group in self._groups:
            group.stop()

    def wake(self) -> None:
        """Look at the feed now: something was appended."""
        for group in self._groups:
            group.wake()

    async def run_until_caught_up(self) -> None:
        """Work until every partition has read to the end of the feed, then stop: for tests and batch jobs.

        Needs all partitions for itself; waits for those that other processes hold. Raises
        SubscriptionError if one is paused, or stopped by an error.
        """
        async with self:
            while not all(self._is_caught_up(group) for group in self._groups):
                if self._task is None or self._task.done():
                    break
                await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            if not task.done():
                self.stop()
            await task

    def notify(self, notice: Notice) -> None:
        """Tell the observer."""
        if self._observe is not None:
            try:
                self._observe(notice)
            except Exception:
                logger.exception("the observer failed on %s", notice, extra=place_fields(notice))

    def _new_groups(self) -> list[_Group]:
        return [_Group(self, subscription) for subscription in self.subscriptions]

    def _is_caught_up(self, group: _Group) -> bool:
        workers = group.workers.values()
        if any(not worker.lease.active for worker in workers):
            raise SubscriptionError(f"{group.subscription} is paused or stopped: its status says why")
        return len(workers) == group.subscription.partitions and all(w.reads_to_the_end for w in workers)
