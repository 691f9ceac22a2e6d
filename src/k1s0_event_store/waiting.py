"""Waiting for an event, for a while."""

from __future__ import annotations

import asyncio


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set (True), or for so long."""
    try:
        # Not wait_for: in Python 3.11 it forgets a cancellation that meets the event.
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
