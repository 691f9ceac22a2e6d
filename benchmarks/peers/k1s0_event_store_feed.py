"""This library for the comparison of projections: a handler per event, and one for many events."""

import time
from itertools import count

import k1s0_event_store_pg
from _read_model import COUNT, EMPTY, NAMED, TABLE
from k1s0_event_store_pg import append
from sqlalchemy import text

from k1s0_event_store import PostgresSubscriptionStore, Projection, SubscriptionRunner

__all__ = ["append", "clear", "project", "project_batch", "rows", "setup"]

INSERT = text(NAMED)
storage: PostgresSubscriptionStore
runs = count(1)


async def setup(dsn: str, pool_size: int = 10) -> None:
    global storage
    await k1s0_event_store_pg.setup(dsn, pool_size)
    storage = PostgresSubscriptionStore(bind=k1s0_event_store_pg.store.bind)
    await _execute(TABLE.format(id="bigint"))


async def clear() -> None:
    await _execute(EMPTY)


async def rows() -> int:
    return (await _execute(COUNT)).scalar()


async def project() -> float:
    return await _run(Projection(f"bench-{next(runs)}", _handle))


async def project_batch() -> float:
    return await _run(Projection(f"bench-{next(runs)}", _handle_batch, batch=True))


async def _run(projection) -> float:
    await SubscriptionRunner(k1s0_event_store_pg.store, storage, [projection]).run_until_caught_up()
    return time.perf_counter()


async def _handle(event, session) -> None:
    await session.execute(INSERT, _row(event))


async def _handle_batch(events, session) -> None:
    await session.execute(INSERT, [_row(event) for event in events])


def _row(event) -> dict:
    total = event.payload["total"]
    return {
        "id": event.position, "stream": event.stream_id.aggregate_id, "version": event.version, "total": total
    }  # fmt: skip


async def _execute(statement: str):
    async with k1s0_event_store_pg.store.bind.begin() as connection:
        return await connection.execute(text(statement))
