"""Where statements are executed: a pool of ours, an engine of the app's, or the caller's session.

What to execute comes as steps: a generator that yields queries, is sent their rows, and returns
the answer. So every operation is written once, without I/O, for async and blocking stores alike.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, Self, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

import asyncpg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn

from k1s0_event_store.config import EventStoreConfig, join_url, split_url
from k1s0_event_store.exceptions import ConfigurationError, EventStoreError, StoreClosedError
from k1s0_event_store.postgres.copying import copy_in, copy_in_sync
from k1s0_event_store.postgres.errors import is_out_of_step, translate
from k1s0_event_store.postgres.models import EventRow
from k1s0_event_store.postgres.statements import Command, Copy, Query, entering, entry

T = TypeVar("T")
Rows: TypeAlias = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Steps for one transaction: the caller's, or one of their own. The rows are their answer."""

    steps: Callable[[], Steps[Rows]]


Steps: TypeAlias = Generator[Query | Transaction, Rows, T]
AsyncBind: TypeAlias = AsyncEngine | async_sessionmaker[Any]
SyncBind: TypeAlias = Engine | sessionmaker[Any]
AsyncJoin: TypeAlias = AsyncSession | AsyncConnection | async_scoped_session[Any]
SyncJoin: TypeAlias = Session | Connection | scoped_session[Any]

_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "psycopg_async"})
_OWN: Final = {"isolation_level": "READ COMMITTED"}
"""Of transactions of our own, whatever the app's engine does: with AUTOCOMMIT they would be none."""


class AsyncRunner(Protocol):
    """Executes queries for an async store."""

    async def fetch(self, query: Query) -> Rows:
        """Rows of one query; database errors come out as EventStoreError."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]:
        """The caller's transaction, or one that is committed where the block ends well."""
        ...


class SyncRunner(Protocol):
    """Executes queries for a blocking store."""

    def fetch(self, query: Query) -> Rows:
        """See AsyncRunner.fetch."""
        ...

    def transaction(self) -> AbstractContextManager[SyncRunner]:
        """See AsyncRunner.transaction."""
        ...


async def run_async(runner: AsyncRunner, steps: Steps[T]) -> T:
    """Execute `steps` and return their answer."""
    try:
        query = next(steps)
        while True:
            try:
                rows = await (
                    runner.fetch(query)
                    if isinstance(query, Query)
                    else run_in_transaction(runner, query.steps())
                )
            except EventStoreError as error:
                query = steps.throw(error)
            else:
                query = steps.send(rows)
    except StopIteration as done:
        return cast("T", done.value)


def run_sync(runner: SyncRunner, steps: Steps[T]) -> T:
    """Execute `steps` and return their answer."""
    try:
        query = next(steps)
        while True:
            try:
                rows = (
                    runner.fetch(query)
                    if isinstance(query, Query)
                    else run_in_transaction_sync(runner, query.steps())
                )
            except EventStoreError as error:
                query = steps.throw(error)
            else:
                query = steps.send(rows)
    except StopIteration as done:
        return cast("T", done.value)


async def run_in_transaction(runner: AsyncRunner, steps: Steps[T]) -> T:
    """Execute `steps` in one transaction and return their answer."""
    async with runner.transaction() as joined:
        return await run_async(joined, steps)


def run_in_transaction_sync(runner: SyncRunner, steps: Steps[T]) -> T:
    """Execute `steps` in one transaction and return their answer."""
    with runner.transaction() as joined:
        return run_sync(joined, steps)


class _Driver(Protocol):
    """What is used of asyncpg's Connection."""

    async def fetch(self, query: str, *args: Any) -> Rows: ...

    async def execute(self, query: str) -> str: ...

    def is_closed(self) -> bool: ...

    def terminate(self) -> None: ...


class Translating:
    """Errors of the database that leave the block come out as EventStoreError."""

    def __init__(self, schema: str, connecting: bool = True) -> None:
        self._schema = schema
        self.connecting = connecting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            ours = translate(error, self._schema, connecting=self.connecting)
            if ours is not None:
                raise ours from error


