"""COPY through the connection of a SQLAlchemy transaction, which has no word for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from k1s0_event_store.postgres.statements import Copy


async def copy_in(connection: AsyncConnection, copy: Copy) -> int:
    """The number of rows that were stored. The transaction must have begun."""
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    if connection.dialect.driver == "asyncpg":
        answer = await driver.copy_to_table(
            copy.table,
            schema_name=copy.schema,
            columns=copy.columns,
            format="binary",
            source=_one_by_one(copy.data),
        )
        return int(answer.removeprefix("COPY "))
    with _errors_of_sqlalchemy(connection.dialect, raw.dbapi_connection):
        cursor = driver.cursor()
        async with cursor.copy(copy.statement.dollar) as sink:
            for chunk in copy.data:
                await sink.write(chunk)
        return int(cursor.rowcount)


def copy_in_sync(connection: Connection, copy: Copy) -> int:
    """The number of rows that were stored."""
    raw = connection.connection
    driver: Any = raw.driver_connection
    with _errors_of_sqlalchemy(connection.dialect, raw.dbapi_connection):
        cursor = driver.cursor()
        with cursor.copy(copy.statement.dollar) as sink:
            for chunk in copy.data:
                sink.write(chunk)
        return int(cursor.rowcount)


async def _one_by_one(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        # The driver waits only where the server is behind; others want to work too.
        await asyncio.sleep(0)


@contextmanager
def _errors_of_sqlalchemy(dialect: Dialect, connection: DBAPIConnection | None) -> Iterator[None]:
    """What psycopg raises comes out as if SQLAlchemy had executed the COPY."""
    errors = dialect.loaded_dbapi.Error
    try:
        yield
    except errors as exc:
        is_lost = dialect.is_disconnect(exc, connection, None)
        raise sa_exc.DBAPIError.instance(
            None, None, exc, errors, connection_invalidated=is_lost, dialect=dialect
        ) from exc
