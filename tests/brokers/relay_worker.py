"""Relays to Redis as processes of their own, each of which kills itself, or falls asleep, at a chosen step.

A line of its stdin is what `relay` takes.
"""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

from redis.asyncio.connection import AbstractConnection

from k1s0_event_store import (
    CloudEvents,
    EventStoreConfig,
    FailurePolicy,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Relay,
    SubscriptionRunner,
)
from k1s0_event_store.brokers.redis import RedisPublisher
from tests.forking import serve

LEASE_SECONDS = 0.3
BATCH_SIZE = 50
CHECKPOINT_EVERY = 100
SEND = AbstractConnection.send_packed_command


class Fate:
    """What happens to this process, and where: `signal` comes when it is at `step` for the `nth` time."""

    def __init__(self, step, nth, signal):
        self._step = step
        self._left = nth
        self._signal = signal

    def at(self, step):
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


class FatedStore(PostgresEventStore):
    fate: Fate

    async def read_page(self, after=None, limit=500, **options):
        if not options:  # somebody who looks whether there is more
            return await super().read_page(after, limit)
        self.fate.at("before a page is read")
        page = await super().read_page(after, limit, **options)
        self.fate.at("after a page is read")
        return page


class FatedSubscriptionStore(PostgresSubscriptionStore):
    fate: Fate
    _parks = False

    @asynccontextmanager
    async def transaction(self):
        self._parks = False
        async with super().transaction() as transaction:
            yield transaction
        if self._parks:
            self.fate.at("after the commit of what is parked")

    async def save(self, lease, progress, transaction=None):
        if transaction is not None:
            await super().save(lease, progress, transaction)
            return
        self.fate.at("before the checkpoint is saved")
        async with self.transaction() as own:
            await super().save(lease, progress, own)
            self.fate.at("before the commit of the checkpoint")
        self.fate.at("after the commit of the checkpoint")

    async def park(self, *what):
        self._parks = True
        self.fate.at("before a message is parked")
        await super().park(*what)
        self.fate.at("before the commit of what is parked")

    async def leave(self, *who):
        self.fate.at("before it leaves")
        await super().leave(*who)
        self.fate.at("after it has left")


class FatedPublisher(RedisPublisher):
    fate: Fate

    async def publish(self, message):
        self.fate.at("before a message is handed over")
        await super().publish(message)
        self.fate.at("after a message is acknowledged")


async def relay(dsn, url, topic, step=None, nth=1, signal=signal.SIGKILL):
    """Publish what there is. A message of an event that is marked as refused goes where Redis refuses it."""
    fate = FatedStore.fate = FatedSubscriptionStore.fate = FatedPublisher.fate = Fate(step, nth, signal)

    async def send(connection, *arguments, **options):
        await SEND(connection, *arguments, **options)
        fate.at("after messages are sent, before the acknowledgement")

    AbstractConnection.send_packed_command = send
    cloud_event = CloudEvents("/shop", topic=topic)

    def to_message(event):
        message = cloud_event(event)
        return replace(message, topic=f"{topic}.text") if event.payload.get("refused") else message

    async with (
        FatedStore(EventStoreConfig(dsn=dsn)) as store,
        FatedSubscriptionStore(bind=store.bind) as storage,
        FatedPublisher(url, timeout=5) as publisher,
    ):
        relaying = Relay(
            publisher,
            to_message,
            batch_size=BATCH_SIZE,
            checkpoint_every=CHECKPOINT_EVERY,
            checkpoint_seconds=60,
            failure=FailurePolicy(attempts=2, wait=0.01, longest_wait=0.01),
        )
        runner = SubscriptionRunner(
            store, storage, [relaying], lease_seconds=LEASE_SECONDS, poll=(0.01, 0.05)
        )
        await runner.run_until_caught_up()


def run(**what):
    asyncio.run(relay(**what))


if __name__ == "__main__":
    serve(run)
