"""Calls of the stores' public coroutine methods, to be cancelled, and what must hold afterwards.

A case is an async generator. It prepares with `world.store`, yields the call on what is tested (alone or
within a session), and when that was cancelled goes on with what must hold then.
"""

import inspect
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from k1s0_event_store import (
    AggregateRoot,
    ConcurrencyError,
    Decider,
    DeciderRepository,
    EventRegistry,
    Message,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    Repository,
    StreamId,
    TypedEventStore,
)
from k1s0_event_store.message import OUTBOX
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.subscription import Progress
from k1s0_event_store.testing.contract import new_events, versions

LONG = StreamId("order", "long")
LENGTH = 250
"""Events of LONG: it has several pages."""


class Calls:
    """Cases by method. `without_waiting`: public functions that wait for nothing."""

    def __init__(self, kind, *without_waiting):
        self._kind = kind
        self._without_waiting = set(without_waiting)
        self._cases = defaultdict(list)

    def of(self, method):
        def add(case):
            self._cases[method].append(case)
            return case

        return add

    def reads(self, method, read):
        """A call that changes nothing: after it was cancelled it answers as before."""

        async def case(world, called):
            before = await read(world, called)
            yield read(world, called)
            assert await read(world, called) == before

        self._cases[method].append(case)

    def differences(self):
        """Public methods without a case, and cases without a public method."""
        public = {
            name
            for name in dir(self._kind)
            if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(self._kind, name))
        }
        return (public - self._without_waiting) ^ self._cases.keys()

    def named(self, *without):
        """The cases by name, without those of some methods."""
        return {
            f"{method}-{number}": case
            for method, cases in self._cases.items()
            if method not in without
            for number, case in enumerate(cases, 1)
        }


async def all_of(iterator):
    return [event.version async for event in iterator]


# The event store

EVENTS = Calls(PostgresEventStore, "within")


def appending(count, expected):
    async def case(world, called):
        batch = new_events(world.stream, count)
        yield called.append(world.stream, batch, expected)
        assert len(await called.load(world.stream)) in (0, count)
        assert await called.append(world.stream, batch, expected) == count
        assert versions(await called.load(world.stream)) == list(range(1, count + 1))

    return case


for _count, _expected in ((1, None), (3, 0), (3, None), (500, 0), (500, None)):
    EVENTS.of("append")(appending(_count, _expected))


@EVENTS.of("append")
async def append_nothing(world, called):
    yield called.append(world.stream, [], 0)
    assert await called.append(world.stream, [], 0) == 0


@EVENTS.of("append")
async def append_again(world, called):
    """The first answer is looked up: two queries."""
    batch = new_events(world.stream, 3)
    assert await world.store.append(world.stream, batch) == 3
    yield called.append(world.stream, batch)
    assert await called.append(world.stream, batch) == 3
    assert await called.current_version(world.stream) == 3


@EVENTS.of("import_batch")
async def import_streams(world, called):
    batch = await world.copies(2)
    yield called.import_batch(batch)
    await world.finish(called, batch)


@EVENTS.of("import_batch")
async def import_what_is_stored_in_part(world, called):
    """Refused at first, then what is missing."""
    batch = await world.copies(2)
    assert await world.store.import_batch(batch[:3]) == 3
    yield called.import_batch(batch)
    await world.finish(called, batch)


@EVENTS.of("enqueue")
async def enqueue(world, called):
    message = Message("orders", world.stream.aggregate_id, b"{}")
    yield called.enqueue(message)
    await called.enqueue(message)
    assert await called.current_version(StreamId(OUTBOX, message.key)) == 1


@EVENTS.of("lock")
async def lock(world, called):
    yield called.lock(world.stream, 30)
    assert await called.lock(world.stream, 30) == 0


@EVENTS.of("lock")
async def lock_without_limit(world, called):
    await world.store.append(world.stream, new_events(world.stream, 1))
    yield called.lock(world.stream)
    assert await called.lock(world.stream) == 1


EVENTS.reads("load", lambda _world, store: store.load(LONG, limit=3))
EVENTS.reads("stream", lambda _world, store: all_of(store.stream(LONG)))
EVENTS.reads("current_version", lambda _world, store: store.current_version(LONG))
EVENTS.reads("exists", lambda _world, store: store.exists(LONG))
EVENTS.reads("latest_cursor", lambda _world, store: kind_of(store.latest_cursor()))
EVENTS.reads("read_page", lambda _world, store: ids_of_page(store.read_page(None, 5)))
EVENTS.reads("read_all", lambda _world, store: all_of(store.read_all(aggregate_types=["order"])))
EVENTS.reads("replay", lambda _world, store: store.replay(LONG, lambda count, _event: count + 1, 0))
EVENTS.reads("validate", lambda _world, store: store.validate())
EVENTS.reads(
    "load_since_snapshot", lambda world, store: store.load_since_snapshot(LONG, world.snapshots, limit=3)
)


