"""What event and snapshot stores share: configuration, joining a session, closing."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import StoreClosedError
from k1s0_event_store.postgres.connection import (
    AsyncBind,
    AsyncJoin,
    AsyncRunner,
    ClosedRunner,
    Rows,
    Steps,
    SyncBind,
    SyncClosedRunner,
    SyncJoin,
    SyncRunner,
    T,
    async_runner,
    create_async_store_engine,
    create_sync_store_engine,
    joined_async_runner,
    joined_sync_runner,
    run_async,
    run_sync,
    sync_runner,
)
from k1s0_event_store.postgres.errors import tenant_required
from k1s0_event_store.postgres.schema import TENANTS, layers, validate
from k1s0_event_store.postgres.statements import statements_for

P = TypeVar("P")


class AsyncClient:
    """A store on an engine of its own, on one of the app's, or inside a caller's transaction."""

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        config = EventStoreConfig() if config is None else config
        self._own_engine: AsyncEngine | None = None
        if bind is None:
            bind = self._own_engine = create_async_store_engine(config)
        self.config = config
        self.bind = bind
        # PostgreSQL takes no COPY into tables whose rows it has to check one by one.
        self._sql = statements_for(config.schema, config.notify, copies=config.tenant is None)
        self._runner: AsyncRunner = async_runner(config, bind)
        self._joined = False
        self._session: AsyncJoin | None = None
        self._clusters: set[int] = set()

    def within(self, session: AsyncJoin) -> Self:
        """The same store inside the caller's transaction; raises ConfigurationError for anything else."""
        bound = copy.copy(self)
        bound._own_engine = None
        bound._clusters = set()  # its transaction may see less than the cursor does: it has to ask
        if not isinstance(self._runner, ClosedRunner):
            bound._runner = joined_async_runner(session, self.config.schema, self.config.tenant)
            bound._joined = True
            bound._session = session
        return bound

    async def close(self) -> None:
        """Close the store's own engine; one that was given stays open."""
        self._runner = ClosedRunner()
        if self._own_engine is not None:
            await self._own_engine.dispose()

    def _shares_tables_with(self, other: AsyncClient) -> bool:
        """True if one statement can serve both, and sees what each would see."""
        return (
            self._session is other._session
            and (self._session is not None or self.bind is other.bind)
            and (self.config.schema, self.config.tenant) == (other.config.schema, other.config.tenant)
            and not isinstance(other._runner, ClosedRunner)
        )

    def _check_open(self) -> None:
        if isinstance(self._runner, ClosedRunner):
            raise StoreClosedError("this store was closed; make a new one")

    async def validate(self) -> None:
        """Compare the live tables with what this code expects; raises SchemaError with every difference."""
        await self._run(validate(self.config.schema, self.config.tenant))

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(self._runner, steps)

    async def _pages(
        self, read: Callable[[P], Steps[tuple[Rows, P | None]]], first: P
    ) -> AsyncGenerator[Rows, None]:
        """Rows page by page; no connection is held while one is in use."""
        page: P | None = first
        while page is not None:
            rows, page = await self._run(read(page))
            yield rows


async def check_tenant(client: AsyncClient) -> None:
    """Raise TenantRequiredError where the tables know tenants, and none was given.

    Row-level security does that where it holds; superusers would reach the rows of all.
    """
    if client.config.tenant is None and TENANTS in await client._run(layers(client.config.schema)):
        raise tenant_required(client.config.schema)


class SyncClient:
    """AsyncClient for blocking code."""

    def __init__(self, config: EventStoreConfig | None = None, *, bind: SyncBind | None = None) -> None:
        config = EventStoreConfig() if config is None else config
        self._own_engine: Engine | None = None
        if bind is None:
            bind = self._own_engine = create_sync_store_engine(config)
        self.config = config
        self.bind = bind
        # PostgreSQL takes no COPY into tables whose rows it has to check one by one.
        self._sql = statements_for(config.schema, config.notify, copies=config.tenant is None)
        self._runner: SyncRunner = sync_runner(config, bind)
        self._joined = False
        self._session: SyncJoin | None = None
        self._clusters: set[int] = set()

    def within(self, session: SyncJoin) -> Self:
        """The same store inside the caller's transaction; raises ConfigurationError for anything else."""
        bound = copy.copy(self)
        bound._own_engine = None
        bound._clusters = set()  # its transaction may see less than the cursor does: it has to ask
        if not isinstance(self._runner, SyncClosedRunner):
            bound._runner = joined_sync_runner(session, self.config.schema, self.config.tenant)
            bound._joined = True
            bound._session = session
        return bound

    def close(self) -> None:
        """Close the store's own engine; one that was given stays open."""
        self._runner = SyncClosedRunner()
        if self._own_engine is not None:
            self._own_engine.dispose()

    def _shares_tables_with(self, other: SyncClient) -> bool:
        """See AsyncClient._shares_tables_with."""
        return (
            self._session is other._session
            and (self._session is not None or self.bind is other.bind)
            and (self.config.schema, self.config.tenant) == (other.config.schema, other.config.tenant)
            and not isinstance(other._runner, SyncClosedRunner)
        )

    def _check_open(self) -> None:
        if isinstance(self._runner, SyncClosedRunner):
            raise StoreClosedError("this store was closed; make a new one")

    def validate(self) -> None:
        """See AsyncClient.validate."""
        self._run(validate(self.config.schema, self.config.tenant))

    def _run(self, steps: Steps[T]) -> T:
        return run_sync(self._runner, steps)

    def _pages(self, read: Callable[[P], Steps[tuple[Rows, P | None]]], first: P) -> Iterator[Rows]:
        """Rows page by page."""
        page: P | None = first
        while page is not None:
            rows, page = self._run(read(page))
            yield rows
