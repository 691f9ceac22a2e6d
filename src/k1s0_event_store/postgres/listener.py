"""A connection of its own that hears when something was appended: a wake-up, never the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.waiting import wait_for_event

logger = logging.getLogger("k1s0_event_store.subscriptions")

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_ALIVE_SECONDS: Final = 20.0


@asynccontextmanager
async def listening(
    engine: AsyncEngine, config: EventStoreConfig, wake: Callable[[], None]
) -> AsyncIterator[None]:
    """Call `wake` for every notification; connects again when the connection is lost.

    Needs asyncpg and a connection that stays: not a transaction pooler. Else nothing is heard.
    """
    if engine.dialect.driver != "asyncpg" or config.transaction_pooler:
        logger.warning("notifications need asyncpg and no transaction pooler; polling instead")
        yield
        return
    task = asyncio.create_task(_listen_for_ever(engine, config.schema, wake))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _listen_for_ever(engine: AsyncEngine, channel: str, wake: Callable[[], None]) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            await _listen(engine, channel, wake)
            pause = _FIRST_PAUSE
        except Exception as error:
            logger.warning("no notifications for now, polling goes on", exc_info=error)
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


async def _listen(engine: AsyncEngine, channel: str, wake: Callable[[], None]) -> None:
    """Listen until the connection ends."""
    raw = await engine.raw_connection()
    connection: Any = raw.driver_connection
    raw.detach()  # it does not go back to the pool, and takes no place in it
    try:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda *_: ended.set())
        await connection.add_listener(channel, lambda *_: wake())
        wake()  # what was appended while nobody listened
        while not await wait_for_event(ended, _ALIVE_SECONDS):
            async with asyncio.timeout(_ALIVE_SECONDS):
                await connection.fetch("SELECT 1")
    finally:
        connection.terminate()