async def kind_of(call):
    return type(await call)


async def ids_of_page(call):
    return [event.event_id for event in (await call).events]


async def closing(world, called):
    """Of a store of its own; `called` only says of which kind."""
    store = world.another(called)
    await store.validate()
    yield store.close()
    await store.close()


EVENTS.of("close")(closing)


# Snapshots

SNAPSHOTS = Calls(PostgresSnapshotStore, "within", "is_due")
SNAPSHOTS.of("close")(closing)
SNAPSHOTS.reads("validate", lambda _world, snapshots: snapshots.validate())
SNAPSHOTS.reads("load_latest", lambda _world, snapshots: snapshots.load_latest(LONG))


@SNAPSHOTS.of("save")
async def save_snapshot(world, snapshots):
    yield snapshots.save(world.stream, 1, {"n": 1})
    await snapshots.save(world.stream, 1, {"n": 2})
    assert (await snapshots.load_latest(world.stream)).state == {"n": 2}


# Keys

KEYS = Calls(PostgresKeyStore, "within")
KEYS.of("close")(closing)
KEYS.reads("validate", lambda _world, keys: keys.validate())


@KEYS.of("for_subjects")
async def make_keys(world, keys):
    subject = world.stream.aggregate_id
    yield keys.for_subjects([subject])
    assert await keys.for_subjects([subject]) == await keys.for_subjects([subject])


@KEYS.of("find")
async def find_keys(world, keys):
    made = await world.keys.for_subjects(["customer"])
    ids = [key.key_id for key in made.values()]
    yield keys.find(ids)
    assert [*(await keys.find(ids)).values()] == [*made.values()]


@KEYS.of("forget")
async def forget_keys(world, keys):
    subject = world.stream.aggregate_id
    ids = [key.key_id for key in (await world.keys.for_subjects([subject])).values()]
    yield keys.forget(subject)
    await keys.forget(subject)
    assert await keys.find(ids) == {}


@KEYS.of("rotate")
async def rotate_keys(world, keys):
    made = await world.old_keys.for_subjects([world.stream.aggregate_id])
    yield keys.rotate()
    await keys.rotate()
    assert [*(await keys.for_subjects(made)).values()] == [*made.values()]


# Inbox: its methods take the session

INBOX = Calls(PostgresInbox)


@INBOX.of("once")
async def handle_once(world, inbox):
    message = world.stream.aggregate_id

    async def handle():
        async with inbox.once(world.session, message) as is_new:
            return is_new

    yield handle()
    await handle()
    assert await handle() is False


@INBOX.of("forget")
async def forget_marks(world, inbox):
    yield inbox.forget(world.session, datetime(2000, 1, 1, tzinfo=UTC))
    assert await inbox.forget(world.session, datetime(2000, 1, 1, tzinfo=UTC)) == 0


# Subscriptions

SUBSCRIPTIONS = Calls(PostgresSubscriptionStore, "within", "is_transient")
SUBSCRIPTIONS.of("close")(closing)
SUBSCRIPTIONS.reads("validate", lambda _world, storage: storage.validate())
SUBSCRIPTIONS.reads("statuses", lambda _world, storage: kind_of(storage.statuses()))
SUBSCRIPTIONS.reads("parked", lambda _world, storage: storage.parked())


def on_a_lease(method):
    """A case with a lease, and an event that is parked."""

    def add(steps):
        async def case(world, storage):
            lease = await world.lease()
            async for call in steps(world, storage, lease):
                yield call

        SUBSCRIPTIONS.of(method)(case)
        return case

    return add


async def partition_of(storage, lease):
    (status,) = await storage.statuses(lease.name)
    return status.partitions[0]


async def is_free(storage, lease):
    return (await partition_of(storage, lease)).owner is None


async def has_no_parked(storage, lease):
    return await storage.parked(lease.name) == []


async def has_one_to_retry(storage, lease):
    return len(await storage.to_retry(lease)) == 1


async def has_failed(storage, lease):
    return (await partition_of(storage, lease)).error == "no"


async def works(storage, lease):
    return [one.active for one in await storage.beat(lease.name, 1, "w", 60)] == [True]


