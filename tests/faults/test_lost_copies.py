"""A server that falls behind while a large append travels, and dies: asyncpg alone would wait for ever."""

import asyncio
import os
import signal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    OutcomeUnknownError,
    PostgresEventStore,
    StoreUnavailableError,
    StreamId,
)

from .interruption import SECONDS, until
from .servers import migrate, own_server

ORDER = StreamId("order", "o-1")
BATCH = [EventEnvelope(ORDER, "Counted", {"text": "x" * 2_000}) for _ in range(4_000)]
"""More than fits into the buffers between client and server."""
HIGH_WATER = 64 * 1024
"""Bytes after which a transport of asyncio has its writer wait."""


@pytest.fixture
def server():
    with own_server() as server:
        migrate(server.dsn)
        yield server


async def in_a_transaction(store):
    async with AsyncSession(store.bind) as session:
        await store.within(session).append(ORDER, BATCH)
        await session.commit()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda store: store.append(ORDER, BATCH), OutcomeUnknownError),
        (in_a_transaction, StoreUnavailableError),
    ],
    ids=["alone", "in a transaction"],
)
async def test_a_server_that_dies_while_it_is_behind_ends_a_large_append(server, call, error):
    async with PostgresEventStore(EventStoreConfig(dsn=server.dsn, pool_size=1, max_overflow=0)) as store:
        async with store.bind.connect() as connection:
            backend = await connection.scalar(text("SELECT pg_backend_pid()"))
            driver = (await connection.get_raw_connection()).driver_connection
        append = asyncio.create_task(call(store))
        await until(lambda: has_to_wait(driver, backend), "the server is never behind")
        assert not append.done()
        server.kill()
        with pytest.raises(error):
            await asyncio.wait_for(append, SECONDS)
        server.start()
        assert not await store.exists(ORDER)
        assert await store.append(ORDER, BATCH) == len(BATCH)
        assert store.bind.pool.checkedout() == 0


async def has_to_wait(driver, backend):
    """Let the server work for moments only, until the driver has more to send than it takes."""
    os.kill(backend, signal.SIGCONT)
    await asyncio.sleep(0.001)
    os.kill(backend, signal.SIGSTOP)
    await asyncio.sleep(0.01)
    return driver._transport.get_write_buffer_size() > HIGH_WATER
