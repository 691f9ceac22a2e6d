"""Subscriptions as values, and what only the store in memory has: its clock, its commit, its log."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from k1s0_event_store import (
    ConfigurationError,
    Cursor,
    EventEnvelope,
    EventFilter,
    InvalidInputError,
    LeaseLostError,
    StreamId,
)
from k1s0_event_store.delivery import describe
from k1s0_event_store.memory import InMemoryEventStore, InMemorySubscriptionStore
from k1s0_event_store.subscription import (
    MAX_PARTITIONS,
    FailurePolicy,
    Handler,
    PartitionState,
    PartitionStatus,
    Progress,
    Projection,
    Subscriber,
    SubscriptionStatus,
    fair_share,
)

ORDER = StreamId("order", "o-1")


async def handle(event, session=None):
    """Nothing."""


class Many:
    async def handle_batch(self, events, session=None):
        """Nothing."""


# Values


@pytest.mark.parametrize("kind", [Projection, Subscriber])
def test_a_subscription_is_shown_by_its_name_and_version(kind):
    assert repr(kind("delays", handle, version=3)) == f"{kind.__name__}('delays', version=3)"


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x00b", None, 7])
def test_a_name_must_be_text_of_a_sensible_length(name):
    with pytest.raises(InvalidInputError, match="subscription's name"):
        Projection(name, handle)


@pytest.mark.parametrize(
    "options",
    [
        {"version": 0},
        {"version": "1"},
        {"version": True},
        {"partitions": 0},
        {"partitions": MAX_PARTITIONS + 1},
        {"partitions": 1.5},
        {"batch_size": 0},
        {"batch_size": 10_001},
        {"aggregate_types": "order"},
        {"event_types": [""]},
        {"event_types": [7]},
    ],
    ids=str,
)
def test_nonsense_as_an_option_of_a_subscription_is_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        Projection("delays", handle, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_every": 0},
        {"checkpoint_every": None},
        {"checkpoint_seconds": -1},
        {"checkpoint_seconds": "1"},
        {"checkpoint_seconds": float("nan")},
    ],
    ids=str,
)
def test_nonsense_as_an_option_of_a_subscriber_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Subscriber("delays", handle, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"wait": -1},
        {"wait": "1"},
        {"wait": float("nan")},
        {"wait": 2, "longest_wait": 1},
        {"longest_wait": None},
        {"longest_wait": float("inf")},
        {"attempts": 10**5_000},
        {"longest_wait": 10**5_000},
    ],
    ids=lambda options: next(iter(options)),
)
def test_nonsense_as_a_failure_policy_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        FailurePolicy(**options)


@pytest.mark.parametrize("handler", [None, 7, "handle", object(), Many, FailurePolicy])
def test_what_cannot_handle_events_is_refused(handler):
    with pytest.raises(ConfigurationError, match="handle"):
        Projection("delays", handler)


def test_a_handler_for_many_is_known_by_its_method_or_its_option():
    assert Handler.of(Many(), batch=False).batch
    assert Handler.of(handle, batch=True).batch
    assert not Handler.of(handle, batch=False).batch


def test_each_partition_reads_its_share_of_what_is_wanted():
    projection = Projection("delays", handle, partitions=3, aggregate_types=["plane"], event_types=["Late"])
    assert projection.filter_for(2) == EventFilter(("plane",), ("Late",), 2, 3)


def test_a_fair_share_gives_the_first_workers_one_more():
    shares = [fair_share(7, ["a", "b", "c"], worker) for worker in "abc"]
    assert shares == [3, 2, 2]
    assert fair_share(1, ["a", "b"], "b") == 0


def test_a_subscription_is_caught_up_when_each_partition_is():
    def partition(behind):
        return PartitionStatus(
            0, PartitionState.RUNNING, "w", None, 0, behind, 0.0, False, None, None
        )  # fmt: skip

    assert partition(0).caught_up
    assert not partition(1).caught_up
    assert SubscriptionStatus("delays", 1, True, (partition(0), partition(0)), 0).caught_up
    assert not SubscriptionStatus("delays", 1, True, (partition(0), partition(2)), 0).caught_up


def test_an_error_is_described_in_text_that_can_be_stored():
    assert describe(ValueError("a\x00b\ud800")) == "ValueError: a\\0b\\ud800"
    assert len(describe(ValueError("x" * 10_000))) == 2000


# In memory


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def store():
    async with InMemoryEventStore() as store:
        yield store


async def append(store, count=1):
    await store.append(ORDER, [EventEnvelope(ORDER, "Counted", {}) for _ in range(count)])


async def lease_of(storage, worker="w"):
    await storage.register("delays", 1, 1)
    (lease,) = await storage.beat("delays", 1, worker, 10)
    return lease


async def test_in_memory_a_lease_ends_by_the_given_clock(store, clock):
    storage = InMemorySubscriptionStore(store, clock=clock)
    await lease_of(storage, "a")
    clock.now = 9.9
    assert await storage.beat("delays", 1, "b", 10) == []
    clock.now = 10.0
    assert (await lease_of(storage, "b")).partition == 0


async def test_in_memory_a_lease_lost_within_a_transaction_undoes_it(store):
    rolled_back = []

    @asynccontextmanager
    async def session():
        try:
            yield "session"
        except LeaseLostError:
            rolled_back.append(True)
            raise

    storage = InMemorySubscriptionStore(store, session=session)
    lease = await lease_of(storage, "a")

    async def save_while_it_is_taken_over():
        async with storage.transaction() as transaction:
            assert transaction.session == "session"
            await storage.save(lease, Progress(Cursor("memory 1")), transaction)
            await storage.leave("delays", 1, "a")
            await lease_of(storage, "b")

    with pytest.raises(LeaseLostError):
        await save_while_it_is_taken_over()
    assert rolled_back == [True]
    assert (await lease_of(storage, "b")).cursor is None


async def test_in_memory_a_commit_that_fails_moves_nothing(store):
    @asynccontextmanager
    async def session():
        yield
        raise ConnectionResetError("while it committed")

    storage = InMemorySubscriptionStore(store, session=session)
    lease = await lease_of(storage)

    async def save():
        async with storage.transaction() as transaction:
            await storage.save(lease, Progress(Cursor("memory 1")), transaction)

    with pytest.raises(ConnectionResetError):
        await save()
    assert await lease_of(storage) == lease


async def test_in_memory_nobody_takes_over_while_a_transaction_commits(store, clock):
    @asynccontextmanager
    async def session():
        yield
        committing.set()
        await asyncio.sleep(0.01)

    committing = asyncio.Event()
    storage = InMemorySubscriptionStore(store, session=session, clock=clock)
    lease = await lease_of(storage, "a")

    async def save():
        async with storage.transaction() as transaction:
            await storage.save(lease, Progress(Cursor("memory 1")), transaction)

    saving = asyncio.create_task(save())
    await committing.wait()
    clock.now = 20.0
    assert (await lease_of(storage, "b")).cursor == Cursor("memory 1")
    assert saving.done()
    await saving


async def test_in_memory_projections_get_no_session_unless_there_is_one(store):
    async with InMemorySubscriptionStore(store).transaction() as transaction:
        assert transaction.session is None


async def test_in_memory_a_lease_of_what_was_removed_can_be_given_back(store):
    storage = InMemorySubscriptionStore(store)
    lease = await lease_of(storage)
    await storage.leave("delays", 1, "w")
    await storage.remove("delays", 1)
    await storage.release(lease)
    with pytest.raises(LeaseLostError):
        await storage.reload(lease)


async def test_in_memory_appends_from_any_thread_wake_who_listens(store):
    storage = InMemorySubscriptionStore(store)
    heard = asyncio.Event()
    async with storage.listen(heard.set):
        await append(store)
        await asyncio.wait_for(heard.wait(), 5)
        heard.clear()
        await asyncio.to_thread(asyncio.run, append(store))
        await asyncio.wait_for(heard.wait(), 5)
        heard.clear()
    await append(store)
    await asyncio.sleep(0)
    assert not heard.is_set()


async def test_in_memory_no_more_than_a_hundred_thousand_events_are_counted(store, monkeypatch):
    monkeypatch.setattr("k1s0_event_store.memory.subscription.MOST_COUNTED", 3)
    storage = InMemorySubscriptionStore(store)
    await storage.register("delays", 1, 1)
    await append(store, 5)
    (status,) = await storage.statuses()
    assert status.partitions[0].behind == 3


async def test_a_store_of_subscriptions_is_closed_by_its_block(store):
    async with InMemorySubscriptionStore(store) as storage:
        assert await storage.statuses() == []
