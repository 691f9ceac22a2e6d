"""The contract suite of subscriptions: what every subscription store must show. For authors of backends.

Subclass the classes in a test module and provide the fixtures `store` (an EventStore) and `storage`
(a SubscriptionStore for its events), new and empty for each test:

    class TestMySubscriptions(SubscriptionStoreContract):
        @pytest.fixture
        def store(self): ...

Needs pytest-asyncio in auto mode.
"""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    EventParkedError,
    InvalidInputError,
    LeaseLostError,
    StoreClosedError,
    SubscriptionError,
    SubscriptionNotFoundError,
    WaitTimeoutError,
)
from k1s0_event_store.feed import Cursor, EventFilter
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import (
    Lease,
    PartitionState,
    Progress,
    SubscriptionStatus,
    SubscriptionStore,
    Transaction,
)

NAME = "delays"
LONG, SHORT = 30.0, 0.05
"""Seconds of leases that last, and of leases that end within a test."""


def order(number: int) -> StreamId:
    """One of many streams."""
    return StreamId("order", f"o-{number}")


ORDER, OTHER = order(1), order(2)


async def append(
    store: EventStore, stream_id: StreamId, count: int, event_type: str = "Counted"
) -> list[EventEnvelope]:
    """Append so many events; they are returned as stored."""
    new = [EventEnvelope(stream_id, event_type, {"n": n}) for n in range(1, count + 1)]
    version = await store.append(stream_id, new)
    return await store.load(stream_id, version - count + 1)


async def places(store: EventStore, count: int) -> list[Cursor]:
    """Append events; the places after each of them."""
    events = await append(store, ORDER, count)
    page = await store.read_page(None, count)
    assert page.events == events
    return [page.cursor_after(event) for event in events]


async def leases(
    storage: SubscriptionStore,
    worker: str = "w",
    partitions: int = 1,
    *,
    name: str = NAME,
    version: int = 1,
    seconds: float = LONG,
) -> list[Lease]:
    """What `worker` holds after a beat of its heart."""
    await storage.register(name, version, partitions)
    return list(await storage.beat(name, version, worker, seconds))


async def lease_of(storage: SubscriptionStore, worker: str = "w", **options: Any) -> Lease:
    """The lease of the only partition."""
    (lease,) = await leases(storage, worker, **options)
    return lease


async def status_of(storage: SubscriptionStore, version: int = 1) -> SubscriptionStatus:
    """A version's status."""
    (status,) = [status for status in await storage.statuses(NAME) if status.version == version]
    return status


async def numbers_after_beat(storage: SubscriptionStore, worker: str, version: int = 1) -> list[int]:
    """The partitions that `worker` keeps; what is to be given away is given away."""
    kept = []
    for lease in await storage.beat(NAME, version, worker, LONG):
        if lease.surplus:
            await storage.release(lease)
        else:
            kept.append(lease.partition)
    return kept


