"""The database under a command: a server to run on, and work in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.errors import translate
from k1s0_event_store.sandbox import running_server

T = TypeVar("T")


@contextmanager
def server(dsn: str | None, folder: Path) -> Iterator[str]:
    """`dsn` as it is; without one the DSN of an embedded server with its data in `folder`/data."""
    if dsn is not None:
        yield dsn
        return
    with running_server(folder / "data") as embedded:
        yield embedded


async def in_transaction(config: EventStoreConfig, work: Callable[[sa.Connection], T]) -> T:
    """Run blocking `work` in one transaction, on asyncpg; database errors come out as EventStoreError."""
    engine = create_async_store_engine(config)
    connecting = True
    try:
        async with engine.begin() as connection:
            connecting = False
            return await connection.run_sync(work)
    except Exception as exc:
        error = translate(exc, config.schema, connecting=connecting)
        if error is None:
            raise
        raise error from exc
    finally:
        await engine.dispose()
