"""Appends that are called while another one is under way gather, and travel together in one statement.

An append that finds nothing under way goes alone and at once. Those that come after it form batches, one
under way at a time: while it is, the next one gathers, so nobody waits for a timer. Of one stream only the
first append is in a batch or alone under way, the others stand behind it in the order of their calls.

What an append is told is its version, its error, or to go alone, which it then does in the task of its
caller: as it would without all this.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final

from k1s0_event_store.batch import Batch
from k1s0_event_store.envelope import EventVersion, StreamId
from k1s0_event_store.exceptions import EventStoreError, StoreClosedError
from k1s0_event_store.postgres.operations import Answer, Append

PLACES: Final = 1_024
"""Appends that are taken in at a time; whoever comes then waits for a place, in the order of coming."""
BATCH_APPENDS: Final = 256
BATCH_SIZE: Final = 512 * 1024
"""What a batch holds at most: about the bytes that it adds to the table."""
LARGE: Final = 64 * 1024
"""An append of more than that goes alone."""
_EVENT: Final = 200
"""Bytes of an event beside its JSON."""


class _Turn:
    """An append that waits for its answer; that is cancelled with its caller, and only then."""

    __slots__ = ("answer", "size", "wanted")

    def __init__(self, wanted: Append, answer: asyncio.Future[Answer]) -> None:
        self.wanted = wanted
        self.answer = answer
        self.size = _size(wanted.batch)


class Coalescer:
    """Decides which appends go together. Belongs to one event loop.

    `alone` sends one append as it is, `together` several to different streams.
    """

    def __init__(
        self,
        alone: Callable[[Append], Awaitable[EventVersion]],
        together: Callable[[Sequence[Append]], Awaitable[Sequence[Answer]]],
    ) -> None:
        self._alone = alone
        self._together = together
        self._places = asyncio.Semaphore(PLACES)
        # Who stands behind the one append of its stream that has its turn, for each stream that has one.
        self._behind: dict[StreamId, deque[_Turn]] = {}
        # Those that have their turn and wait for the next batch.
        self._ready: deque[_Turn] = deque()
        # The one that found nothing under way, and the task that sends batches, while there is work.
        self._first: _Turn | None = None
        self._sender: asyncio.Task[None] | None = None
        self._inside = 0
        self._empty = asyncio.Event()
        self._closed = False

    async def append(self, wanted: Append) -> EventVersion:
        """The append's answer, when its turn has come.

        Cancelled while it waits, it is taken out and nothing is stored; cancelled while its batch is
        under way, it is stored or not, and the same append again settles it.
        """
        if self._closed:
            raise StoreClosedError("this store was closed; make a new one")
        self._inside += 1
        try:
            async with self._places:
                return await self._in_turn(_Turn(wanted, asyncio.get_running_loop().create_future()))
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def close(self) -> None:
        """Take in nothing more, and wait until what was has its answers."""
        self._closed = True
        if self._inside:
            self._empty.clear()
            await self._empty.wait()
        if self._sender is not None:  # Its last batch may be of callers that were cancelled.
            await asyncio.wait([self._sender])

    async def _in_turn(self, turn: _Turn) -> EventVersion:
        self._enter(turn)
        try:
            answer = await turn.answer
            if answer is None:
                return await self._alone(turn.wanted)
        finally:
            self._end(turn)
        if isinstance(answer, EventStoreError):
            raise answer
        return answer

    def _enter(self, turn: _Turn) -> None:
        stream_id = turn.wanted.stream_id
        if stream_id in self._behind:
            self._behind[stream_id].append(turn)
        else:
            self._behind[stream_id] = deque()
            self._make_ready(turn)

    def _end(self, turn: _Turn) -> None:
        """The caller goes on. One that was cancelled is out, unless its batch is under way: that ends it."""
        stream_id = turn.wanted.stream_id
        if turn is self._first:
            self._first = None
        if not turn.answer.cancelled():
            self._call_next(stream_id)
        elif turn in self._behind.get(stream_id, ()):
            self._behind[stream_id].remove(turn)

    def _call_next(self, stream_id: StreamId) -> None:
        behind = self._behind[stream_id]
        while behind:
            turn = behind.popleft()
            if not turn.answer.cancelled():
                self._make_ready(turn)
                return
        del self._behind[stream_id]

    def _make_ready(self, turn: _Turn) -> None:
        idle = self._first is None and self._sender is None
        if idle:
            self._first = turn
        if idle or turn.size > LARGE:
            turn.answer.set_result(None)
        else:
            self._ready.append(turn)
            self._keep_sending()

    def _keep_sending(self) -> None:
        if self._ready and self._sender is None:
            # In a context of its own: what belongs to one caller must not reach a statement of many.
            self._sender = asyncio.create_task(self._send(), context=Context())

    async def _send(self) -> None:
        try:
            while turns := self._next_batch():
                await self._send_batch(turns)
                await asyncio.sleep(0)  # Who got an answer may come again, and be in the next batch.
        finally:
            self._sender = None
            self._keep_sending()

    def _next_batch(self) -> list[_Turn]:
        turns: list[_Turn] = []
        size = 0
        while self._ready and len(turns) < BATCH_APPENDS and size + self._ready[0].size <= BATCH_SIZE:
            turn = self._ready.popleft()
            if turn.answer.cancelled():
                self._call_next(turn.wanted.stream_id)
            else:
                turns.append(turn)
                size += turn.size
        return turns

    async def _send_batch(self, turns: Sequence[_Turn]) -> None:
        answers: Sequence[Answer] = [None] * len(turns)
        try:
            answers = await self._together([turn.wanted for turn in turns])
        finally:
            # Should an error come here, each goes alone and has its own: what is stored is not stored twice.
            for turn, answer in zip(turns, answers, strict=True):
                self._tell(turn, answer)

    def _tell(self, turn: _Turn, answer: Answer) -> None:
        if turn.answer.cancelled():
            self._call_next(turn.wanted.stream_id)
        else:
            turn.answer.set_result(answer)


def _size(batch: Batch) -> int:
    return sum(map(len, batch.payloads)) + sum(map(len, batch.metadata)) + _EVENT * len(batch)
