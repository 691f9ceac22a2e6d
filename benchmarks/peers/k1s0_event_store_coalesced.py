"""This library for the side-by-side comparison, with appends of several writers in one statement."""

import k1s0_event_store_pg
from k1s0_event_store_pg import append

__all__ = ["append", "setup"]


async def setup(dsn: str, pool_size: int = 10) -> None:
    await k1s0_event_store_pg.setup(dsn, pool_size, coalesce=True)
