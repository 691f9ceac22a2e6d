"""COPY through the connection of a SQLAlchemy transaction, which has no word for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from k1s0_event_store.postgres.errors import is_out_of_step
from k1s0_event_store.postgres.statements import Copy


async def copy_in(connection: AsyncConnection, copy: Copy) -> int:
    """The number of rows that were stored. The transaction must have begun."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        if connection.dialect.driver == "asyncpg":
            return await _copy_by_asyncpg(driver, copy)
        return await _copy_by_psycopg(driver, copy)
    except Exception as exc:
        is_lost = _is_closed(driver) or is_out_of_step(exc)
        if is_lost:
            await connection.invalidate(exc)
        _raise_as_sqlalchemy(exc, connection.dialect, is_lost)
        raise
    except BaseException as exc:
        # Cancelled in the midst of a COPY: as SQLAlchemy does it after a statement that was cancelled.
        await connection.invalidate(exc)
        raise


def copy_in_sync(connection: Connection, copy: Copy) -> int:
    """The number of rows that were stored."""
    driver: Any = connection.connection.driver_connection
    try:
        cursor = driver.cursor()
        with cursor.copy(copy.statement.dollar) as sink:
            for chunk in copy.data:
                sink.write(chunk)
        return int(cursor.rowcount)
    except Exception as exc:
        is_lost = _is_closed(driver)
        if is_lost:
            connection.invalidate(exc)
        _raise_as_sqlalchemy(exc, connection.dialect, is_lost)
        raise


async def _copy_by_asyncpg(driver: Any, copy: Copy) -> int:
    answer = await _unless_lost(
        driver,
        driver.copy_to_table(
            copy.table,
            schema_name=copy.schema,
            columns=copy.columns,
            format="binary",
            source=_one_by_one(copy.data),
        ),
    )
    return int(answer.removeprefix("COPY "))


async def _unless_lost(driver: Any, copying: Coroutine[Any, Any, str]) -> str:
    """The answer. Where the connection is lost while the server is behind, asyncpg would wait for ever."""
    task = asyncio.ensure_future(copying)
    is_lost = False

    def lose(_driver: Any) -> None:
        nonlocal is_lost
        is_lost = True
        task.cancel()

    driver.add_termination_listener(lose)
    try:
        return await task
    except asyncio.CancelledError as exc:
        current = asyncio.current_task()
        if not is_lost or (current is not None and current.cancelling()):
            raise
        raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the midst of a COPY") from exc
    finally:
        driver.remove_termination_listener(lose)


async def _one_by_one(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        # The driver waits only where the server is behind; others want to work too.
        await asyncio.sleep(0)


async def _copy_by_psycopg(driver: Any, copy: Copy) -> int:
    cursor = driver.cursor()
    async with cursor.copy(copy.statement.dollar) as sink:
        for chunk in copy.data:
            await sink.write(chunk)
    return int(cursor.rowcount)


def _is_closed(driver: Any) -> bool:
    """True after the connection was lost. SQLAlchemy has to be told, or its rollback fails."""
    return bool(driver.is_closed() if hasattr(driver, "is_closed") else driver.closed)


def _raise_as_sqlalchemy(error: Exception, dialect: Dialect, is_lost: bool) -> None:
    """Raise what psycopg raised as if SQLAlchemy had executed the COPY."""
    errors = dialect.loaded_dbapi.Error
    if isinstance(error, errors):
        raise sa_exc.DBAPIError.instance(
            None, None, error, errors, connection_invalidated=is_lost, dialect=dialect
        ) from error
