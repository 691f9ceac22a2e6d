"""Is a subscription keeping up? The answer for probes and alarms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from k1s0_event_store.delivery import describe
from k1s0_event_store.exceptions import SubscriptionNotFoundError
from k1s0_event_store.subscription import (
    PartitionState,
    PartitionStatus,
    SubscriptionStatus,
    SubscriptionStore,
)

_DATABASE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 1.0
"""For so long an answer is given again: probes cannot load the database."""


class SubscriptionHealth:
    """The health of one version of a subscription, in all the processes that share it, as JSON.

    It fails when the database does not answer, when a partition is stopped, and when the oldest
    event that nobody has handled is older than `alarm_after` seconds. What an operator has paused
    does not fail.
    """

    def __init__(
        self, storage: SubscriptionStore, name: str, version: int = 1, *, alarm_after: float = 60.0
    ) -> None:
        self._storage = storage
        self._name = name
        self._version = version
        self._alarm_after = alarm_after
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._good_until = 0.0

    async def __call__(self) -> dict[str, Any]:
        """The answer: `status` is "ok" or "failing", with its `reason`."""
        async with self._lock:
            if monotonic() >= self._good_until:
                self._answer = await self._ask()
                self._good_until = monotonic() + _ANSWER_SECONDS
            return self._answer

    async def _ask(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                statuses = await self._storage.statuses(self._name)
        except SubscriptionNotFoundError as error:
            return _answer(self._name, str(error))
        except TimeoutError:
            return _answer(self._name, f"the database has not answered within {_DATABASE_SECONDS:g} s")
        except Exception as error:
            return _answer(self._name, f"the database does not answer: {describe(error)}")
        for status in statuses:
            if status.version == self._version:
                return _answer(self._name, _reason(status.partitions, self._alarm_after), status)
        return _answer(self._name, str(SubscriptionNotFoundError(self._name, self._version)))


def _reason(partitions: Sequence[PartitionStatus], alarm_after: float) -> str | None:
    """What is wrong; None: nothing."""
    for partition in partitions:
        if partition.state is PartitionState.STOPPED:
            return f"partition {partition.partition} is stopped: {partition.error}"
    working = [one for one in partitions if one.state is not PartitionState.PAUSED]
    late = max(working, key=lambda one: one.behind_seconds, default=None)
    if late is None or late.behind_seconds <= alarm_after:
        return None
    cause = "" if late.error is None else f": {late.error}"
    return f"the oldest event has waited for {late.behind_seconds:.0f} s (limit {alarm_after:g} s){cause}"


def _answer(name: str, reason: str | None, status: SubscriptionStatus | None = None) -> dict[str, Any]:
    """The fields of an answer; without a status those that come from it are unknown (null)."""
    partitions = () if status is None else status.partitions
    return {
        "status": "ok" if reason is None else "failing",
        "reason": reason,
        "name": name,
        "backlog": None if status is None else status.behind,
        "oldest_seconds": None if status is None else round(status.behind_seconds, 3),
        "parked": None if status is None else status.parked,
        "partitions": [_partition(one) for one in partitions],
    }


def _partition(partition: PartitionStatus) -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "state": partition.state.value,
        "owner": partition.owner,
        "behind": partition.behind,
        "behind_seconds": round(partition.behind_seconds, 3),
        "error": partition.error,
    }
