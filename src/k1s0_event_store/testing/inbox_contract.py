"""The contract suite of inboxes: what every one must show. For authors of backends.

Subclass the classes in a test module and provide two fixtures: `make_inbox`, a function that makes the
inbox of a consumer, and `begin`, a function that opens a transaction: an async context manager that
gives what `once` takes as its session, commits at its end, and rolls back if its block raises.

    class TestMyInbox(InboxContract, RacingInboxContract, TransactionalInboxContract):
        @pytest.fixture
        def make_inbox(self): ...

        @pytest.fixture
        def begin(self): ...

Marks begin empty for each test, and RACERS transactions must be able to run at the same time.
TransactionalInboxContract is for inboxes whose marks commit, or not, with the transaction. Needs
pytest-asyncio in auto mode.
"""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.inbox import Inbox
from k1s0_event_store.testing.contract import ODD_NAMES

MakeInbox: TypeAlias = Callable[[str], Inbox]
Begin: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]

RACERS = 16
NEVER = datetime(2000, 1, 1, tzinfo=UTC)


class HandlerError(Exception):
    """What the handlers of these tests raise."""


async def handle(inbox: Inbox, begin: Begin, message_id: str) -> bool:
    """Handle a message in a transaction of its own; True if it was new."""
    async with begin() as session, inbox.once(session, message_id) as is_new:
        return is_new


async def fail(inbox: Inbox, begin: Begin, message_id: str) -> None:
    """Handle a message, and fail."""
    with pytest.raises(HandlerError):
        async with begin() as session, inbox.once(session, message_id):
            raise HandlerError


async def forget(inbox: Inbox, begin: Begin, before: datetime) -> int:
    """Forget in a transaction of its own."""
    async with begin() as session:
        return await inbox.forget(session, before)


def later() -> datetime:
    """A time after everything."""
    return datetime.now(UTC) + timedelta(hours=1)


class _Fixtures:
    @pytest.fixture
    def inbox(self, make_inbox: MakeInbox) -> Inbox:
        return make_inbox("billing")