class AsyncpgPoolRunner:
    """Each query through the driver, under SQLAlchemy's pool: in autocommit, one round trip.

    A tenant's query has a transaction around it, to say so: three.
    """

    def __init__(self, engine: AsyncEngine, schema: str, tenant: str | None) -> None:
        self._engine = engine
        self._schema = schema
        self._tenant = tenant

    async def fetch(self, query: Query) -> Rows:
        # One greenlet for checkout, query and return: each more costs as much as a short query.
        return cast("Rows", await greenlet_spawn(self._fetch, query))

    def _fetch(self, query: Query) -> Rows:
        with Translating(self._schema) as errors:
            raw, connection = self._checkout()
            errors.connecting = False
            try:
                if self._tenant is None or isinstance(query, Command):
                    return await_only(_fetch(connection, query))
                return await_only(self._fetch_for(self._tenant, connection, query))
            except BaseException as exc:
                # Cancelled while a statement may be under way: nobody else gets this connection.
                if connection.is_closed() or not isinstance(exc, Exception) or is_out_of_step(exc):
                    connection.terminate()
                    raw.invalidate()
                raise
            finally:
                raw.close()

    async def _fetch_for(self, tenant: str, connection: _Driver, query: Query) -> Rows:
        try:
            await _enter(connection, tenant, self._schema)
            rows = await _fetch(connection, query)
            await connection.execute("COMMIT")
        except Exception:
            # SQLAlchemy's pool has not heard of this transaction.
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        return rows

    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]:
        return _async_transaction(self._engine, self._schema, self._tenant)

    def _checkout(self) -> tuple[PoolProxiedConnection, _Driver]:
        """A live connection. One that died while idle is known without asking the server."""
        while True:
            raw = self._engine.sync_engine.raw_connection()
            connection = cast("_Driver", raw.driver_connection)
            if not connection.is_closed():
                return raw, connection
            raw.invalidate()
            raw.close()


async def _fetch(connection: _Driver, query: Query) -> Rows:
    return await connection.fetch(query.statement.dollar, *query.args)


async def _enter(connection: _Driver, tenant: str, schema: str) -> None:
    """Begin a transaction of a tenant in one message; raises ConfigurationError."""
    try:
        await connection.execute(entry(tenant, schema))
    except asyncpg.DivisionByZeroError:
        raise not_kept_apart(tenant) from None


class AsyncConnectionRunner:
    """Queries through an AsyncConnection that `connect` lends: the caller's, or one per query.

    `bind` begins transactions; without one, all queries are in the caller's. Each is preceded by its
    `tenant`: in the same transaction others may be at work, and a savepoint takes back what it was set to.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        schema: str,
        tenant: str | None,
        bind: AsyncBind | None = None,
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._tenant = tenant
        self._bind = bind

    async def fetch(self, query: Query) -> Rows:
        with Translating(self._schema) as errors:
            async with self._connect() as connection:
                errors.connecting = False
                if self._tenant is not None and not isinstance(query, Command):
                    entered = await _execute(connection, entering(self._tenant, self._schema))
                    check_entered(self._tenant, entered)
                if isinstance(query, Copy):
                    return ((await copy_in(connection, query),),)
                return await _execute(connection, query)

    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]:
        if self._bind is None:
            return nullcontext(self)
        return _async_transaction(self._bind, self._schema, self._tenant)


class SyncConnectionRunner:
    """AsyncConnectionRunner for blocking code."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        schema: str,
        tenant: str | None,
        bind: SyncBind | None = None,
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._tenant = tenant
        self._bind = bind

    def fetch(self, query: Query) -> Rows:
        with Translating(self._schema) as errors, self._connect() as connection:
            errors.connecting = False
            if self._tenant is not None and not isinstance(query, Command):
                entered = _execute_sync(connection, entering(self._tenant, self._schema))
                check_entered(self._tenant, entered)
            if isinstance(query, Copy):
                return ((copy_in_sync(connection, query),),)
            return _execute_sync(connection, query)

    def transaction(self) -> AbstractContextManager[SyncRunner]:
        if self._bind is None:
            return nullcontext(self)
        return _sync_transaction(self._bind, self._schema, self._tenant)


