"""The contract suite of running subscriptions: what a runner must show on every subscription store.

Subclass RunnerContract in a test module and provide the fixtures `store` (an EventStore), `storage`
(a SubscriptionStore for its events) and `ledger` (a Ledger), new and empty for each test. Needs
pytest-asyncio in auto mode.
"""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, cast

import pytest

from k1s0_event_store.delivery import Notice
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.events.registry import EventRegistry
from k1s0_event_store.events.typed import TypedEventStore
from k1s0_event_store.events.upcasting import As
from k1s0_event_store.exceptions import (
    ConfigurationError,
    LeaseLostError,
    SubscriptionError,
    WaitTimeoutError,
)
from k1s0_event_store.feed import Cursor
from k1s0_event_store.metadata import event_metadata
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import (
    FailurePolicy,
    PartitionState,
    ProcessManager,
    Projection,
    Subscriber,
    Subscription,
    SubscriptionStore,
    Transaction,
)
from k1s0_event_store.testing.subscription_contract import (
    NAME,
    ORDER,
    OTHER,
    append,
    order,
    status_of,
)


class Ledger(Protocol):
    """Rows that handlers write through their session; `read` gives those that are committed, oldest first."""

    async def write(self, session: Any, key: str) -> None: ...

    async def read(self) -> list[str]: ...


class Crowd:
    """A handler that notes who is there at the same time."""

    def __init__(self) -> None:
        self.seen: list[tuple[StreamId, int]] = []
        self.most = 0
        self.reject: Callable[[EventEnvelope], Exception | None] = lambda _event: None
        self._now: set[StreamId] = set()

    async def handle(self, event: EventEnvelope) -> None:
        assert event.stream_id not in self._now, "one of the same stream is being handled"
        if (error := self.reject(event)) is not None:
            raise error
        self._now.add(event.stream_id)
        self.most = max(self.most, len(self._now))
        await asyncio.sleep(0.001)
        self._now.remove(event.stream_id)
        self.seen.append((event.stream_id, event.version))


class Altered:
    """A store with some methods replaced, to make it fail."""

    def __init__(self, target: object, **methods: Callable[..., Any]) -> None:
        self._target = target
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def altered_storage(storage: SubscriptionStore, **methods: Callable[..., Any]) -> SubscriptionStore:
    """`storage` with some methods replaced."""
    return cast("SubscriptionStore", Altered(storage, **methods))


def altered_store(store: EventStore, **methods: Callable[..., Any]) -> EventStore:
    """`store` with some methods replaced."""
    return cast("EventStore", Altered(store, **methods))


async def nothing(*_args: object) -> None:
    """In the place of a method that is not to do its work."""


class Failing:
    """Calls `method`, or raises `error` while there is one."""

    def __init__(self, method: Callable[..., Awaitable[Any]], error: Exception | None = None) -> None:
        self.error = error
        self.failures = 0
        self._method = method

    async def __call__(self, *args: Any, **options: Any) -> Any:
        if self.error is not None:
            self.failures += 1
            raise self.error
        return await self._method(*args, **options)


class PassingError(Exception):
    """An error that may pass."""

    retryable = True


class Recorder:
    """A handler, with or without a session, that writes down what it is given.

    `reject` raises for some events, `block` keeps it from going on, `ledger` gets a row per event
    where there is a session.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.seen: list[tuple[StreamId, int]] = []
        self.calls: Counter[tuple[StreamId, int]] = Counter()
        self.reject: Callable[[EventEnvelope], Exception | None] = lambda _event: None
        self.block = asyncio.Event()
        self.block.set()
        self.started = asyncio.Event()
        self._ledger = ledger
        self._projects = False

    async def handle(self, event: EventEnvelope, session: Any = None) -> None:
        """Write it down, unless it is rejected."""
        self.calls[event.stream_id, event.version] += 1
        if self._ledger is not None and session is not None:
            self._projects = True
            await self._ledger.write(session, key_of(event))
        self.started.set()
        await self.block.wait()
        error = self.reject(event)
        if error is not None:
            raise error
        self.seen.append((event.stream_id, event.version))

    def versions_of(self, stream_id: StreamId) -> list[int]:
        """What it has seen of one stream."""
        return [version for stream, version in self.seen if stream == stream_id]

    async def effects_on(self, stream_id: StreamId) -> list[int]:
        """What it has seen of one stream, without what was rolled back."""
        if self._ledger is None or not self._projects:
            return self.versions_of(stream_id)
        rows = [row.rpartition(" ") for row in await self._ledger.read()]
        return [int(version) for stream, _, version in rows if stream == str(stream_id)]


class Firing(Recorder):
    """A Recorder with a side effect."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        super().__init__(ledger)
        self.fired: list[tuple[StreamId, int]] = []

    async def side_effect(self, event: EventEnvelope) -> None:
        """Write it down."""
        self.fired.append((event.stream_id, event.version))


def key_of(event: EventEnvelope) -> str:
    """The row that a handler writes."""
    return f"{event.stream_id} {event.version}"


def keys_of(stream_id: StreamId, count: int) -> list[str]:
    """The rows of a stream's first events."""
    return [f"{stream_id} {version}" for version in range(1, count + 1)]


def poison(stream_id: StreamId, version: int) -> Callable[[EventEnvelope], Exception | None]:
    """Rejects one event."""

    def reject(event: EventEnvelope) -> Exception | None:
        return ValueError("no") if (event.stream_id, event.version) == (stream_id, version) else None

    return reject


class LimitedRunner(SubscriptionRunner):
    """A runner that does not wait for ever to catch up, nor to end."""

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.wait_for(super().__aexit__(*exc), 10)

    async def run_until_caught_up(self) -> None:
        """Work until every partition has read to the end of the feed; raises TimeoutError."""
        await asyncio.wait_for(super().run_until_caught_up(), 10)


def runner_of(
    store: EventStore, storage: SubscriptionStore, *subscriptions: Subscription, **options: Any
) -> SubscriptionRunner:
    """A runner that looks often, and beats every 0.1 seconds."""
    settings: dict[str, Any] = {"lease_seconds": 0.3, "poll": (0.001, 0.02), **options}
    return LimitedRunner(store, storage, subscriptions, **settings)


async def eventually(check: Callable[[], Any], within: float = 10.0) -> Any:
    """Wait until `check`, which may be async, gives something true; returns that."""
    end = asyncio.get_running_loop().time() + within
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < end, "it did not come so far"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def dying(runner: SubscriptionRunner) -> AsyncIterator[None]:
    """Run it in the background; at the end its process is gone, without a word."""
    runner.storage = altered_storage(runner.storage, leave=nothing)
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_caught_up(storage: SubscriptionStore, version: int = 1) -> bool:
    """True if the checkpoints cover everything."""
    return (await status_of(storage, version)).caught_up