async def rests(storage, lease):
    return not await works(storage, lease)


async def nothing(_world, _storage, _lease):
    pass


async def with_a_parked_event(world, _storage, lease):
    await world.park(lease)


async def paused(_world, storage, lease):
    await storage.pause(lease.name)


def repeated(method, call, is_done, begin=nothing):
    """A case of a call that may be made again, done or not, and then is done."""

    @on_a_lease(method)
    async def case(world, storage, lease):
        await begin(world, storage, lease)
        yield call(storage, lease)
        await call(storage, lease)
        assert await is_done(storage, lease)


repeated("release", lambda storage, lease: storage.release(lease), is_free)
repeated("leave", lambda storage, lease: storage.leave(lease.name, 1, "w"), is_free)
repeated("unpark", lambda storage, lease: storage.unpark(lease, LONG, 1), has_no_parked, with_a_parked_event)
repeated(
    "drop_parked", lambda storage, lease: storage.drop_parked(lease.name), has_no_parked, with_a_parked_event
)
repeated("reset", lambda storage, lease: storage.reset(lease.name), has_no_parked, with_a_parked_event)
repeated(
    "retry_parked",
    lambda storage, lease: storage.retry_parked(lease.name),
    has_one_to_retry,
    with_a_parked_event,
)
repeated("fail", lambda storage, lease: storage.fail(lease, "no", False), has_failed)
repeated("pause", lambda storage, lease: storage.pause(lease.name), rests)
repeated("resume", lambda storage, lease: storage.resume(lease.name), works, paused)


@on_a_lease("register")
async def register(world, storage, lease):
    yield storage.register(lease.name, 2, 1)
    await storage.register(lease.name, 2, 1)
    assert [status.version for status in await storage.statuses(lease.name)] == [1, 2]


@on_a_lease("beat")
async def beat_of_another(_world, storage, lease):
    yield storage.beat(lease.name, 1, "another", 60)
    assert await storage.beat(lease.name, 1, "another", 60) == []


@on_a_lease("beat")
async def first_beat(_world, storage, lease):
    await storage.register(lease.name, 2, 2)
    yield storage.beat(lease.name, 2, "w", 60)
    assert len(await storage.beat(lease.name, 2, "w", 60)) == 2


@on_a_lease("reload")
async def reload(_world, storage, lease):
    yield storage.reload(lease)
    assert (await storage.reload(lease)).token == lease.token


@on_a_lease("save")
async def save_checkpoint(world, storage, lease):
    cursor = await world.store.latest_cursor()
    yield storage.save(lease, Progress(cursor, 1))
    stored = await storage.reload(lease)
    assert stored.cursor in (None, cursor)
    await storage.save(stored, Progress(cursor, 1))
    assert (await storage.reload(lease)).cursor == cursor


@on_a_lease("transaction")
async def save_in_a_transaction(world, storage, lease):
    cursor = await world.store.latest_cursor()
    events = await world.store.load(LONG, limit=1)

    async def work():
        async with storage.transaction() as transaction:
            await storage.park(lease, events, "no", 1, transaction)
            await storage.save(lease, Progress(cursor, 1), transaction)

    yield work()
    is_saved = (await storage.reload(lease)).cursor == cursor
    assert bool(await storage.parked_streams(lease)) is is_saved


@on_a_lease("park")
async def park(world, storage, lease):
    events = await world.store.load(LONG, limit=2)
    yield storage.park(lease, events, "no", 1)
    await storage.park(lease, events, "no", 1)
    assert await storage.parked_streams(lease) == {LONG}


@on_a_lease("parked_streams")
async def parked_streams(world, storage, lease):
    await world.park(lease)
    yield storage.parked_streams(lease)
    assert await storage.parked_streams(lease) == {LONG}


@on_a_lease("to_retry")
async def to_retry(world, storage, lease):
    await world.park(lease)
    yield storage.to_retry(lease)
    assert await storage.to_retry(lease) == []


@on_a_lease("live_version")
async def live_version(_world, storage, lease):
    yield storage.live_version(lease.name)
    assert await storage.live_version(lease.name) == 1


@on_a_lease("switch")
async def switch(_world, storage, lease):
    await storage.register(lease.name, 2, 1)
    yield storage.switch(lease.name, 2)
    paused = [one.partitions[0].state.value for one in await storage.statuses(lease.name)]
    await storage.switch(lease.name, 2)
    assert await storage.live_version(lease.name) == 2, paused


