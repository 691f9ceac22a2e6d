"""Messages that are asked for while a batch is under way travel together in the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

Send = Callable[[Sequence[T]], Awaitable[Sequence[object]]]
"""Sends a batch, and returns an answer to each: an exception, or anything else."""


class Batches(Generic[T]):
    """One batch at a time: no delay when idle, large ones under load, and always in order."""

    def __init__(self, send: Send[T], largest: int) -> None:
        self._send = send
        self._largest = largest
        self._queue: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, item: T) -> asyncio.Future[None]:
        """Have an item sent; the future is done with its answer."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.append((item, done))
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return done

    def cancel(self) -> None:
        """Send nothing any more; nobody gets an answer."""
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[: self._largest], self._queue[self._largest :]
                await self._answer(batch)
        finally:
            self._task = None

    async def _answer(self, batch: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for answer, (_, done) in zip(answers, batch, strict=True):
            if done.done():
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(None)