@dataclass
class Billed:
    """What handlers append in reaction to an event."""

    n: int


def bills(store: EventStore) -> TypedEventStore:
    """A typed store for reactions. Stored "Both" are two of them today."""
    events = EventRegistry()
    events.register("Billed")(Billed)
    events.upcast("Both", 1, into=["Billed"])(lambda old: [As("Billed", {"n": n}) for n in (1, 2)])
    return TypedEventStore(store, events)


def causes(event: EventEnvelope) -> dict[str, Any]:
    """The metadata of reactions to the first event of a chain."""
    return {"causation_id": str(event.event_id), "correlation_id": str(event.event_id)}


BILL = StreamId("bill", "b-1")
FAST = FailurePolicy(wait=0.001, longest_wait=0.01)
KINDS: list[type[Subscription]] = [Projection, Subscriber]


class RunnerContract:
    """A SubscriptionRunner on the store."""

    @pytest.fixture(autouse=True)
    def quick_checkpoints(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nothing is wanted the checkpoint follows within a test's time."""
        for module in ("delivery", "worker"):
            monkeypatch.setattr(f"k1s0_event_store.{module}.IDLE_CHECKPOINT_SECONDS", 0.05)

    # From the beginning to now, and on

    async def test_it_catches_up_and_goes_on_without_gap_or_repeat(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        streams = [order(number) for number in range(5)]
        for stream_id in streams:
            await append(store, stream_id, 50)
        recorder = Recorder()

        async def write(stream_id: StreamId) -> None:
            for _ in range(10):
                await append(store, stream_id, 2)
                await asyncio.sleep(0)

        async with runner_of(store, storage, Projection(NAME, recorder, batch_size=30)):
            await asyncio.gather(*map(write, streams))
            await eventually(lambda: len(recorder.seen) >= 350)
            await asyncio.sleep(0.03)
        for stream_id in streams:
            assert recorder.versions_of(stream_id) == list(range(1, 71))

    @pytest.mark.parametrize("kind", KINDS)
    async def test_it_goes_on_where_it_stopped(
        self, store: EventStore, storage: SubscriptionStore, kind: type[Subscription]
    ) -> None:
        recorder = Recorder()
        for _ in range(3):
            await append(store, ORDER, 4)
            await runner_of(store, storage, kind(NAME, recorder)).run_until_caught_up()
        assert recorder.versions_of(ORDER) == list(range(1, 13))
        (partition,) = (await status_of(storage)).partitions
        assert (partition.handled, partition.behind) == (12, 0)

    async def test_a_runner_can_be_used_again(self, store: EventStore, storage: SubscriptionStore) -> None:
        recorder = Recorder()
        runner = runner_of(store, storage, Projection(NAME, recorder))
        for count in (1, 2):
            await append(store, ORDER, 1)
            await runner.run_until_caught_up()
            assert len(recorder.seen) == count
        async with runner:
            await append(store, ORDER, 1)
            await storage.wait_until(NAME, ORDER, 3)

    async def test_handlers_are_functions_or_objects_for_one_event_or_many(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        got: dict[str, list[Any]] = {}

        def note(name: str, events: EventEnvelope | Sequence[EventEnvelope]) -> None:
            one = events.version if isinstance(events, EventEnvelope) else [e.version for e in events]
            got.setdefault(name, []).append(one)

        async def projects(event: EventEnvelope, session: Any) -> None:
            note("projects", event)

        async def projects_many(events: Sequence[EventEnvelope], session: Any) -> None:
            note("projects many", events)

        async def subscribes(event: EventEnvelope) -> None:
            note("subscribes", event)

        class Many:
            async def handle_batch(self, events: Sequence[EventEnvelope], *_session: Any) -> None:
                note("object", events)

        await runner_of(
            store,
            storage,
            Projection("projects", projects),
            Projection("projects-many", projects_many, batch=True),
            Projection("object-projects", Many()),
            Subscriber("subscribes", subscribes),
            Subscriber("object-subscribes", Many(), batch_size=2),
        ).run_until_caught_up()
        assert sorted(got.pop("object")) == [[1, 2], [1, 2, 3], [3]]
        assert got == {"projects": [1, 2, 3], "projects many": [[1, 2, 3]], "subscribes": [1, 2, 3]}
        assert all(status.caught_up for status in await storage.statuses())

    async def test_an_append_can_be_read_from_the_projection_after_waiting_for_it(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        async with runner_of(store, storage, Projection(NAME, Recorder(ledger))):
            await eventually(storage.statuses)
            for version in (1, 2, 3):
                await append(store, ORDER, 1)
                await storage.wait_until(NAME, ORDER, version)
                assert await ledger.read() == keys_of(ORDER, version)

    # Once and at least once

    async def test_what_a_failed_handler_wrote_is_rolled_back(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 5)
        recorder = Recorder(ledger)
        errors = iter([ValueError("no"), ConnectionResetError("gone")])
        recorder.reject = lambda event: next(errors, None) if event.version == 3 else None
        await runner_of(store, storage, Projection(NAME, recorder, failure=FAST)).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 5)
        assert recorder.calls[ORDER, 3] == 3
        assert await storage.parked() == []

    async def test_after_a_crash_a_projection_has_every_effect_once(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 5)
        recorder = Recorder(ledger)
        recorder.block.clear()
        async with dying(runner_of(store, storage, Projection(NAME, recorder))):
            await recorder.started.wait()
        recorder.block.set()
        await runner_of(store, storage, Projection(NAME, recorder)).run_until_caught_up()
        assert recorder.calls[ORDER, 1] == 2
        assert await ledger.read() == keys_of(ORDER, 5)

    async def test_after_a_crash_a_subscriber_gets_again_what_came_since_the_checkpoint(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 10)
        recorder = Recorder()
        stuck = asyncio.Event()

        async def handle(event: EventEnvelope) -> None:
            await recorder.handle(event)
            if event.version == 6 and not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        subscriber = Subscriber(NAME, handle, checkpoint_every=4, checkpoint_seconds=60)
        async with dying(runner_of(store, storage, subscriber)):
            await stuck.wait()
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert recorder.versions_of(ORDER) == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10]

    async def test_a_subscriber_saves_after_its_time(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder()

        async def handle(event: EventEnvelope) -> None:
            await recorder.handle(event)
            if event.version == 2:
                assert (await status_of(storage)).partitions[0].handled == 1

        subscriber = Subscriber(NAME, handle, checkpoint_seconds=0, failure=replace(FAST, attempts=1))
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert recorder.versions_of(ORDER) == [1, 2, 3]
        assert await storage.parked() == []

    async def test_a_lost_lease_rolls_back_and_work_begins_anew(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        save = Failing(storage.save, LeaseLostError(NAME, 1, 0))
        notices: list[Notice] = []
        recorder = Recorder(ledger)
        runner = runner_of(
            store, altered_storage(storage, save=save), Projection(NAME, recorder), observe=notices.append
        )
        async with runner:
            await eventually(lambda: save.failures > 1)
            save.error = None
            await storage.wait_until(NAME, ORDER, 3)
        assert await ledger.read() == keys_of(ORDER, 3)
        assert "lost" in [notice.kind for notice in notices]

    async def test_a_commit_whose_answer_was_lost_is_not_repeated(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 5)
        commits = 0

        @contextlib.asynccontextmanager
        async def transaction() -> AsyncIterator[Transaction]:
            nonlocal commits
            async with storage.transaction() as real:
                yield real
            commits += 1
            if commits % 2 == 0:
                if commits == 4:
                    runner.stop()
                raise ConnectionResetError("after it committed")

        notices: list[Notice] = []
        subscription = Projection(NAME, Recorder(ledger), batch_size=1)
        weak = altered_storage(storage, transaction=transaction)
        runner = runner_of(store, weak, subscription, observe=notices.append)
        await asyncio.wait_for(runner.run(), 10)
        assert await ledger.read() == keys_of(ORDER, 4)
        assert "lost" not in [notice.kind for notice in notices]
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 5)

    # Filters

    async def test_only_events_that_are_wanted_are_handled(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 2)
        await append(store, ORDER, 2, "Cancelled")
        await append(store, StreamId("plane", "p-1"), 2)
        by_type, by_event, by_choice = Recorder(), Recorder(), Recorder()
        await runner_of(
            store,
            storage,
            Projection("by-type", by_type, aggregate_types=["plane"]),
            Projection("by-event", by_event, event_types=["Cancelled"]),
            Subscriber("by-choice", by_choice, where=lambda event: event.payload["n"] == 2),
        ).run_until_caught_up()
        assert by_type.seen == [(StreamId("plane", "p-1"), 1), (StreamId("plane", "p-1"), 2)]
        assert by_event.seen == [(ORDER, 3), (ORDER, 4)]
        assert by_choice.seen == [(ORDER, 2), (ORDER, 4), (StreamId("plane", "p-1"), 2)]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_checkpoint_advances_where_nothing_is_wanted(
        self, store: EventStore, storage: SubscriptionStore, kind: type[Subscription]
    ) -> None:
        recorder = Recorder()
        async with runner_of(store, storage, kind(NAME, recorder, event_types=["Never"])):
            await eventually(storage.statuses)
            for version in (1, 2):
                await append(store, ORDER, 1)
                await storage.wait_until(NAME, ORDER, version)
        assert recorder.seen == []
        assert await is_caught_up(storage)

    # Partitions and processes

    @pytest.mark.parametrize("kind", KINDS)
    async def test_partitions_keep_each_stream_in_order(
        self, store: EventStore, storage: SubscriptionStore, kind: type[Subscription]
    ) -> None:
        streams = [order(number) for number in range(40)]
        recorder = Recorder()
        async with runner_of(store, storage, kind(NAME, recorder, partitions=4, batch_size=7)):
            for _ in range(2):
                for stream_id in streams:
                    await append(store, stream_id, 2)
            await eventually(lambda: len(recorder.seen) >= 160)
        assert all(recorder.versions_of(stream_id) == [1, 2, 3, 4] for stream_id in streams)
        handled = [partition.handled for partition in (await status_of(storage)).partitions]
        assert sum(handled) == 160
        assert all(handled)

    async def test_another_process_takes_over_from_one_that_died(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        streams = [order(number) for number in range(8)]
        first, second = Recorder(ledger), Recorder(ledger)
        options: dict[str, Any] = {"partitions": 4, "batch_size": 3}
        runners = [
            runner_of(store, storage, Projection(NAME, recorder, **options), worker=worker)
            for worker, recorder in (("a", first), ("b", second))
        ]

        async def owners() -> Counter[str | None]:
            return Counter(partition.owner for partition in (await status_of(storage)).partitions)

        async def share() -> bool:
            return await owners() == {"a": 2, "b": 2}

        async def append_everywhere() -> None:
            for stream_id in streams:
                await append(store, stream_id, 3)

        async with runners[1]:
            async with dying(runners[0]):
                await eventually(storage.statuses)
                await eventually(share)
                await append_everywhere()
                await eventually(lambda: len(first.seen) + len(second.seen) >= 24)
            assert first.seen
            assert second.seen
            await append_everywhere()
            await eventually(lambda: is_caught_up(storage))
            assert await owners() == {"b": 4}
        assert Counter(await ledger.read()) == Counter(key for s in streams for key in keys_of(s, 6))

    async def test_an_old_owner_can_no_longer_move_the_checkpoint(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        old, new = Recorder(ledger), Recorder(ledger)
        old.block.clear()
        beat = Failing(storage.beat)
        cut_off = altered_storage(storage, beat=beat)
        async with runner_of(store, cut_off, Projection(NAME, old), worker="a"):
            await old.started.wait()
            beat.error = ConnectionResetError("cut off")
            async with runner_of(store, storage, Projection(NAME, new), worker="b"):
                await storage.wait_until(NAME, ORDER, 3)
                old.block.set()
                await eventually(lambda: len(old.seen) == 3)
                await append(store, ORDER, 1)
                await storage.wait_until(NAME, ORDER, 4)
        assert await ledger.read() == keys_of(ORDER, 4)
        assert new.versions_of(ORDER) == [1, 2, 3, 4]

    async def test_who_cannot_renew_its_leases_rests_when_they_have_ended(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        recorder = Recorder()
        beat = Failing(storage.beat)
        async with runner_of(store, altered_storage(storage, beat=beat), Projection(NAME, recorder)):
            await append(store, ORDER, 1)
            await eventually(lambda: recorder.seen)
            beat.error = ConnectionResetError("cut off")
            await asyncio.sleep(0.4)
            await append(store, ORDER, 1)
            await asyncio.sleep(0.1)
            assert recorder.versions_of(ORDER) == [1]
            beat.error = None
            await eventually(lambda: recorder.versions_of(ORDER) == [1, 2])

    async def test_a_partition_is_given_away_while_another_one_has_a_slow_handler(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        """What is to be given away is waited for, but the other leases are renewed meanwhile."""
        streams = [order(number) for number in range(40)]
        for stream_id in streams:
            await append(store, stream_id, 1)
        slow, quick = Recorder(), Recorder()
        slow.block.clear()
        subscription = Projection(NAME, slow, partitions=4)
        async with runner_of(store, storage, subscription, worker="a"):
            await eventually(lambda: sum(slow.calls.values()) == 4)
            async with runner_of(store, storage, Projection(NAME, quick, partitions=4), worker="b"):
                await asyncio.sleep(0.5)
                partitions = (await status_of(storage)).partitions
                assert [partition.owner for partition in partitions] == ["a"] * 4
                slow.block.set()

                async def is_shared() -> bool:
                    partitions = (await status_of(storage)).partitions
                    return Counter(partition.owner for partition in partitions) == {"a": 2, "b": 2}

                await eventually(is_shared)
                await eventually(lambda: is_caught_up(storage))
        assert Counter(slow.seen + quick.seen) == {(stream_id, 1): 1 for stream_id in streams}

    async def test_another_number_of_partitions_is_told_at_once(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await storage.register(NAME, 1, 2)
        with pytest.raises(ConfigurationError, match="partitions"):
            await runner_of(store, storage, Projection(NAME, Recorder(), partitions=3)).run()

    # Events that fail

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_poison_event_is_parked_with_what_follows_of_its_stream(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger, kind: type[Subscription]
    ) -> None:
        for _ in range(4):
            await append(store, ORDER, 1)
            await append(store, OTHER, 1)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        notices: list[Notice] = []
        subscription = kind(NAME, recorder, failure=FAST)
        runner = runner_of(store, storage, subscription, observe=notices.append)
        await runner.run_until_caught_up()
        assert (await recorder.effects_on(ORDER), await recorder.effects_on(OTHER)) == ([1], [1, 2, 3, 4])
        assert [(p.stream_id, p.event_version, p.error, p.attempts) for p in await storage.parked(NAME)] == [
            (ORDER, 2, "ValueError: no", 3),
            (ORDER, 3, None, 0),
            (ORDER, 4, None, 0),
        ]
        assert recorder.calls[ORDER, 2] == 3 or kind is Projection
        assert recorder.calls[ORDER, 3] == 0 or kind is Projection
        kinds = Counter(notice.kind for notice in notices)
        assert (kinds["parked"], kinds["retried"]) == (1, 2)
        status = await status_of(storage)
        assert (status.parked, status.caught_up, status.partitions[0].state) == (
            3,
            True,
            PartitionState.WAITING,
        )

    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_follows_is_parked_after_a_restart_too(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger, kind: type[Subscription]
    ) -> None:
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 1)
        for version in (1, 2, 3):
            await append(store, ORDER, 1)
            await append(store, OTHER, 1)
            await runner_of(store, storage, kind(NAME, recorder, failure=FAST)).run_until_caught_up()
            assert (await status_of(storage)).parked == version
        assert (await recorder.effects_on(ORDER), await recorder.effects_on(OTHER)) == ([], [1, 2, 3])

    @pytest.mark.parametrize("kind", KINDS)
    async def test_parked_events_are_handled_in_order_when_they_are_retried(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger, kind: type[Subscription]
    ) -> None:
        await append(store, ORDER, 4)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        async with runner_of(store, storage, kind(NAME, recorder, failure=FAST)):
            await eventually(lambda: recorder.calls[ORDER, 2] >= 3)
            await eventually(lambda: is_caught_up(storage))
            assert await storage.retry_parked(NAME, ORDER) == 3
            await append(store, ORDER, 1)

            async def has_failed_again() -> bool:
                return (await storage.parked(NAME))[0].attempts == 6

            await eventually(has_failed_again)
            recorder.reject = lambda _event: None
            await storage.retry_parked(NAME)

            async def is_free() -> bool:
                return (await status_of(storage)).parked == 0

            await eventually(is_free)
            await append(store, ORDER, 1)
            await eventually(lambda: len(recorder.versions_of(ORDER)) >= 6)
            await eventually(lambda: is_caught_up(storage))
        assert await recorder.effects_on(ORDER) == [1, 2, 3, 4, 5, 6]

    async def test_a_retry_goes_up_to_the_next_failure_of_each_stream(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        await append(store, OTHER, 2)
        recorder = Recorder(ledger)
        bad = {(ORDER, 1), (OTHER, 1)}
        recorder.reject = lambda e: ValueError("no") if (e.stream_id, e.version) in bad else None
        subscription = Projection(NAME, recorder, failure=FAST)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert (await status_of(storage)).parked == 5
        bad = {(ORDER, 2)}
        await storage.retry_parked(NAME)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert (await recorder.effects_on(ORDER), await recorder.effects_on(OTHER)) == ([1], [1, 2])
        assert [(p.event_version, p.error) for p in await storage.parked(NAME)] == [
            (2, "ValueError: no"),
            (3, None),
        ]

    async def test_a_retry_that_meets_a_passing_error_goes_on_later(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 2)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 1)
        subscription = Projection(NAME, recorder, failure=FAST)
        await runner_of(store, storage, subscription).run_until_caught_up()
        errors = iter([PassingError(), PassingError()])
        recorder.reject = lambda _event: next(errors, None)
        await storage.retry_parked(NAME)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert await recorder.effects_on(ORDER) == [1, 2]

    async def test_the_stream_goes_on_when_its_parked_events_are_dropped(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 2)
        recorder = Recorder()
        recorder.reject = poison(ORDER, 1)
        async with runner_of(store, storage, Projection(NAME, recorder, failure=FAST)):
            await eventually(storage.statuses)
            await eventually(lambda: is_caught_up(storage))
            assert await storage.drop_parked(NAME) == 2
            await append(store, ORDER, 1)
            await append(store, ORDER, 1)
            await eventually(lambda: len(recorder.seen) >= 2)
        assert recorder.versions_of(ORDER) == [3, 4]
        assert await storage.parked() == []

    @pytest.mark.parametrize("kind", KINDS)
    async def test_instead_of_parking_the_partition_can_stop_with_its_reason(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger, kind: type[Subscription]
    ) -> None:
        await append(store, ORDER, 4)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        notices: list[Notice] = []
        subscription = kind(NAME, recorder, failure=replace(FAST, park=False))
        async with runner_of(store, storage, subscription, observe=notices.append):

            async def has_stopped() -> bool:
                statuses = await storage.statuses()
                return bool(statuses) and statuses[0].partitions[0].state is PartitionState.STOPPED

            await eventually(has_stopped)
            await append(store, OTHER, 1)
            await asyncio.sleep(0.2)
            assert (await recorder.effects_on(ORDER), await recorder.effects_on(OTHER)) == ([1], [])
            assert recorder.calls[ORDER, 2] == 3 or kind is Projection
            (partition,) = (await status_of(storage)).partitions
            assert partition.error is not None
            assert "version 2 of order-o-1 (Counted): ValueError: no" in partition.error
            assert await storage.parked() == []
            assert [type(n.error) for n in notices if n.kind == "stopped"] == [ValueError]
            recorder.reject = lambda _event: None
            await storage.resume(NAME)
            await storage.wait_until(NAME, OTHER, 1)
            assert (await status_of(storage)).partitions[0].error is None
        assert await recorder.effects_on(ORDER) == [1, 2, 3, 4]

    async def test_errors_that_may_pass_are_retried_for_as_long_as_it_takes(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder(ledger)
        errors = iter([PassingError(f"try {n}") for n in range(5)])
        recorder.reject = lambda event: next(errors, None) if event.version == 2 else None
        notices: list[Notice] = []
        subscription = Projection(NAME, recorder, failure=replace(FAST, attempts=1))
        runner = runner_of(store, storage, subscription, observe=notices.append)
        await runner.run_until_caught_up()
        assert recorder.calls[ORDER, 2] == 6
        assert await ledger.read() == keys_of(ORDER, 3)
        assert await storage.parked() == []
        assert [str(notice.error) for notice in notices if notice.kind == "waiting"] == [
            f"try {n}" for n in range(5)
        ]
        assert (await status_of(storage)).partitions[0].error is None

    async def test_the_policy_can_say_which_errors_may_pass(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        recorder = Recorder()
        errors = iter([KeyError("x")] * 4)
        recorder.reject = lambda _event: next(errors, None)
        policy = replace(FAST, attempts=1, is_transient=lambda error: isinstance(error, KeyError))
        await runner_of(store, storage, Subscriber(NAME, recorder, failure=policy)).run_until_caught_up()
        assert recorder.versions_of(ORDER) == [1]
        assert await storage.parked() == []

    async def test_an_outage_of_the_feed_can_be_seen_and_passes(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        recorder = Recorder()
        read = Failing(store.read_page, ConnectionRefusedError("no route"))

        async def error() -> str | None:
            statuses = await storage.statuses()
            return statuses[0].partitions[0].error if statuses else None

        async with runner_of(altered_store(store, read_page=read), storage, Projection(NAME, recorder)):
            await eventually(error)
            assert await error() == "ConnectionRefusedError: no route"
            assert (await status_of(storage)).partitions[0].state is PartitionState.RUNNING
            read.error = None
            await storage.wait_until(NAME, ORDER, 1)
        assert await error() is None
        assert recorder.seen == [(ORDER, 1)]

    async def test_a_feed_that_cannot_be_read_stops_the_partition_with_the_reason(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        recorder = Recorder()
        read = Failing(store.read_page, RuntimeError("not ours"))
        async with runner_of(altered_store(store, read_page=read), storage, Projection(NAME, recorder)):

            async def has_stopped() -> bool:
                statuses = await storage.statuses()
                return bool(statuses) and statuses[0].partitions[0].state is PartitionState.STOPPED

            await eventually(has_stopped)
            assert (await status_of(storage)).partitions[0].error == "RuntimeError: not ours"
            read.error = None
            await storage.resume(NAME)
            await storage.wait_until(NAME, ORDER, 1)
        assert recorder.seen == [(ORDER, 1)]

    async def test_an_outage_of_the_subscription_store_passes(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 1)
        down = ConnectionRefusedError("no route")
        register, save = Failing(storage.register, down), Failing(storage.save)
        fail = Failing(storage.fail)
        recorder = Recorder(ledger)
        notices: list[Notice] = []
        weak = altered_storage(storage, register=register, save=save, fail=fail)
        async with runner_of(store, weak, Projection(NAME, recorder), observe=notices.append):
            await eventually(lambda: register.failures > 1)
            assert {notice.kind for notice in notices} == {"waiting"}
            register.error, save.error, fail.error = None, down, down
            await eventually(lambda: save.failures > 2 and fail.failures > 2)
            save.error = fail.error = None
            await storage.wait_until(NAME, ORDER, 1)
        assert await ledger.read() == keys_of(ORDER, 1)

    async def test_what_could_not_be_parked_is_neither_lost_nor_out_of_order(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder()
        recorder.reject = poison(ORDER, 2)
        entered = 0

        @contextlib.asynccontextmanager
        async def transaction() -> AsyncIterator[Any]:
            nonlocal entered
            async with storage.transaction() as real:
                yield real
                entered += 1
                if entered < 3:
                    raise ConnectionResetError("while it committed")

        subscription = Subscriber(NAME, recorder, failure=FAST)
        weak = altered_storage(storage, transaction=transaction)
        await runner_of(store, weak, subscription).run_until_caught_up()
        assert entered == 3
        assert recorder.versions_of(ORDER) == [1]
        assert [(p.event_version, p.error) for p in await storage.parked(NAME)] == [
            (2, "ValueError: no"),
            (3, None),
        ]

    # Pace, end, and orders from outside

    async def test_a_slow_handler_has_a_page_in_hand_and_one_read_ahead_and_no_more(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 200)
        recorder = Recorder()
        recorder.block.clear()
        read: list[int] = []

        async def read_page(after: Cursor | None = None, limit: int = 500, **options: Any) -> Any:
            page = await store.read_page(after, limit, **options)
            if "only" in options:
                read.append(len(page.events))
            return page

        subscription = Projection(NAME, recorder, batch_size=20)
        async with runner_of(altered_store(store, read_page=read_page), storage, subscription):
            await recorder.started.wait()
            await asyncio.sleep(0.05)
            assert read == [20, 20]
            recorder.block.set()
            await eventually(lambda: len(recorder.seen) == 200)
            assert max(read) == 20

    async def test_what_is_appended_after_a_page_was_read_ahead_is_handled_at_once(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 30)
        recorder = Recorder()
        recorder.block.clear()
        async with runner_of(store, storage, Projection(NAME, recorder, batch_size=20)):
            await recorder.started.wait()
            await asyncio.sleep(0.1)  # the last page is read ahead
            await append(store, ORDER, 1)
            await asyncio.sleep(0.3)  # and the bell has rung
            recorder.block.set()
            await eventually(lambda: len(recorder.seen) == 31)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_end_finishes_what_is_in_hand_and_saves(
        self, store: EventStore, storage: SubscriptionStore, kind: type[Subscription]
    ) -> None:
        await append(store, ORDER, 50)
        recorder = Recorder()
        recorder.block.clear()
        subscription = kind(NAME, recorder, batch_size=10)
        async with runner_of(store, storage, subscription) as runner:
            await recorder.started.wait()
            runner.stop()
            await asyncio.sleep(0.4)
            (partition,) = (await status_of(storage)).partitions
            assert partition.state is PartitionState.RUNNING
            recorder.block.set()
        (partition,) = (await status_of(storage)).partitions
        assert (partition.handled, partition.owner) == (10, None)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert recorder.versions_of(ORDER) == list(range(1, 51))

    async def test_the_end_does_not_wait_for_the_next_attempt(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder()
        recorder.reject = poison(ORDER, 2)
        policy = FailurePolicy(wait=30, longest_wait=30)
        async with runner_of(store, storage, Subscriber(NAME, recorder, failure=policy)):
            await eventually(lambda: recorder.calls[ORDER, 2])
        assert (await status_of(storage)).partitions[0].handled == 1
        recorder.reject = lambda _event: None
        await runner_of(store, storage, Subscriber(NAME, recorder)).run_until_caught_up()
        assert recorder.versions_of(ORDER) == [1, 2, 3]

    async def test_a_pause_lets_it_rest_until_it_is_resumed(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        recorder = Recorder(ledger)
        async with runner_of(store, storage, Projection(NAME, recorder)):
            await append(store, ORDER, 1)
            await eventually(storage.statuses)
            await storage.wait_until(NAME, ORDER, 1)
            await storage.pause(NAME)
            await append(store, ORDER, 1)
            with pytest.raises(WaitTimeoutError):
                await storage.wait_until(NAME, ORDER, 2, within=0.3)
            assert await ledger.read() == keys_of(ORDER, 1)
            await storage.resume(NAME)
            await storage.wait_until(NAME, ORDER, 2)
        assert await ledger.read() == keys_of(ORDER, 2)

    async def test_to_catch_up_with_a_partition_that_rests_is_an_error(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        await storage.register(NAME, 1, 1)
        await storage.pause(NAME)
        with pytest.raises(SubscriptionError, match="paused"):
            await runner_of(store, storage, Projection(NAME, Recorder())).run_until_caught_up()

    async def test_a_stop_ends_the_wait_for_the_end_of_the_feed(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        recorder = Recorder()
        recorder.block.clear()
        runner = runner_of(store, storage, Projection(NAME, recorder))
        task = asyncio.create_task(runner.run_until_caught_up())
        await recorder.started.wait()
        runner.stop()
        recorder.block.set()
        await asyncio.wait_for(task, 5)

    async def test_a_reset_while_it_runs_has_everything_handled_again(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        async with runner_of(store, storage, Projection(NAME, Recorder(ledger))):
            await eventually(storage.statuses)
            await storage.wait_until(NAME, ORDER, 3)
            await storage.reset(NAME)
            await storage.wait_until(NAME, ORDER, 3)
        assert await ledger.read() == keys_of(ORDER, 3) * 2

    async def test_an_observer_is_told_and_its_errors_do_not_matter(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        notices: list[Notice] = []

        def observe(notice: Notice) -> None:
            notices.append(notice)
            raise RuntimeError("of no importance")

        recorder = Recorder()
        await runner_of(store, storage, Projection(NAME, recorder), observe=observe).run_until_caught_up()
        assert recorder.versions_of(ORDER) == [1, 2, 3]
        assert [(n.kind, n.name, n.version, n.partition, n.events) for n in notices] == [
            ("started", NAME, 1, 0, 0),
            ("handled", NAME, 1, 0, 3),
            ("ended", NAME, 1, 0, 0),
        ]
        assert notices[1].seconds > 0

    # Side effects, and a new version beside the old one

    @pytest.mark.parametrize("kind", KINDS)
    async def test_side_effects_are_not_fired_again_after_a_reset(
        self, store: EventStore, storage: SubscriptionStore, kind: type[Subscription]
    ) -> None:
        await append(store, ORDER, 3)
        firing = Firing()
        subscription = kind(NAME, firing, batch_size=2)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert firing.fired == [(ORDER, n) for n in (1, 2, 3)]
        await storage.reset(NAME)
        await append(store, ORDER, 2)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert firing.versions_of(ORDER) == [1, 2, 3, 1, 2, 3, 4, 5]
        assert firing.fired == [(ORDER, n) for n in (1, 2, 3, 4, 5)]
        await storage.reset(NAME, side_effects=True)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert firing.fired == [(ORDER, n) for n in (1, 2, 3, 4, 5) * 2]

    async def test_a_replay_ends_where_nothing_is_wanted_too(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 1)
        await append(store, ORDER, 2, "Unwanted")
        firing = Firing()
        subscription = Projection(NAME, firing, event_types=["Counted"], batch_size=1)
        await runner_of(store, storage, subscription).run_until_caught_up()
        await storage.reset(NAME)
        await runner_of(store, storage, subscription).run_until_caught_up()
        await append(store, ORDER, 1)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert not (await status_of(storage)).partitions[0].replaying
        assert firing.versions_of(ORDER) == [1, 1, 4]
        assert firing.fired == [(ORDER, 1), (ORDER, 4)]

    async def test_a_side_effect_that_fails_is_tried_again_and_then_parked(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 2)
        tries: Counter[int] = Counter()

        class Handler(Recorder):
            async def side_effect(self, event: EventEnvelope) -> None:
                tries[event.version] += 1
                if event.version == 2:
                    raise ValueError("not sent")

        subscription = Projection(NAME, Handler(ledger), batch_size=1, failure=FAST)
        await runner_of(store, storage, subscription).run_until_caught_up()
        assert tries == {1: 1, 2: 3}
        assert await ledger.read() == keys_of(ORDER, 1)
        assert [parked.error for parked in await storage.parked()] == ["ValueError: not sent"]

    async def test_only_the_live_version_fires_and_the_next_one_begins_where_it_ended(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        old, new = Firing(), Firing()
        before, after = Projection(NAME, old), Projection(NAME, new, version=2, batch_size=2)
        await runner_of(store, storage, before).run_until_caught_up()
        async with dying(runner_of(store, storage, after)):
            await eventually(lambda: new.seen)
        await append(store, ORDER, 3)
        await runner_of(store, storage, before).run_until_caught_up()
        await append(store, ORDER, 3)
        await storage.switch(NAME, 2)
        await runner_of(store, storage, after).run_until_caught_up()
        assert set(new.versions_of(ORDER)) == set(range(1, 10))
        assert old.fired == [(ORDER, n) for n in range(1, 7)]
        assert new.fired == [(ORDER, n) for n in range(7, 10)]
        await runner_of(store, storage, before).run_until_caught_up()
        assert old.versions_of(ORDER) == list(range(1, 10))
        assert len(old.fired) == 6

    async def test_a_switch_between_versions_at_rest_needs_no_new_events(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        old, new = Firing(), Firing()
        before, after = Projection(NAME, old), Projection(NAME, new, version=2)
        async with runner_of(store, storage, before):
            await eventually(lambda: len(old.seen) == 3)
            async with runner_of(store, storage, after):
                await eventually(lambda: len(new.seen) == 3)
                await storage.switch(NAME, 2, within=5)
        assert (len(old.fired), len(new.fired)) == (3, 0)

    async def test_a_new_version_is_built_beside_the_old_one_while_appends_go_on(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 100)
        old, new = Firing(), Firing(ledger)
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                await append(store, ORDER, 1)
                await asyncio.sleep(0.002)

        async with runner_of(store, storage, Projection(NAME, old, batch_size=10)):
            writing = asyncio.create_task(write())
            await eventually(lambda: len(old.seen) > 20)
            async with runner_of(store, storage, Projection(NAME, new, version=2, batch_size=10)):
                await eventually(lambda: len(new.seen) > 100)
                assert new.fired == []
                await storage.switch(NAME, 2)
                await eventually(lambda: new.fired)
                done.set()
                await writing
                last = await store.current_version(ORDER)
                await storage.wait_until(NAME, ORDER, last)
        assert await ledger.read() == keys_of(ORDER, last)
        assert {version for _, version in old.fired + new.fired} == set(range(1, last + 1))
        first = new.fired[0][1]
        assert new.fired == [(ORDER, n) for n in range(first, last + 1)]

    # Reactions

    async def test_what_a_handler_and_its_side_effect_append_names_its_cause(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await append(store, ORDER, 2)
        typed = bills(store)
        sent = StreamId("mail", "m-1")

        class Billing:
            async def handle(self, event: EventEnvelope, session: Any) -> None:
                await typed.within(session).append(BILL, [Billed(event.version)])

            async def side_effect(self, event: EventEnvelope) -> None:
                with event_metadata(actor="mailer"):
                    await typed.append(sent, [Billed(event.version)])

        with event_metadata(correlation_id="of the process", host="h-1"):
            await runner_of(
                store, storage, Projection(NAME, Billing(), aggregate_types=["order"])
            ).run_until_caught_up()
        assert await storage.parked() == []
        assert [bill.metadata for bill in await store.load(BILL)] == [
            {"host": "h-1", **causes(event)} for event in (first, second)
        ]
        assert [mail.metadata for mail in await store.load(sent)] == [
            {"host": "h-1", "actor": "mailer", **causes(event)} for event in (first, second)
        ]

    async def test_a_chain_of_reactions_keeps_its_correlation_and_who_began_it(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        typed = bills(store)
        begins = {"correlation_id": "request-1", "actor": "ann", "secret": "stays"}
        await typed.append(BILL, [Billed(3)], metadata=begins)

        async def go_on(event: EventEnvelope) -> None:
            if event.payload.n:
                await typed.append(StreamId("bill", f"b-{event.payload.n}"), [Billed(event.payload.n - 1)])

        for _ in range(4):
            await runner_of(store, storage, Subscriber(NAME, typed.handler(go_on))).run_until_caught_up()
        chain = [event async for event in typed.read_all()]
        assert [event.payload.n for event in chain] == [3, 2, 1, 0]
        for cause, event in pairwise(chain):
            assert event.metadata == {
                "correlation_id": "request-1",
                "actor": "ann",
                "causation_id": str(cause.event_id),
            }

    async def test_the_cause_is_the_event_as_it_is_stored(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        """Its parts have ids that nobody finds in the store."""
        (both,) = await append(store, ORDER, 1, "Both")
        typed, mails = bills(store), bills(store)
        sent = StreamId("mail", "m-1")

        class Billing:
            async def handle(self, event: EventEnvelope) -> None:
                await typed.append(BILL, [event.payload])

            async def side_effect(self, event: EventEnvelope) -> None:
                await mails.append(sent, [event.payload])

        subscription = Subscriber(NAME, typed.handler(Billing()), aggregate_types=["order"])
        await runner_of(store, storage, subscription).run_until_caught_up()
        for stream_id in (BILL, sent):
            reactions = await typed.load(stream_id)
            assert [reaction.payload for reaction in reactions] == [Billed(1), Billed(2)]
            assert [reaction.metadata for reaction in reactions] == [causes(both)] * 2

    async def test_many_events_at_a_time_have_no_one_cause(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        typed = bills(store)

        class Billing:
            async def handle_batch(self, events: Sequence[EventEnvelope], session: Any) -> None:
                await typed.within(session).append(BILL, [Billed(event.version) for event in events])

        await runner_of(
            store, storage, Projection(NAME, Billing(), aggregate_types=["order"])
        ).run_until_caught_up()
        assert [bill.metadata for bill in await store.load(BILL)] == [{}, {}, {}]

    # Process managers

    async def test_a_process_manager_does_nothing_again_after_a_reset(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        firing = Firing(ledger)
        manager = ProcessManager(NAME, firing, batch_size=2)
        await runner_of(store, storage, manager).run_until_caught_up()
        await storage.reset(NAME)
        await append(store, ORDER, 2)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert firing.calls == {(ORDER, n): 1 for n in range(1, 6)}
        assert firing.fired == [(ORDER, n) for n in range(1, 6)]
        assert await ledger.read() == keys_of(ORDER, 5)
        assert await is_caught_up(storage)
        await storage.reset(NAME, side_effects=True)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 5) * 2

    async def test_a_new_version_of_a_process_manager_begins_where_the_live_one_ended(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        old, new = Firing(ledger), Firing(ledger)
        before, after = ProcessManager(NAME, old), ProcessManager(NAME, new, version=2, batch_size=2)
        await runner_of(store, storage, before).run_until_caught_up()
        await runner_of(store, storage, after).run_until_caught_up()
        await append(store, ORDER, 3)
        await runner_of(store, storage, after).run_until_caught_up()
        assert new.calls == {}
        await runner_of(store, storage, before).run_until_caught_up()
        await storage.switch(NAME, 2)
        await append(store, ORDER, 3)
        await runner_of(store, storage, before, after).run_until_caught_up()
        assert old.calls == {(ORDER, n): 1 for n in range(1, 7)}
        assert new.calls == {(ORDER, n): 1 for n in range(7, 10)}
        assert old.fired + new.fired == [(ORDER, n) for n in range(1, 10)]
        assert await ledger.read() == keys_of(ORDER, 9)

    async def test_after_a_crash_a_process_manager_has_appended_everything_once(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 4)
        stuck = asyncio.Event()

        async def handle(event: EventEnvelope, session: Any) -> None:
            await ledger.write(session, key_of(event))
            if event.version == 3 and not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        manager = ProcessManager(NAME, handle, batch_size=2)
        async with dying(runner_of(store, storage, manager)):
            await stuck.wait()
        assert await ledger.read() == keys_of(ORDER, 2)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 4)

    async def test_what_a_process_manager_failed_on_is_handled_once_when_it_is_retried(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        manager = ProcessManager(NAME, recorder, failure=FAST)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 1)
        recorder.reject = lambda _event: None
        for _ in range(2):
            await storage.retry_parked(NAME)
            await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 3)

    async def test_what_a_process_manager_failed_on_is_not_lost_by_a_reset(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 3)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        manager = ProcessManager(NAME, recorder, failure=FAST)
        await runner_of(store, storage, manager).run_until_caught_up()
        recorder.reject = lambda _event: None
        await storage.reset(NAME)
        assert (await status_of(storage)).parked == 2
        await append(store, ORDER, 1)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 1)
        assert (await status_of(storage)).parked == 3
        await storage.retry_parked(NAME)
        await runner_of(store, storage, manager).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 4)

    async def test_what_an_old_version_of_a_process_manager_failed_on_can_be_retried_after_a_switch(
        self, store: EventStore, storage: SubscriptionStore, ledger: Ledger
    ) -> None:
        await append(store, ORDER, 2)
        recorder = Recorder(ledger)
        recorder.reject = poison(ORDER, 2)
        before = ProcessManager(NAME, recorder, failure=FAST)
        after = ProcessManager(NAME, Recorder(ledger), version=2)
        for manager in (before, after):
            await runner_of(store, storage, manager).run_until_caught_up()
        await storage.switch(NAME, 2)
        recorder.reject = lambda _event: None
        await storage.retry_parked(NAME, version=1)
        await runner_of(store, storage, before, after).run_until_caught_up()
        assert await ledger.read() == keys_of(ORDER, 2)

    # Streams side by side

    async def test_streams_are_handled_side_by_side_and_each_in_order(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        streams = [order(number) for number in range(6)]
        for _ in range(2):
            for stream_id in streams:
                await append(store, stream_id, 3)
        crowd = Crowd()
        subscriber = Subscriber(NAME, crowd, concurrency=4)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert crowd.most == 4
        for stream_id in streams:
            assert [version for other, version in crowd.seen if other == stream_id] == [1, 2, 3, 4, 5, 6]
        assert await is_caught_up(storage)
        assert (await status_of(storage)).partitions[0].handled == 36

    async def test_side_by_side_a_poison_event_holds_up_its_stream_only(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        for stream_id in (ORDER, OTHER):
            await append(store, stream_id, 4)
        crowd = Crowd()
        crowd.reject = poison(ORDER, 2)
        subscriber = Subscriber(NAME, crowd, concurrency=4, failure=FAST)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert [version for stream_id, version in crowd.seen if stream_id == OTHER] == [1, 2, 3, 4]
        assert [version for stream_id, version in crowd.seen if stream_id == ORDER] == [1]
        parked = await storage.parked(NAME)
        assert [(one.event_version, one.error is None) for one in parked] == [
            (2, False),
            (3, True),
            (4, True),
        ]
        assert parked[0].attempts == FAST.attempts
        await append(store, ORDER, 1)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert (await status_of(storage)).parked == 4
        crowd.reject = lambda _event: None
        await storage.retry_parked(NAME)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert [version for stream_id, version in crowd.seen if stream_id == ORDER] == [1, 2, 3, 4, 5]

    async def test_side_by_side_what_was_handled_is_not_again_while_an_error_passes(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        for stream_id in (ORDER, OTHER):
            await append(store, stream_id, 3)
        crowd = Crowd()
        failures: list[EventEnvelope] = []

        def reject(event: EventEnvelope) -> Exception | None:
            if (event.stream_id, event.version) != (ORDER, 2) or len(failures) == 3:
                return None
            failures.append(event)
            return ConnectionError("down")

        crowd.reject = reject
        policy = FailurePolicy(is_transient=lambda error: isinstance(error, ConnectionError))
        subscriber = Subscriber(NAME, crowd, concurrency=2, failure=policy)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert sorted(crowd.seen, key=str) == sorted(
            ((stream_id, version) for stream_id in (ORDER, OTHER) for version in (1, 2, 3)), key=str
        )
        assert len(failures) == 3

    async def test_side_by_side_a_partition_can_stop_with_its_reason(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        for stream_id in (ORDER, OTHER):
            await append(store, stream_id, 3)
        crowd = Crowd()
        crowd.reject = poison(ORDER, 2)
        policy = FailurePolicy(attempts=1, park=False)
        subscriber = Subscriber(NAME, crowd, concurrency=2, failure=policy)
        with pytest.raises(SubscriptionError):
            await runner_of(store, storage, subscriber).run_until_caught_up()
        (partition,) = (await status_of(storage)).partitions
        assert partition.state is PartitionState.STOPPED
        assert f"version 2 of {ORDER}" in str(partition.error)
        crowd.reject = lambda _event: None
        await storage.resume(NAME)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert {version for stream_id, version in crowd.seen if stream_id == ORDER} == {1, 2, 3}

    async def test_side_by_side_a_crash_repeats_no_more_than_what_came_since_the_checkpoint(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        await append(store, ORDER, 3)
        crowd = Crowd()
        subscriber = Subscriber(NAME, crowd, concurrency=2)
        await runner_of(store, storage, subscriber).run_until_caught_up()
        await append(store, ORDER, 3)
        stuck = asyncio.Event()

        async def stall(event: EventEnvelope) -> None:
            await crowd.handle(event)
            if event.version == 5:
                stuck.set()
                await asyncio.Event().wait()

        async with dying(runner_of(store, storage, Subscriber(NAME, stall, concurrency=2))):
            await stuck.wait()
        await runner_of(store, storage, subscriber).run_until_caught_up()
        assert [version for _, version in crowd.seen] == [1, 2, 3, 4, 5, 4, 5, 6]