class ClosedRunner:
    """What a closed store executes on: nothing."""

    async def fetch(self, query: Query) -> Rows:
        raise StoreClosedError("this store was closed; make a new one")

    def transaction(self) -> AbstractAsyncContextManager[AsyncRunner]:
        raise StoreClosedError("this store was closed; make a new one")


class SyncClosedRunner:
    """What a closed blocking store executes on: nothing."""

    def fetch(self, query: Query) -> Rows:
        raise StoreClosedError("this store was closed; make a new one")

    def transaction(self) -> AbstractContextManager[SyncRunner]:
        raise StoreClosedError("this store was closed; make a new one")


async def _execute(connection: AsyncConnection, query: Query) -> Rows:
    result = await connection.exec_driver_sql(*_driver_sql(query, connection.dialect))
    return result.all() if result.returns_rows else ()


def _execute_sync(connection: Connection, query: Query) -> Rows:
    result = connection.exec_driver_sql(*_driver_sql(query, connection.dialect))
    return result.all() if result.returns_rows else ()


def check_entered(tenant: str, rows: Rows) -> None:
    """Refuse to work where a tenant would see and write the rows of all; raises ConfigurationError."""
    if not rows[0][1]:
        raise not_kept_apart(tenant)


def not_kept_apart(tenant: str) -> ConfigurationError:
    """For a role or tables that row-level security does not hold for."""
    return ConfigurationError(
        f"tenant {tenant!r} would not be kept apart from others: the tables do not know tenants yet "
        "(k1s0-event-store tenants add), or this role passes by row-level security, as superusers "
        "and roles with BYPASSRLS do: connect as another one"
    )


def _driver_sql(query: Query, dialect: Dialect) -> tuple[str, Any]:
    if dialect.driver == "asyncpg":
        return query.statement.dollar, query.args
    return query.statement.pyformat, query.named_args


def async_runner(config: EventStoreConfig, bind: AsyncBind) -> AsyncRunner:
    """Stand-alone execution on an engine (autocommit) or a sessionmaker (a session per query)."""
    if isinstance(bind, async_sessionmaker):

        @asynccontextmanager
        async def session_connection() -> AsyncIterator[AsyncConnection]:
            async with bind() as session, session.begin():
                yield await _async_connection(session)

        return AsyncConnectionRunner(session_connection, config.schema, config.tenant, bind)
    check_driver(bind.dialect)
    if bind.dialect.driver == "asyncpg" and not config.transaction_pooler:
        return AsyncpgPoolRunner(bind, config.schema, config.tenant)
    if config.tenant is not None:
        in_transaction = partial(_own_transaction, bind)
        return AsyncConnectionRunner(in_transaction, config.schema, config.tenant, bind)
    if config.transaction_pooler:
        # Between two messages outside a transaction the pooler may change the server connection.
        return AsyncConnectionRunner(bind.begin, config.schema, None, bind)

    @asynccontextmanager
    async def autocommit() -> AsyncIterator[AsyncConnection]:
        # Not an option of the engine: cancelled while that is set, SQLAlchemy would lose the connection.
        async with bind.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    return AsyncConnectionRunner(autocommit, config.schema, None, bind)


def sync_runner(config: EventStoreConfig, bind: SyncBind) -> SyncRunner:
    """Stand-alone execution on an engine (autocommit) or a sessionmaker (a session per query)."""
    if isinstance(bind, sessionmaker):

        @contextmanager
        def session_connection() -> Iterator[Connection]:
            with bind() as session, session.begin():
                yield _sync_connection(session)

        return SyncConnectionRunner(session_connection, config.schema, config.tenant, bind)
    check_driver(bind.dialect)
    if config.tenant is not None:
        in_transaction = bind.execution_options(**_OWN).begin
        return SyncConnectionRunner(in_transaction, config.schema, config.tenant, bind)
    autocommit = bind.execution_options(isolation_level="AUTOCOMMIT")
    return SyncConnectionRunner(autocommit.connect, config.schema, None, bind)