class InboxContract(_Fixtures):
    """One consumer after the other."""

    async def test_a_message_is_new_once(self, inbox: Inbox, begin: Begin) -> None:
        assert [await handle(inbox, begin, "m-1") for _ in range(3)] == [True, False, False]

    async def test_a_message_is_new_once_in_one_transaction(self, inbox: Inbox, begin: Begin) -> None:
        async with begin() as session:
            for expected in (True, False, False):
                async with inbox.once(session, "m-1") as is_new:
                    assert is_new is expected
        assert await handle(inbox, begin, "m-1") is False

    async def test_messages_know_nothing_of_each_other(self, inbox: Inbox, begin: Begin) -> None:
        async with begin() as session:
            async with inbox.once(session, "m-1") as first, inbox.once(session, "m-2") as second:
                assert (first, second) == (True, True)
            async with inbox.once(session, "m-3") as third:
                assert third is True
        assert [await handle(inbox, begin, name) for name in ("m-1", "m-2", "m-3")] == [False] * 3

    async def test_consumers_know_nothing_of_each_other(self, make_inbox: MakeInbox, begin: Begin) -> None:
        billing, shipping = make_inbox("billing"), make_inbox("shipping")
        assert billing.consumer == "billing"
        assert [await handle(inbox, begin, "m-1") for inbox in (billing, shipping)] == [True, True]
        assert [await handle(inbox, begin, "m-1") for inbox in (billing, shipping)] == [False, False]
        assert await forget(shipping, begin, later()) == 1
        assert [await handle(inbox, begin, "m-1") for inbox in (billing, shipping)] == [False, True]

    async def test_what_the_block_raises_comes_out_and_the_message_is_new_again(
        self, inbox: Inbox, begin: Begin
    ) -> None:
        for _ in range(2):
            await fail(inbox, begin, "m-1")
        assert [await handle(inbox, begin, "m-1") for _ in range(2)] == [True, False]

    async def test_a_cancelled_block_leaves_the_message_new(self, inbox: Inbox, begin: Begin) -> None:
        entered = asyncio.Event()

        async def hang() -> None:
            async with begin() as session, inbox.once(session, "m-1"):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hang())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await handle(inbox, begin, "m-1") is True

    async def test_an_error_that_the_caller_catches_takes_back_this_mark_and_no_other(
        self, inbox: Inbox, begin: Begin
    ) -> None:
        async with begin() as session:
            async with inbox.once(session, "m-1"):
                pass
            with pytest.raises(HandlerError):
                async with inbox.once(session, "m-2"):
                    raise HandlerError
            async with inbox.once(session, "m-3"):
                pass
        assert [await handle(inbox, begin, name) for name in ("m-1", "m-2", "m-3")] == [False, True, False]

    async def test_an_error_in_a_repetition_changes_nothing(self, inbox: Inbox, begin: Begin) -> None:
        await handle(inbox, begin, "m-1")
        await fail(inbox, begin, "m-1")
        assert await handle(inbox, begin, "m-1") is False

    async def test_any_text_of_1_to_255_characters_is_an_id_and_a_consumer_of_its_own(
        self, make_inbox: MakeInbox, begin: Begin
    ) -> None:
        names = list(dict.fromkeys([*ODD_NAMES, "Ada", "ada", "ada ", "A\u030a", "\u00c5", "{inbox}"]))
        for inbox in [make_inbox("billing"), *map(make_inbox, names[:4])]:
            for expected in (True, False):
                assert [await handle(inbox, begin, name) for name in names] == [expected] * len(names)
        for name in names:
            assert await handle(make_inbox(name), begin, "m-1") is True

    @pytest.mark.parametrize("wrong", ["", "x" * 256, "nul\x00", "\ud800", 5, None, b"m-1"])
    async def test_what_is_no_message_id_or_consumer_is_refused(
        self, make_inbox: MakeInbox, inbox: Inbox, begin: Begin, wrong: Any
    ) -> None:
        with pytest.raises(InvalidInputError, match="name of a consumer must"):
            make_inbox(wrong)
        async with begin() as session:
            with pytest.raises(InvalidInputError, match="message's id must"):
                async with inbox.once(session, wrong):
                    raise AssertionError("it got in")
        assert await forget(inbox, begin, later()) == 0

    async def test_marks_of_before_a_time_are_forgotten(self, inbox: Inbox, begin: Begin) -> None:
        for name in ("m-1", "m-2"):
            await handle(inbox, begin, name)
        await asyncio.sleep(0.02)
        between = datetime.now(UTC)
        await asyncio.sleep(0.02)
        await handle(inbox, begin, "m-3")
        assert await forget(inbox, begin, NEVER) == 0
        assert await forget(inbox, begin, between) == 2
        assert await forget(inbox, begin, between) == 0
        assert [await handle(inbox, begin, name) for name in ("m-1", "m-2", "m-3")] == [True, True, False]
        assert await forget(inbox, begin, later()) == 3

    @pytest.mark.parametrize("wrong", [datetime(2026, 1, 1), None, "2026-01-01", 0])
    async def test_what_is_no_time_is_refused_and_nothing_forgotten(
        self, inbox: Inbox, begin: Begin, wrong: Any
    ) -> None:
        await handle(inbox, begin, "m-1")
        async with begin() as session:
            with pytest.raises(InvalidInputError, match="before must be a timezone-aware datetime"):
                await inbox.forget(session, wrong)
        assert await handle(inbox, begin, "m-1") is False


