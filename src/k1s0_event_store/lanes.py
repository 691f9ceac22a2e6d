"""Queues side by side: each in its order, several at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure(Generic[T]):
    """A queue that ended early: at `item`, with `rest` not begun."""

    item: T
    error: Exception
    rest: Sequence[T]


async def in_lanes(
    queues: Collection[Sequence[T]], handle: Callable[[T], Awaitable[Exception | None]], lanes: int
) -> list[Failure[T]]:
    """Have every item handled, up to `lanes` queues at a time; a queue ends where `handle` returns an error.

    What `handle` raises ends everything: nothing more is begun, what has begun comes to its end, and
    the first error is raised.
    """
    waiting, failures, errors = iter(queues), list[Failure[T]](), list[BaseException]()

    async def lane() -> None:
        for queue in waiting:
            for number, item in enumerate(queue):
                if errors:
                    return
                try:
                    error = await handle(item)
                except Exception as raised:
                    errors.append(raised)
                    return
                if error is not None:
                    failures.append(Failure(item, error, queue[number + 1 :]))
                    break

    await asyncio.gather(*(lane() for _ in range(min(lanes, len(queues)))))
    if errors:
        raise errors[0]
    return failures