def joined_async_runner(session: AsyncJoin, schema: str, tenant: str | None = None) -> AsyncRunner:
    """Execution inside the caller's transaction."""
    if not isinstance(session, AsyncSession | AsyncConnection | async_scoped_session):
        raise ConfigurationError(
            f"within() takes an AsyncSession or AsyncConnection, not {type(session).__name__}; "
            "blocking sessions go to SyncPostgresEventStore"
        )

    @asynccontextmanager
    async def connect() -> AsyncIterator[AsyncConnection]:
        yield await _async_connection(session)

    return AsyncConnectionRunner(connect, schema, tenant)


def joined_sync_runner(session: SyncJoin, schema: str, tenant: str | None = None) -> SyncRunner:
    """Execution inside the caller's transaction."""
    if not isinstance(session, Session | Connection | scoped_session):
        raise ConfigurationError(
            f"within() takes a Session or Connection, not {type(session).__name__}; "
            "async sessions go to PostgresEventStore"
        )

    @contextmanager
    def connect() -> Iterator[Connection]:
        yield _sync_connection(session)

    return SyncConnectionRunner(connect, schema, tenant)


@asynccontextmanager
async def _async_transaction(bind: AsyncBind, schema: str, tenant: str | None) -> AsyncIterator[AsyncRunner]:
    with Translating(schema) as errors:
        if isinstance(bind, async_sessionmaker):
            async with bind() as session, session.begin():
                errors.connecting = False
                # The session's way to set it, before its first statement.
                await session.connection(bind_arguments={"mapper": EventRow}, execution_options=_OWN)
                yield joined_async_runner(session, schema, tenant)
        else:
            async with _own_transaction(bind) as connection:
                errors.connecting = False
                yield joined_async_runner(connection, schema, tenant)


@asynccontextmanager
async def _own_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with aclosing(await _live_connection(engine)) as connection:
        await connection.execution_options(**_OWN)
        async with connection.begin():
            yield connection


async def _live_connection(engine: AsyncEngine) -> AsyncConnection:
    """One that died while idle is known to asyncpg without asking the server."""
    while True:
        connection = await engine.connect()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if engine.dialect.driver != "asyncpg" or not driver.is_closed():
            return connection
        await connection.invalidate()
        await connection.close()


@contextmanager
def _sync_transaction(bind: SyncBind, schema: str, tenant: str | None) -> Iterator[SyncRunner]:
    with Translating(schema) as errors:
        if isinstance(bind, sessionmaker):
            with bind() as session, session.begin():
                errors.connecting = False
                session.connection(bind_arguments={"mapper": EventRow}, execution_options=_OWN)
                yield joined_sync_runner(session, schema, tenant)
        else:
            with bind.execution_options(**_OWN).begin() as connection:
                errors.connecting = False
                yield joined_sync_runner(connection, schema, tenant)


async def _async_connection(session: AsyncJoin) -> AsyncConnection:
    if isinstance(session, AsyncConnection):
        connection = session
    else:
        connection = await session.connection(bind_arguments={"mapper": EventRow})
    check_driver(connection.dialect)
    return connection


def _sync_connection(session: SyncJoin) -> Connection:
    if isinstance(session, Connection):
        connection = session
    else:
        connection = session.connection(bind_arguments={"mapper": EventRow})
    check_driver(connection.dialect)
    return connection


def check_driver(dialect: Dialect) -> None:
    """Refuse databases and drivers that the statements are not written for."""
    if dialect.name != "postgresql" or dialect.driver not in _DRIVERS:
        raise ConfigurationError(
            f"the store needs PostgreSQL through asyncpg or psycopg 3, not {dialect.name}+{dialect.driver}: "
            "use a URL like postgresql+asyncpg:// or postgresql+psycopg://"
        )


def create_async_store_engine(config: EventStoreConfig) -> AsyncEngine:
    """An engine on asyncpg, which reads the DSN itself: sslmode and friends mean what they say."""
    dsn, given = _asyncpg_dsn(_dsn(config))
    arguments: dict[str, Any] = {
        "dsn": dsn,
        "timeout": _seconds(given.get("connect_timeout", config.connect_timeout)),
        "async_creator_fn": _connect_asyncpg,
    }
    if "application_name" not in given:
        arguments["server_settings"] = {"application_name": config.application_name}
    if config.transaction_pooler:
        arguments |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
    return create_async_engine("postgresql+asyncpg://", connect_args=arguments, **_pool_options(config))