@on_a_lease("remove")
async def remove(_world, storage, lease):
    await storage.register(lease.name, 2, 1)
    yield storage.remove(lease.name, 2)
    assert len(await storage.statuses(lease.name)) in (1, 2)


@on_a_lease("has_handled")
async def has_handled(_world, storage, lease):
    yield storage.has_handled(lease.name, LONG, 1)
    assert await storage.has_handled(lease.name, LONG, 1) is False


@on_a_lease("wait_until")
async def wait_until(world, storage, lease):
    await world.subscriptions.save(lease, Progress(await world.store.latest_cursor(), 1))
    yield storage.wait_until(lease.name, LONG, 1, within=60)
    await storage.wait_until(lease.name, LONG, 1, within=60)


@on_a_lease("listen")
async def listen(_world, storage, _lease):
    async def hear():
        async with storage.listen(lambda: None):
            pass

    yield hear()
    await hear()


# Typed events and aggregates

REGISTRY = EventRegistry()


@REGISTRY.register("Counted")
@dataclass(frozen=True)
class Counted:
    n: int


@dataclass
class Counter(AggregateRoot):
    aggregate_type = "order"
    total: int = 0

    def count(self):
        self.record(Counted(1))
        self.record(Counted(2))

    def apply(self, event):
        self.total += event.n


COUNTING = Decider(
    "order", lambda: 0, lambda total, event: total + event.n, lambda n, _total: [Counted(n)] * 2
)

TYPED = Calls(TypedEventStore, "within", "handler")
TYPED.reads("load", lambda _world, store: store.load(LONG, limit=3))
TYPED.reads("stream", lambda _world, store: all_of(store.stream(LONG)))
TYPED.reads("read_all", lambda _world, store: all_of(store.read_all(event_types=["Counted"])))
TYPED.reads("replay", lambda _world, store: store.replay(LONG, lambda count, _event: count + 1, 0))
TYPED.reads("decoded", lambda _world, store: pairs_of(store.decoded(LONG)))


async def pairs_of(iterator):
    return [(stored.version, len(events)) async for stored, events in iterator]


@TYPED.of("append")
async def append_objects(world, typed):
    yield typed.append(world.stream, [Counted(1), Counted(2)])
    assert await world.store.current_version(world.stream) in (0, 2)


for _method in ("decode", "decoded_pairs"):

    @TYPED.of(_method)
    async def decode(world, typed, method=_method):
        stored = await world.store.load(LONG, limit=2)
        yield getattr(typed, method)(stored)
        assert len(await getattr(typed, method)(stored)) == 2


@TYPED.of("envelopes")
async def envelopes(world, typed):
    yield typed.envelopes(world.stream, [Counted(1)])
    assert len(await typed.envelopes(world.stream, [Counted(1)])) == 1


AGGREGATES = Calls(Repository, "within", "stream_id")
DECIDERS = Calls(DeciderRepository, "within", "stream_id")


def deciding(decide):
    """Two events by one decision, whole or not; then two more by the next."""

    async def case(world, repository):
        yield decide(repository, world.stream.aggregate_id)
        before = await world.store.current_version(world.stream)
        assert before in (0, 2)
        await decide(repository, world.stream.aggregate_id)
        assert await world.store.current_version(world.stream) == before + 2

    return case


AGGREGATES.of("transact")(deciding(lambda repository, name: repository.transact(name, Counter.count)))
DECIDERS.of("transact")(
    deciding(lambda repository, name: repository.transact(name, lambda _: [Counted(1)] * 2))
)
DECIDERS.of("execute")(deciding(lambda repository, name: repository.execute(name, 1)))


@AGGREGATES.of("save")
async def save_aggregate(world, repository):
    """Saved again it is saved once, or the conflict tells that it was."""
    counter = Counter(world.stream.aggregate_id)
    counter.count()
    yield repository.save(counter)
    assert await world.store.current_version(world.stream) in (0, 2)
    with suppress(ConcurrencyError):
        await repository.save(counter)
    assert await world.store.current_version(world.stream) == 2


async def version_of(call):
    return (await call).version


def closing_after(work):
    async def case(world, repository):
        await work(repository, world.stream.aggregate_id)
        yield repository.close()
        await repository.close()

    return case


for _calls in (AGGREGATES, DECIDERS):
    _calls.reads("load", lambda _world, repository: version_of(repository.load(LONG.aggregate_id)))
AGGREGATES.of("close")(closing_after(lambda repository, name: repository.transact(name, lambda _: None)))
DECIDERS.of("close")(closing_after(lambda repository, name: repository.execute(name, 1)))