class RacingInboxContract(_Fixtures):
    """Many consumers at the same time."""

    async def test_one_of_those_that_race_for_a_message_handles_it(self, inbox: Inbox, begin: Begin) -> None:
        for number in range(5):
            racers = [handle(inbox, begin, f"m-{number}") for _ in range(RACERS)]
            assert sorted(await asyncio.gather(*racers)) == [False] * (RACERS - 1) + [True]

    async def test_a_racer_waits_for_the_block_of_the_first(self, inbox: Inbox, begin: Begin) -> None:
        async with begin() as session, inbox.once(session, "m-1"):
            others = [asyncio.create_task(handle(inbox, begin, "m-1")) for _ in range(3)]
            assert await handle(inbox, begin, "m-2") is True
            _, waiting = await asyncio.wait(others, timeout=0.1)
            assert waiting == set(others)
        assert await asyncio.gather(*others) == [False] * 3

    async def test_one_that_is_cancelled_while_it_waits_disturbs_nobody(
        self, inbox: Inbox, begin: Begin
    ) -> None:
        async with begin() as session, inbox.once(session, "m-1"):
            impatient, patient = (asyncio.create_task(handle(inbox, begin, "m-1")) for _ in range(2))
            await asyncio.wait([impatient, patient], timeout=0.1)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
        assert await patient is False

    async def test_after_a_failure_one_of_those_that_wait_is_next(self, inbox: Inbox, begin: Begin) -> None:
        handled: list[int] = []

        async def work(number: int) -> None:
            async with begin() as session, inbox.once(session, "m-1") as is_new:
                if is_new:
                    handled.append(number)
                    if len(handled) < 6:
                        raise HandlerError

        outcomes = await asyncio.gather(*map(work, range(RACERS)), return_exceptions=True)
        assert len(handled) == len(set(handled)) == 6
        failed = [number for number, outcome in enumerate(outcomes) if outcome is not None]
        assert sorted(failed) == sorted(handled[:5])
        assert all(isinstance(outcomes[number], HandlerError) for number in failed)
        assert await handle(inbox, begin, "m-1") is False

    async def test_many_consumers_handle_many_messages_once_each(self, inbox: Inbox, begin: Begin) -> None:
        names = [f"m-{number}" for number in range(20)]
        handled: list[str] = []

        async def work(number: int) -> None:
            chooser = random.Random(number)  # noqa: S311 - the order of a test
            for name in chooser.sample(names, len(names)):
                async with begin() as session, inbox.once(session, name) as is_new:
                    await asyncio.sleep(chooser.random() * 0.002)
                    if is_new:
                        handled.append(name)

        await asyncio.gather(*map(work, range(RACERS)))
        assert sorted(handled) == sorted(names)

    async def test_messages_are_handled_while_others_are_forgotten(self, inbox: Inbox, begin: Begin) -> None:
        async def work(number: int) -> None:
            for name in range(10):
                assert await handle(inbox, begin, f"m-{number}-{name}") is True

        async def forget_old() -> int:
            return sum([await forget(inbox, begin, datetime.now(UTC)) for _ in range(10)])

        forgetting = asyncio.create_task(forget_old())
        await asyncio.gather(*map(work, range(8)))
        assert await forgetting + await forget(inbox, begin, later()) == 80


class TransactionalInboxContract(_Fixtures):
    """Marks belong to the transaction."""

    async def test_a_mark_goes_with_its_transaction(self, inbox: Inbox, begin: Begin) -> None:
        with contextlib.suppress(HandlerError):
            async with begin() as session:
                async with inbox.once(session, "m-1") as is_new:
                    assert is_new is True
                raise HandlerError
        assert await handle(inbox, begin, "m-1") is True

    @pytest.mark.parametrize("commit", [True, False])
    async def test_who_comes_second_waits_for_the_transaction_of_the_first(
        self, inbox: Inbox, begin: Begin, commit: bool
    ) -> None:
        others: list[asyncio.Task[bool]] = []
        with contextlib.suppress(HandlerError):
            async with begin() as session:
                async with inbox.once(session, "m-1"):
                    pass
                others += [asyncio.create_task(handle(inbox, begin, "m-1")) for _ in range(RACERS - 1)]
                _, waiting = await asyncio.wait(others, timeout=0.1)
                assert waiting == set(others)
                if not commit:
                    raise HandlerError
        assert sum(await asyncio.gather(*others)) == (0 if commit else 1)

    async def test_once_a_block_is_taken_back_nobody_waits_for_its_transaction(
        self, inbox: Inbox, begin: Begin
    ) -> None:
        others: list[asyncio.Task[bool]] = []
        async with begin() as session:
            with contextlib.suppress(HandlerError):
                async with inbox.once(session, "m-1"):
                    others.append(asyncio.create_task(handle(inbox, begin, "m-1")))
                    _, waiting = await asyncio.wait(others, timeout=0.1)
                    assert waiting == set(others)
                    raise HandlerError
            done, _ = await asyncio.wait(others, timeout=10)
            assert [other.result() for other in done] == [True]
            async with inbox.once(session, "m-1") as is_new:
                assert is_new is False

    async def test_of_racers_that_roll_back_none_has_handled_the_message(
        self, inbox: Inbox, begin: Begin
    ) -> None:
        async def give_up() -> bool:
            async with begin() as session:
                async with inbox.once(session, "m-1") as is_new:
                    pass
                if is_new:
                    raise HandlerError
            return is_new

        outcomes = await asyncio.gather(*(give_up() for _ in range(RACERS)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [HandlerError] * RACERS
        assert await handle(inbox, begin, "m-1") is True

    async def test_forgetting_counts_once_it_is_committed(self, inbox: Inbox, begin: Begin) -> None:
        await handle(inbox, begin, "m-1")
        with contextlib.suppress(HandlerError):
            async with begin() as session:
                assert await inbox.forget(session, later()) == 1
                async with inbox.once(session, "m-1") as is_new:
                    assert is_new is True
                raise HandlerError
        assert await handle(inbox, begin, "m-1") is False