async def _connect_asyncpg(**arguments: Any) -> asyncpg.Connection:
    with _understanding_dsn():
        return await asyncpg.connect(**arguments)


@contextmanager
def _understanding_dsn() -> Iterator[None]:
    """What a driver stumbles over in a DSN comes out as ConfigurationError, and never shows the DSN."""
    try:
        yield
    except asyncpg.InterfaceError:  # some of them are ValueErrors, and say what is wrong
        raise
    except (ValueError, LookupError, ArithmeticError) as exc:
        raise ConfigurationError(
            f"the driver cannot use the DSN ({type(exc).__name__}): look at its hosts, ports and parameters"
        ) from exc


def _seconds(text: float | str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"connect_timeout in the DSN must be seconds, not {text!r}") from None


async def in_transaction(config: EventStoreConfig, work: Callable[[Connection], T]) -> T:
    """Run blocking `work` in one transaction, on an engine of its own; raises EventStoreError."""
    engine = create_async_store_engine(config)
    try:
        with Translating(config.schema) as errors:
            async with engine.begin() as connection:
                errors.connecting = False
                return await connection.run_sync(work)
    finally:
        await engine.dispose()


def create_sync_store_engine(config: EventStoreConfig) -> Engine:
    """An engine on psycopg; libpq reads the DSN itself."""
    try:
        import psycopg
    except ImportError as exc:
        raise ConfigurationError(
            "the blocking store needs psycopg: pip install 'k1s0-event-store[psycopg]'"
        ) from exc
    dsn = _plain_dsn(_dsn(config))
    given = dict(parse_qsl(split_url(dsn).query))
    arguments: dict[str, Any] = {}
    if "application_name" not in given:
        arguments["application_name"] = config.application_name
    if "connect_timeout" not in given:
        arguments["connect_timeout"] = max(2, round(config.connect_timeout))
    if config.transaction_pooler:
        arguments["prepare_threshold"] = None

    def connect() -> Any:
        with _understanding_dsn():
            return psycopg.connect(dsn, **arguments)

    return create_engine("postgresql+psycopg://", creator=connect, **_pool_options(config))


def _dsn(config: EventStoreConfig) -> str:
    if config.dsn is None:
        raise ConfigurationError("give EventStoreConfig(dsn=...), or an engine or sessionmaker as bind=")
    return config.dsn


def _pool_options(config: EventStoreConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"pool_pre_ping": config.pool_pre_ping, "pool_recycle": config.pool_recycle}
    if "poolclass" not in config.engine_options:
        options |= {
            "pool_size": config.pool_size,
            "max_overflow": config.max_overflow,
            "pool_timeout": config.pool_timeout,
            # The connection used last has the statements prepared and their plans made.
            "pool_use_lifo": True,
        }
    return {**options, **config.engine_options}


def _plain_dsn(dsn: str) -> str:
    return re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", dsn)


_LIBPQ_ONLY: Final = frozenset(
    {"connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
     "tcp_user_timeout", "client_encoding", "fallback_application_name", "channel_binding", "gssencmode"}
)  # fmt: skip


def _asyncpg_dsn(dsn: str) -> tuple[str, dict[str, str]]:
    """`dsn` without the libpq parameters that asyncpg would take for server settings, and all of them.

    None of those taken out changes what is safe; one that does is refused.
    """
    split = split_url(_plain_dsn(dsn))
    given = dict(parse_qsl(split.query, keep_blank_values=True))
    for key in ("channel_binding", "gssencmode"):
        if given.get(key) == "require":
            raise ConfigurationError(f"asyncpg cannot do {key}=require; remove it from the DSN")
    kept = {key: value for key, value in given.items() if key not in _LIBPQ_ONLY}
    return join_url(split._replace(query=urlencode(kept))), given
