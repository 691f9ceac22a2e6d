"""Checkpoints, leases and parked events on PostgreSQL, in the transaction of the handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from time import monotonic
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    SubscriptionError,
)
from k1s0_event_store.feed import Cursor
from k1s0_event_store.postgres import subscription_operations as operations
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import (
    AsyncBind,
    AsyncRunner,
    Steps,
    T,
    Translating,
    joined_async_runner,
    run_async,
)
from k1s0_event_store.postgres.errors import translate
from k1s0_event_store.postgres.listener import listening
from k1s0_event_store.postgres.statements import entering
from k1s0_event_store.postgres.subscription_statements import subscription_statements_for
from k1s0_event_store.subscription import (
    Lease,
    ParkedEvent,
    Progress,
    SubscriptionStatus,
    SubscriptionStore,
    Transaction,
)

_SWITCH_PAUSE: Final = 0.1


class PostgresSubscriptionStore(AsyncClient, SubscriptionStore):
    """Subscription store on PostgreSQL, for asyncio.

    Made like PostgresEventStore. Handlers get an AsyncSession of `bind`, if that is a sessionmaker
    (make it with the app's own options), else a plain one. `within(session)` lets the operators'
    calls join the caller's transaction: `reset` and the emptying of a read model then commit
    together. With `config.notify` it listens for appends on a connection of its own.

    Raises ConfigurationError.
    """

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        self._statements = subscription_statements_for(self.config.schema)
        if isinstance(self.bind, async_sessionmaker):
            self._new_session: Callable[[], AsyncSession] = self.bind
        else:
            self._new_session = async_sessionmaker(self.bind, expire_on_commit=False)

    @property
    def _engine(self) -> AsyncEngine:
        bind = self.bind
        if isinstance(bind, async_sessionmaker):
            bind = bind.kw["bind"]
        if not isinstance(bind, AsyncEngine):
            raise ConfigurationError("to listen for appends the sessionmaker needs an AsyncEngine as bind")
        return bind

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self._check_open()
        with Translating(self.config.schema):
            async with self._new_session() as session, session.begin():
                if self.config.tenant is not None:  # also for what the handler does past the stores
                    await self._inside(session).fetch(entering(self.config.tenant, self.config.schema))
                yield Transaction(session)

    async def _atomically(self, steps: Steps[T], transaction: Transaction | None = None) -> T:
        """All steps in one transaction: the given one, the caller's, or a new one."""
        if transaction is not None:
            return await self._run_in(transaction, steps)
        if self._joined:
            return await self._run(steps)
        async with self.transaction() as new:
            return await self._run_in(new, steps)

    async def _run_in(self, transaction: Transaction, steps: Steps[T]) -> T:
        return await run_async(self._inside(transaction.session), steps)

    def _inside(self, session: AsyncSession) -> AsyncRunner:
        return joined_async_runner(session, self.config.schema, self.config.tenant)

    async def register(self, name: str, version: int, partitions: int, *, repeats: bool = True) -> None:
        await self._run(operations.register(self._statements, name, version, partitions, repeats))

    async def beat(self, name: str, version: int, worker: str, seconds: float) -> Sequence[Lease]:
        who = (self._statements, name, version, worker, seconds)
        leases = await self._run(operations.beat(*who))
        return await self._atomically(operations.share_out(*who)) if leases is None else leases

    async def reload(self, lease: Lease) -> Lease:
        return await self._run(operations.reload(self._statements, lease))

    async def release(self, lease: Lease) -> None:
        await self._run(operations.release(self._statements, lease))

    async def leave(self, name: str, version: int, worker: str) -> None:
        await self._atomically(operations.leave(self._statements, name, version, worker))

    async def save(self, lease: Lease, progress: Progress, transaction: Transaction | None = None) -> None:
        await self._atomically(operations.save(self._statements, lease, progress), transaction)

    async def park(
        self,
        lease: Lease,
        events: Sequence[EventEnvelope],
        error: str | None,
        attempts: int,
        transaction: Transaction | None = None,
    ) -> None:
        await self._atomically(operations.park(self._statements, lease, events, error, attempts), transaction)

    async def unpark(
        self, lease: Lease, stream_id: StreamId, event_version: int, transaction: Transaction | None = None
    ) -> None:
        await self._atomically(
            operations.unpark(self._statements, lease, stream_id, event_version), transaction
        )

    async def parked_streams(self, lease: Lease) -> set[StreamId]:
        return await self._run(operations.parked_streams(self._statements, lease))

    async def to_retry(self, lease: Lease) -> Sequence[ParkedEvent]:
        return await self._run(operations.to_retry(self._statements, lease))

    async def fail(self, lease: Lease, error: str, stop: bool) -> None:
        await self._run(operations.fail(self._statements, lease, error, stop))

    def is_transient(self, error: Exception) -> bool:
        ours = translate(error, self.config.schema)
        return super().is_transient(error if ours is None or isinstance(error, ConcurrencyError) else ours)

    def listen(self, wake: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        if self.config.notify:
            return listening(self._engine, self.config, wake)
        return nullcontext()

    async def statuses(self, name: str | None = None) -> list[SubscriptionStatus]:
        return await self._run(operations.statuses(self._statements, name))

    async def live_version(self, name: str) -> int:
        return await self._run(operations.live_version(self._statements, name))

    async def pause(self, name: str, version: int | None = None) -> None:
        await self._run(operations.change(self._statements, self._statements.pause, name, version))

    async def resume(self, name: str, version: int | None = None) -> None:
        await self._run(operations.change(self._statements, self._statements.resume, name, version))

    async def reset(
        self,
        name: str,
        version: int | None = None,
        *,
        after: Cursor | None = None,
        side_effects: bool = False,
    ) -> None:
        await self._atomically(operations.reset(self._statements, name, version, after, side_effects))

    async def switch(self, name: str, version: int, *, within: float = 10.0) -> None:
        old = await self.live_version(name)
        if old == version:
            return
        was_paused = await self._run(operations.is_paused(self._statements, name, version))
        await self.pause(name, version)
        try:
            await self._switch_when_ahead(name, old, version, monotonic() + within)
        except BaseException:
            if not was_paused:
                unpause = operations.change(self._statements, self._statements.unpause, name, version)
                await self._run(unpause)
            raise

    async def _switch_when_ahead(self, name: str, old: int, new: int, deadline: float) -> None:
        while not await self._atomically(operations.switch(self._statements, name, old, new)):
            if monotonic() >= deadline:
                raise SubscriptionError(
                    f"{name!r} version {old} has not handled yet what version {new} has: let its "
                    "workers run until it is ahead, then switch again"
                )
            await asyncio.sleep(_SWITCH_PAUSE)

    async def remove(self, name: str, version: int) -> None:
        await self._atomically(operations.remove(self._statements, name, version))

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[ParkedEvent]:
        return await self._run(operations.parked(self._statements, name, limit))

    async def retry_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        sql = self._statements
        return await self._run(operations.of_stream(sql, sql.retry, name, stream_id, version))

    async def drop_parked(
        self, name: str, stream_id: StreamId | None = None, version: int | None = None
    ) -> int:
        sql = self._statements
        return await self._run(operations.of_stream(sql, sql.drop, name, stream_id, version))

    async def has_handled(
        self, name: str, stream_id: StreamId, event_version: int, version: int | None = None
    ) -> bool:
        where = (name, stream_id, event_version, version)
        return await self._run(operations.has_handled(self._statements, *where))
