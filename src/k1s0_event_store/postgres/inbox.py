"""The inbox on PostgreSQL, for asyncio, and its SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.inbox import Inbox, check_before, check_message_id
from k1s0_event_store.postgres.connection import AsyncJoin, Rows, Translating, joined_async_runner
from k1s0_event_store.postgres.statements import Query, schema_names, statement

# Who is not the first one waits here for the end of the first one's transaction (or of its savepoint,
# if that is rolled back), and is answered by a row if nothing came of it.
_MARK: Final = """
INSERT INTO {inbox} (consumer, message_id) VALUES ($1::text, $2::text)
ON CONFLICT ON CONSTRAINT pk_inbox DO NOTHING
RETURNING 1"""

# They are counted there: their number can be large.
_FORGET: Final = """
WITH gone AS (
    DELETE FROM {inbox} WHERE consumer = $1::text AND handled_at < $2::timestamptz RETURNING 1
)
SELECT count(*) FROM gone"""


class PostgresInbox(Inbox):
    """Inbox on PostgreSQL for asyncio, in the transaction of an AsyncSession or AsyncConnection.

    It opens nothing itself: of `config` only schema and tenant count.

    What `once` and `forget` ask of the database raises our errors; what the block, its flush at the
    end, or the commit does, raises SQLAlchemy's. At REPEATABLE READ and SERIALIZABLE a consumer that
    had to wait for one that committed gets DatabaseError with SQLSTATE 40001, `retryable`: roll back
    and run the whole transaction again, it then sees the mark. Where several messages are handled in
    one transaction, transactions that meet may raise DeadlockError: take them in one order, or run
    them again.
    """

    def __init__(self, consumer: str, config: EventStoreConfig | None = None) -> None:
        super().__init__(consumer)
        config = EventStoreConfig() if config is None else config
        self._schema, self._tenant = config.schema, config.tenant
        names = schema_names(self._schema)
        self._mark = statement(_MARK, **names)
        self._forget = statement(_FORGET, **names)

    @asynccontextmanager
    async def once(self, session: AsyncJoin, message_id: str) -> AsyncIterator[bool]:
        query = Query(self._mark, (self.consumer, check_message_id(message_id)))
        _check_session(session)
        async with AsyncExitStack() as savepoint:
            await self._begin(session, savepoint)
            yield bool(await self._fetch(session, query))

    async def forget(self, session: AsyncJoin, before: datetime) -> int:
        query = Query(self._forget, (self.consumer, check_before(before)))
        _check_session(session)
        return int((await self._fetch(session, query))[0][0])

    async def _begin(self, session: AsyncJoin, savepoint: AsyncExitStack) -> None:
        """Of the session and not in SQL: the objects that the block adds go with the savepoint."""
        if not isinstance(session, AsyncConnection):
            await session.flush()  # if what was pending before fails, that is no error of ours
        with Translating(self._schema, connecting=False):
            await savepoint.enter_async_context(session.begin_nested())

    async def _fetch(self, session: AsyncJoin, query: Query) -> Rows:
        return await joined_async_runner(session, self._schema, self._tenant).fetch(query)


def _check_session(session: AsyncJoin) -> None:
    if not isinstance(session, AsyncSession | AsyncConnection | async_scoped_session):
        raise ConfigurationError(
            f"an inbox works in an AsyncSession or AsyncConnection, not {type(session).__name__}: "
            "give the one that the handler writes through"
        )
