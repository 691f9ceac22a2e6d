"""The inbox in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from k1s0_event_store.inbox import Inbox, check_before, check_message_id


class InMemoryInbox(Inbox):
    """Inbox in memory. It has no transactions: a mark stays once its block has come to its end."""

    def __init__(self, consumer: str) -> None:
        super().__init__(consumer)
        self._lock = threading.Lock()
        self._handled: dict[str, datetime] = {}
        self._running: dict[str, Future[None]] = {}

    @asynccontextmanager
    async def once(self, session: Any, message_id: str) -> AsyncIterator[bool]:
        ended = await self._claim(check_message_id(message_id))
        if ended is None:
            yield False
            return
        try:
            yield True
            with self._lock:
                self._handled[message_id] = datetime.now(UTC)
        finally:
            with self._lock:
                del self._running[message_id]
            ended.set_result(None)

    async def forget(self, session: Any, before: datetime) -> int:
        check_before(before)
        with self._lock:
            old = [message_id for message_id, at in self._handled.items() if at < before]
            for message_id in old:
                del self._handled[message_id]
        return len(old)

    async def _claim(self, message_id: str) -> Future[None] | None:
        """What to set when the block ends; None for a message that was handled. Waits for other blocks."""
        mine: Future[None] = Future()
        # Who waits for it and is cancelled must not cancel it for the others.
        mine.set_running_or_notify_cancel()
        while True:
            with self._lock:
                if message_id in self._handled:
                    return None
                running = self._running.setdefault(message_id, mine)
            if running is mine:
                return mine
            await asyncio.wrap_future(running)
