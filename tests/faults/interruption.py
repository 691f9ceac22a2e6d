"""Cancels a coroutine at its n-th suspension, and looks for what it leaves behind."""

import asyncio
import gc
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from enum import Enum

SECONDS = 60
MOST = 2_000
"""Suspensions of one call: more would be one that never ends."""


class Moment(Enum):
    AT_ONCE = "before what is awaited could happen"
    ANSWERED = "when it has happened, before the coroutine goes on"


class _Counted(Coroutine):
    """A coroutine whose suspensions are counted."""

    def __init__(self, inner, interruption):
        self._inner = inner
        self._interruption = interruption

    def send(self, value):
        return self._interruption.count(self._inner.send(value))

    def throw(self, *error):
        return self._interruption.count(self._inner.throw(*error))

    def close(self):
        self._inner.close()

    def __await__(self):
        return self


class Interruption:
    """Cancels the task of `work` at suspension `nth`.

    `in_all`: those of tasks that it makes are counted, too. `twice`: once more at its next suspension,
    while it cleans up.
    """

    def __init__(self, nth, moment, in_all=False, twice=False):
        self._nth = nth
        self._moment = moment
        self._in_all = in_all
        self._twice = twice
        self._counted = 0
        self._task = None
        self.happened = self._happened_again = False

    async def run(self, work):
        """The answer of `work`; where it is cancelled nothing, and `happened` is True."""
        loop = asyncio.get_running_loop()
        if self._in_all:
            loop.set_task_factory(self._make_task)
        try:
            self._task = asyncio.Task(_Counted(work, self), loop=loop)
            await asyncio.wait([self._task], timeout=SECONDS)
        finally:
            loop.set_task_factory(None)
        assert self._task.done(), f"it does not end {self}"
        if self.happened:
            assert self._task.cancelled(), f"it goes on although it was cancelled {self}: {self._task}"
            return None
        return self._task.result()

    def count(self, awaited):
        self._counted += 1
        if self._counted == self._nth or (self._twice and self.happened and not self._happened_again):
            self._happened_again = self.happened
            if self._moment is Moment.AT_ONCE or not hasattr(awaited, "add_done_callback"):
                self._cancel()
            else:
                awaited.add_done_callback(self._cancel)
        return awaited

    def _cancel(self, _done=None):
        self.happened = self._task.cancel() or self.happened

    def _make_task(self, loop, coroutine, **options):
        return asyncio.Task(_Counted(coroutine, self), loop=loop, **options)

    def __str__(self):
        again = ", and again while it cleans up" if self._happened_again else ""
        return f"at suspension {self._nth}, {self._moment.value}{again}"


def interruptions(step=1, **options):
    """One for each suspension and moment; ends with the one that does not happen any more."""
    for moment in Moment:
        for nth in range(1, MOST, step):
            interruption = Interruption(nth, moment, **options)
            yield interruption
            if not interruption.happened:
                break
        else:
            raise AssertionError(f"it is suspended {MOST} times")


@asynccontextmanager
async def nothing_left_behind():
    """No task goes on, and none failed unheard."""
    loop, unheard = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: unheard.append(context))
    before = asyncio.all_tasks()
    gc.freeze()  # only what is made in the block is looked through
    try:
        yield
        # The driver asks the server to cancel, and waits for its answer.
        await until(lambda: asyncio.all_tasks() <= before, "a task goes on")
        gc.collect()
    finally:
        gc.unfreeze()
        loop.set_exception_handler(None)
    assert unheard == []


async def until(is_so, what):
    """Wait until `is_so()`, which may be async."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while True:
        found = is_so()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)
