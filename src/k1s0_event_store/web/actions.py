"""What an operator may do to a subscription, each with the words that ask whether to go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from k1s0_event_store.envelope import StreamId
from k1s0_event_store.subscription import PartitionState, SubscriptionStatus, SubscriptionStore


@dataclass(frozen=True, slots=True)
class Target:
    """A version of a subscription, and with parked events perhaps one stream alone."""

    name: str
    version: int
    stream_id: StreamId | None


@dataclass(frozen=True, slots=True)
class Action:
    """`does` says what will happen, `done` what has; `run` answers with a number of events, or None."""

    name: str
    label: str
    does: str
    done: str
    run: Callable[[SubscriptionStore, Target], Awaitable[int | None]]
    of_parked: bool = False
    is_dangerous: bool = False


async def _pause(store: SubscriptionStore, target: Target) -> None:
    await store.pause(target.name, target.version)


async def _resume(store: SubscriptionStore, target: Target) -> None:
    await store.resume(target.name, target.version)


async def _rebuild(store: SubscriptionStore, target: Target) -> None:
    await store.reset(target.name, target.version)


async def _retry(store: SubscriptionStore, target: Target) -> int:
    return await store.retry_parked(target.name, target.stream_id, target.version)


async def _drop(store: SubscriptionStore, target: Target) -> int:
    return await store.drop_parked(target.name, target.stream_id, target.version)


ACTIONS: Final = {
    action.name: action
    for action in (
        Action(
            "pause",
            "Pause",
            "It rests at once, in all processes. What is in hand is rolled back, or comes again.",
            "It is paused.",
            _pause,
        ),
        Action(
            "resume",
            "Resume",
            "It goes on after a pause, or after an error that has stopped it.",
            "It goes on.",
            _resume,
        ),
        Action(
            "rebuild",
            "Rebuild",
            "It goes back to the beginning and handles everything again, without firing side effects again. "
            "The read model is not emptied: that is left to you. Until it has caught up, readers see half "
            "of it. Its parked events are forgotten; they come again in their turn.",
            "It went back to the beginning; its read model is as it was.",
            _rebuild,
            is_dangerous=True,
        ),
        Action(
            "retry",
            "Retry parked",
            "The workers handle its parked events again, each stream in its order.",
            "Parked events will be retried:",
            _retry,
            of_parked=True,
        ),
        Action(
            "drop",
            "Drop parked",
            "Its parked events are forgotten for good: the handler never gets them.",
            "Parked events dropped:",
            _drop,
            of_parked=True,
            is_dangerous=True,
        ),
    )
}


def possible(status: SubscriptionStatus) -> list[Action]:
    """The actions that mean something for a subscription as it is."""
    states = {partition.state for partition in status.partitions}
    wanted = {"rebuild"}
    if states & {PartitionState.RUNNING, PartitionState.WAITING}:
        wanted.add("pause")
    if states & {PartitionState.PAUSED, PartitionState.STOPPED}:
        wanted.add("resume")
    if status.parked:
        wanted |= {"retry", "drop"}
    return [action for action in ACTIONS.values() if action.name in wanted]