class SubscriptionStoreContract:
    """Checkpoints, leases and parked events, without a runner."""

    # Versions and partitions

    async def test_the_first_version_of_a_name_is_the_live_one(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 3, 2)
        await storage.register(NAME, 4, 2)
        await storage.register("another", 7, 1)
        assert await storage.live_version(NAME) == 3
        assert await storage.live_version("another") == 7
        assert [(s.version, s.live, len(s.partitions)) for s in await storage.statuses(NAME)] == [
            (3, True, 2),
            (4, False, 2),
        ]

    async def test_to_register_again_changes_nothing(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease = await lease_of(storage)
        await storage.save(lease, Progress(place, 1))
        await storage.register(NAME, 1, 1)
        assert await lease_of(storage) == replace(lease, cursor=place)

    async def test_another_number_of_partitions_is_refused(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 2)
        with pytest.raises(ConfigurationError, match=r"2 partitions, not 3.*version"):
            await storage.register(NAME, 1, 3)
        assert len((await status_of(storage)).partitions) == 2

    async def test_many_processes_can_register_at_once(self, storage: SubscriptionStore) -> None:
        await asyncio.gather(*(storage.register(NAME, 1 + n % 3, 3) for n in range(9)))
        statuses = await storage.statuses(NAME)
        assert [(s.version, len(s.partitions)) for s in statuses] == [(1, 3), (2, 3), (3, 3)]
        assert sum(s.live for s in statuses) == 1

    async def test_a_new_version_has_nothing_behind_it(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 1)
        (partition,) = (await status_of(storage)).partitions
        assert partition.state is PartitionState.WAITING
        assert (partition.owner, partition.cursor, partition.handled, partition.error) == (
            None,
            None,
            0,
            None,
        )
        assert not partition.replaying
        assert (await status_of(storage)).caught_up

    async def test_unknown_names_and_versions_are_told(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 1)
        calls: list[Awaitable[Any]] = [
            storage.beat("nobody", 1, "w", LONG),
            storage.beat(NAME, 2, "w", LONG),
            storage.statuses("nobody"),
            storage.live_version("nobody"),
            storage.pause("nobody"),
            storage.pause(NAME, 2),
            storage.resume("nobody"),
            storage.reset("nobody"),
            storage.reset(NAME, 2),
            storage.switch("nobody", 1),
            storage.switch(NAME, 2, within=0),
            storage.remove("nobody", 1),
            storage.remove(NAME, 2),
            storage.parked("nobody"),
            storage.retry_parked("nobody"),
            storage.drop_parked("nobody"),
            storage.drop_parked(NAME, version=2),
            storage.wait_until("nobody", ORDER, 1, within=0),
            storage.wait_until(NAME, ORDER, 1, within=0, version=2),
        ]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in done] == [SubscriptionNotFoundError] * len(calls)
        assert [s.version for s in await storage.statuses()] == [1]

    async def test_without_subscriptions_there_is_nothing_to_tell(self, storage: SubscriptionStore) -> None:
        assert await storage.statuses() == []
        assert await storage.parked() == []

    async def test_a_version_is_removed_with_all_that_belongs_to_it(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 1)
        for version in (1, 2):
            lease = await lease_of(storage, version=version)
            await storage.park(lease, events, "no", 1)
        await storage.remove(NAME, 2)
        assert [s.version for s in await storage.statuses()] == [1]
        assert [parked.version for parked in await storage.parked()] == [1]
        with pytest.raises(LeaseLostError):
            await storage.park(lease, events, "no", 1)

    async def test_the_live_version_is_removed_only_when_nobody_works_on_it(
        self, storage: SubscriptionStore
    ) -> None:
        await leases(storage)
        with pytest.raises(ConfigurationError, match="live"):
            await storage.remove(NAME, 1)
        await storage.leave(NAME, 1, "w")
        await storage.remove(NAME, 1)
        assert await storage.statuses() == []
        await storage.register(NAME, 2, 1)
        assert await storage.live_version(NAME) == 2

    # Leases

    async def test_a_worker_gets_what_nobody_holds(self, storage: SubscriptionStore) -> None:
        held = await leases(storage, partitions=3)
        assert [lease.partition for lease in held] == [0, 1, 2]
        for lease in held:
            assert (lease.name, lease.version, lease.cursor, lease.replay_until) == (NAME, 1, None, None)
            assert lease.live
            assert lease.active
            assert not lease.retry
            assert not lease.surplus
        assert {p.owner for p in (await status_of(storage)).partitions} == {"w"}
        assert {p.state for p in (await status_of(storage)).partitions} == {PartitionState.RUNNING}

    async def test_a_beat_renews_a_lease_and_changes_nothing_else(self, storage: SubscriptionStore) -> None:
        held = await leases(storage, partitions=2, seconds=SHORT)
        assert await leases(storage, partitions=2, seconds=LONG) == held
        await asyncio.sleep(2 * SHORT)
        assert await leases(storage, "z", partitions=2) == []

    async def test_a_version_that_is_not_live_says_so(self, storage: SubscriptionStore) -> None:
        assert (await lease_of(storage)).live
        assert not (await lease_of(storage, version=2)).live

    @pytest.mark.parametrize("workers", [1, 2, 3, 4])
    async def test_partitions_are_shared_out_evenly(self, storage: SubscriptionStore, workers: int) -> None:
        names = [f"w{number}" for number in range(workers)]
        for partitions in range(1, 8):
            await storage.register(NAME, partitions, partitions)
            held: list[list[int]] = []
            for _ in range(3):
                held = [await numbers_after_beat(storage, name, partitions) for name in names]
            each, more = divmod(partitions, workers)
            assert [len(numbers) for numbers in held] == [each + (n < more) for n in range(workers)]
            assert sorted(number for numbers in held for number in numbers) == list(range(partitions))

    async def test_a_newcomer_gets_what_others_have_above_their_share(
        self, storage: SubscriptionStore
    ) -> None:
        first = await leases(storage, "a", 5)
        assert await leases(storage, "b", 5) == []
        held = await leases(storage, "a", 5)
        assert [lease.partition for lease in held if lease.surplus] == [3, 4]
        assert [lease.token for lease in held] == [lease.token for lease in first]
        assert await leases(storage, "b", 5) == []
        await storage.release(held[4])
        (taken,) = await leases(storage, "b", 5)
        assert taken.partition == 4
        assert taken.token > held[4].token
        await storage.release(held[3])
        assert {lease.partition for lease in await leases(storage, "b", 5)} == {3, 4}
        assert [lease.surplus for lease in await leases(storage, "a", 5)] == [False] * 3

    async def test_beats_at_the_same_time_never_share_a_partition(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 6)
        names = ["a", "b", "c"]
        held: list[list[int]] = []
        for _ in range(4):
            held = await asyncio.gather(*(numbers_after_beat(storage, name) for name in names))
            flat = [number for numbers in held for number in numbers]
            assert len(set(flat)) == len(flat)
        assert [len(numbers) for numbers in held] == [2, 2, 2]

    async def test_a_lease_goes_to_another_only_after_its_end(self, storage: SubscriptionStore) -> None:
        old = await lease_of(storage, "a", seconds=4 * SHORT)
        assert await leases(storage, "b") == []
        await asyncio.sleep(5 * SHORT)
        (status,) = (await status_of(storage)).partitions
        assert status.state is PartitionState.WAITING
        new = await lease_of(storage, "b")
        assert new.token > old.token
        assert (await status_of(storage)).partitions[0].owner == "b"

    async def test_a_lease_that_ended_and_that_nobody_took_is_renewed(
        self, storage: SubscriptionStore
    ) -> None:
        lease = await lease_of(storage, seconds=SHORT)
        await asyncio.sleep(2 * SHORT)
        assert await lease_of(storage) == lease

    async def test_what_a_worker_that_leaves_had_is_free_at_once(self, storage: SubscriptionStore) -> None:
        await leases(storage, "a", 3)
        await storage.leave(NAME, 1, "a")
        assert [lease.partition for lease in await leases(storage, "b", 3)] == [0, 1, 2]
        await storage.leave(NAME, 1, "a")
        await storage.leave("nobody", 1, "a")
        assert len(await leases(storage, "b", 3)) == 3

    async def test_a_lease_given_back_late_stays_with_its_new_owner(self, storage: SubscriptionStore) -> None:
        old, new = await self._taken_over(storage)
        await storage.release(old)
        assert await lease_of(storage, "b") == new

    async def _taken_over(self, storage: SubscriptionStore) -> tuple[Lease, Lease]:
        """The leases of the old owner "a" and of the new one "b"."""
        old = await lease_of(storage, "a")
        await storage.leave(NAME, 1, "a")
        return old, await lease_of(storage, "b")

    # Checkpoints

    async def test_a_saved_checkpoint_is_where_the_next_owner_begins(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        lease = await lease_of(storage, "a")
        await storage.save(lease, Progress(first, 1))
        await storage.save(replace(lease, cursor=first), Progress(second, 5))
        (partition,) = (await status_of(storage)).partitions
        assert (partition.cursor, partition.handled) == (second, 6)
        await storage.leave(NAME, 1, "a")
        assert (await lease_of(storage, "b")).cursor == second

    async def test_a_checkpoint_moves_only_from_where_it_is(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        lease = await lease_of(storage)
        await storage.save(lease, Progress(first, 1))
        for stale in (None, second):
            with pytest.raises(LeaseLostError):
                await storage.save(replace(lease, cursor=stale), Progress(second, 1))
        (partition,) = (await status_of(storage)).partitions
        assert (partition.cursor, partition.handled) == (first, 1)

    async def test_partitions_have_checkpoints_of_their_own(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        _, second = await leases(storage, partitions=2)
        await storage.save(second, Progress(place, 1))
        assert [lease.cursor for lease in await leases(storage, partitions=2)] == [None, place]

    async def test_an_old_owner_can_change_nothing(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        events = await store.load(ORDER)
        old, new = await self._taken_over(storage)
        await storage.park(new, events, "new", 1)
        with pytest.raises(LeaseLostError) as lost:
            await storage.save(old, Progress(place, 1))
        assert (lost.value.name, lost.value.version, lost.value.partition) == (NAME, 1, 0)
        with pytest.raises(LeaseLostError):
            await storage.park(old, events, "old", 9)
        with pytest.raises(LeaseLostError):
            await storage.unpark(old, ORDER, 1)
        with contextlib.suppress(LeaseLostError):
            await storage.fail(old, "old", stop=True)
        assert await lease_of(storage, "b") == new
        (parked,) = await storage.parked(NAME)
        assert (parked.error, parked.attempts) == ("new", 1)
        (partition,) = (await status_of(storage)).partitions
        assert (partition.error, partition.state) == (None, PartitionState.RUNNING)

    async def test_what_a_transaction_does_is_done_with_its_end(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        events = await store.load(ORDER)
        lease = await lease_of(storage)
        async with storage.transaction() as transaction:
            await storage.park(lease, events, "no", 3, transaction)
            await storage.save(lease, Progress(place, 1), transaction)
            assert (await status_of(storage)).parked == 0
        assert (await status_of(storage)).parked == 1
        assert (await status_of(storage)).partitions[0].cursor == place
        async with storage.transaction() as transaction:
            await storage.unpark(lease, ORDER, 1, transaction)
        assert (await status_of(storage)).parked == 0

    async def test_a_transaction_that_fails_leaves_nothing(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        events = await store.load(ORDER)
        lease = await lease_of(storage)

        async def fail() -> None:
            async with storage.transaction() as transaction:
                await storage.park(lease, events, "no", 3, transaction)
                await storage.save(lease, Progress(place, 1), transaction)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await lease_of(storage) == lease
        assert await storage.parked() == []

    async def test_within_a_transaction_a_lost_lease_is_told_at_the_call(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        events = await store.load(ORDER)
        old, new = await self._taken_over(storage)
        refused = 0
        calls: list[Callable[[Transaction], Awaitable[None]]] = [
            lambda transaction: storage.save(old, Progress(place, 1), transaction),
            lambda transaction: storage.park(old, events, "no", 1, transaction),
            lambda transaction: storage.unpark(old, ORDER, 1, transaction),
        ]
        for call in calls:
            async with storage.transaction() as transaction:
                try:
                    await call(transaction)
                except LeaseLostError:
                    refused += 1
        assert refused == 3
        assert await lease_of(storage, "b") == new

    # Errors and pauses

    async def test_an_error_is_shown_until_the_next_checkpoint(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease = await lease_of(storage)
        await storage.fail(lease, "no connection", stop=False)
        (partition,) = (await status_of(storage)).partitions
        assert (partition.error, partition.state) == ("no connection", PartitionState.RUNNING)
        assert partition.failed_at is not None
        assert abs(datetime.now(UTC) - partition.failed_at) < timedelta(minutes=1)
        assert (await lease_of(storage)).active
        await storage.save(lease, Progress(place, 1))
        (partition,) = (await status_of(storage)).partitions
        assert (partition.error, partition.failed_at) == (None, None)

    async def test_what_was_stopped_by_an_error_stays_so_until_it_is_resumed(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease, _ = await leases(storage, partitions=2)
        await storage.fail(lease, "bad event", stop=True)
        await storage.fail(lease, "no connection", stop=False)
        await storage.fail(lease, "bad event", stop=False)
        await storage.save(lease, Progress(place, 1))
        (partition, _) = (await status_of(storage)).partitions
        assert partition.state is PartitionState.STOPPED
        assert [lease.active for lease in await leases(storage, partitions=2)] == [False, True]
        await storage.resume(NAME)
        (partition, _) = (await status_of(storage)).partitions
        assert (partition.state, partition.error, partition.failed_at) == (PartitionState.RUNNING, None, None)
        assert [lease.active for lease in await leases(storage, partitions=2)] == [True, True]

    async def test_a_pause_stops_the_checkpoint_at_once_and_leaves_the_lease(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease = await lease_of(storage)
        await storage.pause(NAME)
        with pytest.raises(LeaseLostError):
            await storage.save(lease, Progress(place, 1))
        assert (await status_of(storage)).partitions[0].state is PartitionState.PAUSED
        assert not (await lease_of(storage)).active
        assert await leases(storage, "z") == []
        await storage.resume(NAME)
        assert (await lease_of(storage)).active
        assert (await status_of(storage)).partitions[0].state is PartitionState.RUNNING

    async def test_a_pause_is_for_one_version(self, storage: SubscriptionStore) -> None:
        await leases(storage)
        await leases(storage, version=2)
        await storage.pause(NAME, 2)
        assert (await lease_of(storage)).active
        assert not (await lease_of(storage, version=2)).active
        await storage.resume(NAME)
        assert not (await lease_of(storage, version=2)).active

    # Going back

    async def test_a_reset_replays_all_that_was_handled(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        lease = await lease_of(storage)
        await storage.save(lease, Progress(second, 2))
        await storage.park(lease, await store.load(ORDER), "no", 3)
        await storage.fail(lease, "no", stop=True)
        await storage.reset(NAME)
        again = await lease_of(storage)
        assert again == replace(lease, token=again.token, replay_until=second)
        assert again.token > lease.token
        assert await storage.parked() == []
        (partition,) = (await status_of(storage)).partitions
        assert (partition.replaying, partition.error, partition.failed_at) == (True, None, None)
        with pytest.raises(LeaseLostError):
            await storage.save(replace(lease, cursor=None), Progress(first, 1))
        await storage.save(again, Progress(first, 1))
        await storage.save(replace(again, cursor=first), Progress(second, 1, replayed=True))
        assert (await lease_of(storage)).replay_until is None
        assert not (await status_of(storage)).partitions[0].replaying

    async def test_a_reset_can_go_back_to_a_place(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        await storage.save(await lease_of(storage), Progress(second, 2))
        await storage.reset(NAME, after=first)
        lease = await lease_of(storage)
        assert (lease.cursor, lease.replay_until) == (first, second)

    async def test_a_reset_can_have_side_effects_fired_again(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        await storage.save(await lease_of(storage), Progress(place, 1))
        await storage.reset(NAME)
        await storage.reset(NAME, side_effects=True)
        lease = await lease_of(storage)
        assert (lease.cursor, lease.replay_until) == (None, None)

    @pytest.mark.parametrize("place", ["memory 1", 0, Cursor("1:1:"), Cursor("memory x")], ids=str)
    async def test_a_reset_to_what_is_no_place_changes_nothing(
        self, store: EventStore, storage: SubscriptionStore, place: Any
    ) -> None:
        (first,) = await places(store, 1)
        await storage.save(await lease_of(storage), Progress(first, 1))
        with pytest.raises(InvalidInputError):
            await storage.reset(NAME, after=place)
        assert (await lease_of(storage)).cursor == first

    async def test_a_reset_of_what_has_not_run_replays_nothing(self, storage: SubscriptionStore) -> None:
        await leases(storage)
        await storage.reset(NAME)
        assert (await lease_of(storage)).replay_until is None

    async def test_a_reset_to_a_later_place_replays_nothing(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        await storage.save(await lease_of(storage), Progress(first, 1))
        for place in (first, second):
            await storage.reset(NAME, after=place)
            lease = await lease_of(storage)
            assert (lease.cursor, lease.replay_until) == (place, None)

    async def test_a_reset_during_a_replay_keeps_its_end(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        await storage.save(await lease_of(storage), Progress(second, 2))
        await storage.reset(NAME)
        await storage.reset(NAME)
        assert (await lease_of(storage)).replay_until == second
        await storage.save(await lease_of(storage), Progress(first, 1))
        await storage.reset(NAME)
        lease = await lease_of(storage)
        assert (lease.cursor, lease.replay_until) == (None, second)

    async def test_a_reset_keeps_what_is_parked_where_nothing_is_handled_again(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease = await lease_of(storage)
        await storage.register(NAME, 1, 1, repeats=False)
        await storage.park(lease, await store.load(ORDER), "no", 3)
        await storage.save(lease, Progress(place, 0))
        await storage.reset(NAME)
        assert (await status_of(storage)).parked == 1
        await storage.reset(NAME, side_effects=True)
        assert (await status_of(storage)).parked == 0

    async def test_a_reset_is_for_one_version(self, store: EventStore, storage: SubscriptionStore) -> None:
        (place,) = await places(store, 1)
        for version in (1, 2):
            lease = await lease_of(storage, version=version)
            await storage.save(lease, Progress(place, 1))
            await storage.park(lease, await store.load(ORDER), "no", 1)
        await storage.reset(NAME, 2)
        assert (await lease_of(storage)).cursor == place
        assert (await lease_of(storage, version=2)).cursor is None
        assert [parked.version for parked in await storage.parked()] == [1]

    # From one version to the next

    async def test_a_switch_replays_only_what_the_old_version_has_handled(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        old = await leases(storage, partitions=2)
        new = await leases(storage, partitions=2, version=2)
        for lease in (*old, new[0]):
            await storage.save(lease, Progress(second, 2))
        await storage.save(new[1], Progress(first, 1))
        await storage.switch(NAME, 2)
        assert await storage.live_version(NAME) == 2
        now = await leases(storage, partitions=2, version=2)
        assert [lease.replay_until for lease in now] == [None, second]
        assert all(lease.live and lease.active for lease in now)
        assert not any(lease.live for lease in await leases(storage, partitions=2))
        for lease in new:
            with pytest.raises(LeaseLostError):
                await storage.save(replace(lease, cursor=second), Progress(second, 0))

    async def test_a_switch_waits_until_the_old_version_is_as_far(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        old, new = await lease_of(storage), await lease_of(storage, version=2)
        await storage.save(new, Progress(second, 2))
        await storage.save(old, Progress(first, 1))
        switch = asyncio.create_task(storage.switch(NAME, 2))
        await asyncio.sleep(0.05)
        assert not switch.done()
        assert await storage.live_version(NAME) == 1
        assert (await status_of(storage, 2)).partitions[0].state is PartitionState.PAUSED
        await storage.save(replace(old, cursor=first), Progress(second, 1))
        await switch
        lease = await lease_of(storage, version=2)
        assert (lease.live, lease.active, lease.replay_until) == (True, True, None)

    async def test_a_switch_gives_up_after_its_time(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        await leases(storage)
        await storage.save(await lease_of(storage, version=2), Progress(place, 1))
        with pytest.raises(SubscriptionError, match=r"version 1 .*version 2 .*run.*again"):
            await storage.switch(NAME, 2, within=0.01)
        assert await storage.live_version(NAME) == 1
        assert (await lease_of(storage, version=2)).active

    async def test_a_switch_fences_both_versions_out(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        for version in (1, 2):
            await storage.save(await lease_of(storage, version=version), Progress(first, 1))
        held = [await lease_of(storage, version=version) for version in (1, 2)]
        await storage.switch(NAME, 2)
        for lease in held:
            with pytest.raises(LeaseLostError):
                await storage.save(lease, Progress(second, 1))
        assert [(await lease_of(storage, version=version)).live for version in (1, 2)] == [False, True]

    async def test_a_switch_that_fails_leaves_a_pause_as_it_was(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (first,) = await places(store, 1)
        await lease_of(storage)
        await storage.save(await lease_of(storage, version=2), Progress(first, 1))
        for paused in (False, True):
            if paused:
                await storage.pause(NAME, 2)
            with pytest.raises(SubscriptionError):
                await storage.switch(NAME, 2, within=0)
            assert (await lease_of(storage, version=2)).active is not paused

    async def test_the_live_version_stays_while_there_are_others(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 1)
        await storage.register(NAME, 2, 1)
        with pytest.raises(ConfigurationError, match="switch"):
            await storage.remove(NAME, 1)
        assert await storage.live_version(NAME) == 1

    async def test_a_switch_needs_the_same_number_of_partitions(self, storage: SubscriptionStore) -> None:
        await storage.register(NAME, 1, 1)
        await storage.register(NAME, 2, 2)
        with pytest.raises(ConfigurationError, match="partitions"):
            await storage.switch(NAME, 2)
        assert await storage.live_version(NAME) == 1
        assert (await status_of(storage, 2)).partitions[0].state is PartitionState.WAITING

    async def test_a_switch_to_the_live_version_changes_nothing(self, storage: SubscriptionStore) -> None:
        lease = await lease_of(storage)
        await storage.switch(NAME, 1)
        assert await lease_of(storage) == lease

    async def test_a_switch_can_be_taken_back(self, store: EventStore, storage: SubscriptionStore) -> None:
        first, second = await places(store, 2)
        for version in (1, 2):
            await storage.save(await lease_of(storage, version=version), Progress(first, 1))
        await storage.switch(NAME, 2)
        await storage.save(await lease_of(storage, version=2), Progress(second, 1))
        await storage.switch(NAME, 1)
        assert await storage.live_version(NAME) == 1
        assert (await lease_of(storage)).replay_until == second

    async def test_a_switch_away_from_a_version_that_replays_keeps_the_end_of_its_replay(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        await storage.save(await lease_of(storage), Progress(second, 2))
        await storage.reset(NAME)
        for version in (1, 2):
            await storage.save(await lease_of(storage, version=version), Progress(first, 1))
        await storage.switch(NAME, 2)
        assert (await lease_of(storage, version=2)).replay_until == second

    # Parked events

    async def test_a_parked_event_can_be_looked_at(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 2)
        lease = await lease_of(storage)
        await storage.park(lease, events[:1], "ValueError: no", 3)
        await storage.park(lease, events[1:], None, 0)
        failed, waits = await storage.parked(NAME)
        assert (failed.name, failed.version, failed.stream_id, failed.event_version) == (NAME, 1, ORDER, 1)
        assert (failed.event_type, failed.position) == ("Counted", events[0].position)
        assert (failed.error, failed.attempts) == ("ValueError: no", 3)
        assert (waits.event_version, waits.error, waits.attempts) == (2, None, 0)
        assert abs(datetime.now(UTC) - failed.parked_at) < timedelta(minutes=1)
        assert (await status_of(storage)).parked == 2
        assert not (await lease_of(storage)).retry
        assert await storage.to_retry(lease) == []

    async def test_to_park_again_keeps_the_newest_error(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 2)
        lease = await lease_of(storage)
        await storage.park(lease, events[:1], "first", 3)
        await storage.park(lease, events[:1], "second", 6)
        await storage.park(lease, events, None, 0)
        failed, waits = await storage.parked(NAME)
        assert (failed.error, failed.attempts) == ("second", 6)
        assert (waits.error, waits.attempts) == (None, 0)

    async def test_any_text_can_be_an_error(self, store: EventStore, storage: SubscriptionStore) -> None:
        events = await append(store, ORDER, 1)
        lease = await lease_of(storage)
        await storage.park(lease, events, "'; DROP TABLE dead_letters; -- %s $1 {x} \x00 😀", 1)
        await storage.fail(lease, "\x00 \n\t %s", stop=False)
        assert len(await storage.parked(NAME)) == 1
        assert (await status_of(storage)).partitions[0].error

    async def test_parked_events_are_listed_oldest_first_up_to_a_limit(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 4)
        lease, other = await lease_of(storage), await lease_of(storage, name="another")
        await storage.park(lease, events[2:3], "no", 1)
        await storage.park(other, events[:2], "no", 1)
        assert [parked.event_version for parked in await storage.parked()] == [3, 1, 2]
        assert [parked.event_version for parked in await storage.parked(limit=2)] == [3, 1]
        assert [parked.event_version for parked in await storage.parked("another")] == [1, 2]

    async def test_a_partition_knows_its_own_parked_streams(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        for number in range(20):
            await append(store, order(number), 1)
        held = await leases(storage, partitions=3)
        pages = [
            await store.read_page(only=EventFilter(partition=number, partitions=3)) for number in range(3)
        ]
        for lease, page in zip(held[:2], pages[:2], strict=True):
            await storage.park(lease, page.events, "no", 1)
        streams = [{event.stream_id for event in page.events} for page in pages]
        assert all(streams)
        assert [await storage.parked_streams(lease) for lease in held] == [streams[0], streams[1], set()]
        await storage.retry_parked(NAME, next(iter(streams[1])))
        assert [lease.retry for lease in await leases(storage, partitions=3)] == [False, True, False]
        assert len(await storage.to_retry(held[1])) == 1

    async def test_streams_to_be_retried_come_by_position_and_each_by_version(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        third, first, second = [*(await append(store, OTHER, 1)), *(await append(store, ORDER, 2))]
        fourth = (await append(store, OTHER, 1))[0]
        (fifth,) = await append(store, order(3), 1)
        lease = await lease_of(storage)
        await storage.park(lease, [fifth, second, fourth, first, third], "no", 3)
        assert await storage.retry_parked(NAME, ORDER) == 2
        assert (await lease_of(storage)).retry
        assert [e.event_version for e in await storage.to_retry(lease)] == [1, 2]
        assert await storage.retry_parked(NAME, OTHER) == 2
        assert [(e.stream_id, e.event_version) for e in await storage.to_retry(lease)] == [
            (OTHER, 1),
            (OTHER, 2),
            (ORDER, 1),
            (ORDER, 2),
        ]
        assert await storage.retry_parked(NAME) == 5
        assert len(await storage.to_retry(lease)) == 5
        assert await storage.retry_parked(NAME, order(99)) == 0

    async def test_a_retry_that_fails_waits_for_the_next_one(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events, others = await append(store, ORDER, 2), await append(store, OTHER, 1)
        lease = await lease_of(storage)
        await storage.park(lease, [*events, *others], "no", 3)
        await storage.retry_parked(NAME)
        await storage.park(lease, events[:1], "still no", 6)
        assert [e.stream_id for e in await storage.to_retry(lease)] == [OTHER]
        await storage.unpark(lease, OTHER, 1)
        assert not (await lease_of(storage)).retry
        assert [(e.event_version, e.error) for e in await storage.parked(NAME)] == [
            (1, "still no"),
            (2, "no"),
        ]

    async def test_an_event_that_only_waits_does_not_undo_what_was_asked_for(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 2)
        lease = await lease_of(storage)
        await storage.park(lease, events[:1], "no", 3)
        await storage.retry_parked(NAME)
        await storage.park(lease, events[1:], None, 0)
        assert (await lease_of(storage)).retry
        assert [e.event_version for e in await storage.to_retry(lease)] == [1, 2]

    async def test_an_event_that_waits_for_nothing_is_retried_unasked(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 3)
        lease = await lease_of(storage)
        await storage.park(lease, events[:1], "no", 3)
        await storage.drop_parked(NAME)
        await storage.park(lease, events[1:], None, 0)
        assert (await lease_of(storage)).retry
        assert [e.event_version for e in await storage.to_retry(lease)] == [2, 3]

    async def test_what_was_handled_is_parked_no_more(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 2)
        lease = await lease_of(storage)
        await storage.park(lease, events, "no", 3)
        await storage.retry_parked(NAME)
        await storage.unpark(lease, ORDER, 1)
        assert [e.event_version for e in await storage.to_retry(lease)] == [2]
        await storage.unpark(lease, ORDER, 2)
        await storage.unpark(lease, ORDER, 2)
        assert await storage.parked_streams(lease) == set()

    async def test_parked_events_are_dropped_by_stream_or_all(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events, others = await append(store, ORDER, 2), await append(store, OTHER, 1)
        lease = await lease_of(storage)
        await storage.park(lease, [*events, *others], "no", 3)
        assert await storage.drop_parked(NAME, order(99)) == 0
        assert await storage.drop_parked(NAME, ORDER) == 2
        assert await storage.parked_streams(lease) == {OTHER}
        assert await storage.drop_parked(NAME) == 1
        assert await storage.parked() == []

    async def test_parked_events_belong_to_their_version(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        events = await append(store, ORDER, 1)
        for version in (1, 2):
            await storage.park(await lease_of(storage, version=version), events, "no", 1)
        assert await storage.retry_parked(NAME, version=2) == 1
        assert not (await lease_of(storage)).retry
        assert (await lease_of(storage, version=2)).retry
        assert await storage.drop_parked(NAME, ORDER, 2) == 1
        assert [parked.version for parked in await storage.parked()] == [1]
        assert await storage.drop_parked(NAME) == 1

    # Waiting

    async def test_an_event_before_the_checkpoint_needs_no_waiting(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        first, second = await places(store, 2)
        await storage.save(await lease_of(storage), Progress(first, 1))
        await storage.wait_until(NAME, ORDER, 1, within=0)
        with pytest.raises(WaitTimeoutError) as late:
            await storage.wait_until(NAME, ORDER, 2, within=0.01)
        assert (late.value.name, late.value.stream_id, late.value.version) == (NAME, ORDER, 2)
        assert late.value.seconds == 0.01
        await storage.save(replace(await lease_of(storage), cursor=first), Progress(second, 1))
        await storage.wait_until(NAME, ORDER, 2, within=0)

    async def test_waiting_ends_with_the_checkpoint_that_covers_the_event(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        lease = await lease_of(storage)
        waiting = asyncio.create_task(storage.wait_until(NAME, ORDER, 1))
        await asyncio.sleep(0.02)
        (place,) = await places(store, 1)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await storage.save(lease, Progress(place, 1))
        await waiting

    async def test_waiting_may_begin_before_the_first_worker_does(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        waiting = asyncio.create_task(storage.wait_until(NAME, ORDER, 1))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await storage.save(await lease_of(storage), Progress(place, 1))
        await waiting

    async def test_waiting_looks_at_the_partition_of_the_stream(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        held = await leases(storage, partitions=4)
        pages = [await store.read_page(only=EventFilter(partition=n, partitions=4)) for n in range(4)]
        (own,) = [number for number, page in enumerate(pages) if page.events]
        for lease in held:
            if lease.partition != own:
                await storage.save(lease, Progress(place, 0))
        with pytest.raises(WaitTimeoutError):
            await storage.wait_until(NAME, ORDER, 1, within=0.01)
        await storage.save(held[own], Progress(place, 1))
        await storage.wait_until(NAME, ORDER, 1)

    async def test_waiting_for_a_parked_event_is_in_vain(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        lease = await lease_of(storage)
        await storage.park(lease, await store.load(ORDER), "no", 3)
        await storage.save(lease, Progress(place, 0))
        with pytest.raises(EventParkedError) as parked:
            await storage.wait_until(NAME, ORDER, 1)
        assert (parked.value.name, parked.value.stream_id, parked.value.version) == (NAME, ORDER, 1)

    async def test_waiting_is_for_the_live_version_or_a_given_one(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        (place,) = await places(store, 1)
        await leases(storage)
        await storage.save(await lease_of(storage, version=2), Progress(place, 1))
        await storage.wait_until(NAME, ORDER, 1, version=2)
        with pytest.raises(WaitTimeoutError):
            await storage.wait_until(NAME, ORDER, 1, within=0.01)

    # What others see

    async def test_a_status_tells_how_much_is_left(
        self, store: EventStore, storage: SubscriptionStore
    ) -> None:
        cursors = await places(store, 5)
        lease = await lease_of(storage)
        (partition,) = (await status_of(storage)).partitions
        assert partition.behind == 5
        assert not partition.caught_up
        assert 0 < partition.behind_seconds < 60
        await storage.save(lease, Progress(cursors[2], 3))
        assert (await status_of(storage)).partitions[0].behind == 2
        await storage.save(replace(lease, cursor=cursors[2]), Progress(cursors[4], 2))
        (partition,) = (await status_of(storage)).partitions
        assert (partition.behind, partition.behind_seconds, partition.caught_up) == (0, 0, True)
        await append(store, OTHER, 1)
        assert (await status_of(storage)).partitions[0].behind == 1

    async def test_statuses_come_by_name_and_version(self, storage: SubscriptionStore) -> None:
        for name, version in (("b", 1), ("a", 2), ("a", 10), ("a", 1)):
            await storage.register(name, version, 2)
        statuses = await storage.statuses()
        assert [(s.name, s.version) for s in statuses] == [("a", 1), ("a", 2), ("a", 10), ("b", 1)]
        assert [p.partition for p in statuses[0].partitions] == [0, 1]
        assert [s.name for s in await storage.statuses("b")] == ["b"]

    async def test_errors_that_may_pass_are_known(self, storage: SubscriptionStore) -> None:
        for passing in (ConnectionResetError(), TimeoutError(), LeaseLostError(NAME, 1, 0)):
            assert storage.is_transient(passing)
        for lasting in (ValueError(), KeyError("x"), ConcurrencyError(ORDER, 1, 2), StoreClosedError()):
            assert not storage.is_transient(lasting)
