"""The server or the connection fails: typed errors, nothing twice, a pool that recovers."""

import asyncio
import socket

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from k1s0_event_store import (
    AuthenticationError,
    ConfigurationError,
    DatabaseError,
    EventStoreConfig,
    OutcomeUnknownError,
    PermissionDeniedError,
    PostgresEventStore,
    StoreUnavailableError,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.postgres.copying import copy_in
from k1s0_event_store.postgres.errors import translate
from k1s0_event_store.postgres.operations import BY_COPY
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.plugin import database_dsn

GOODBYE = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
ORDER, WARM = StreamId("order", "o-1"), StreamId("order", "warm")


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_an_append_whose_answer_was_lost_is_settled_by_repeating_it(proxy, proxied_store, sql):
    await proxied_store.append(WARM, new_events(WARM, 1))
    for expected in (0, None):
        stream_id = StreamId("order", f"lost-{expected}")
        batch = new_events(stream_id, 2)
        proxy.lose_next_answer = True
        with pytest.raises(OutcomeUnknownError, match="repeat it with the same events") as unknown:
            await proxied_store.append(stream_id, batch, expected_version=expected)
        assert unknown.value.retryable
        assert await proxied_store.append(stream_id, batch, expected_version=expected) == 2
        assert await proxied_store.current_version(stream_id) == 2


def test_a_blocking_append_whose_answer_was_lost_is_settled_by_repeating_it(proxy, proxied_sync_store):
    proxied_sync_store.append(WARM, new_events(WARM, 1))
    batch = new_events(ORDER, 2)
    proxy.lose_next_answer = True
    with pytest.raises(OutcomeUnknownError):
        proxied_sync_store.append(ORDER, batch, expected_version=0)
    assert proxied_sync_store.append(ORDER, batch, expected_version=0) == 2
    assert proxied_sync_store.current_version(ORDER) == 2


async def test_a_lost_connection_inside_a_transaction_rolls_it_back(proxy, proxied_store):
    async with AsyncSession(proxied_store.bind) as session:
        bound = proxied_store.within(session)
        await bound.append(ORDER, new_events(ORDER, 1))
        proxy.lose_next_answer = True
        with pytest.raises(StoreUnavailableError, match="broke"):
            await bound.append(ORDER, new_events(ORDER, 1))
    assert not await proxied_store.exists(ORDER)


def test_a_lost_connection_inside_a_blocking_transaction_rolls_it_back(proxy, proxied_sync_store):
    with Session(proxied_sync_store.bind) as session:
        bound = proxied_sync_store.within(session)
        bound.append(ORDER, new_events(ORDER, 1))
        proxy.lose_next_answer = True
        with pytest.raises(StoreUnavailableError, match="broke"):
            bound.append(ORDER, new_events(ORDER, 1))
    assert not proxied_sync_store.exists(ORDER)


async def test_connections_that_died_while_idle_are_replaced_without_an_error(event_store, sql):
    await asyncio.gather(*(event_store.append(StreamId("s", str(i)), []) for i in range(5)))
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    await asyncio.sleep(0.2)
    assert await event_store.append(ORDER, new_events(ORDER, 1)) == 1
    assert event_store.bind.pool.checkedout() == 0


@pytest.mark.parametrize("way", ["alone", "by COPY", "in a session"])
async def test_a_connection_that_the_server_said_goodbye_to_is_lost_and_given_to_nobody_else(
    proxy, proxied_store, sql, way
):
    """The goodbye has arrived, that the server has hung up has not: asyncpg takes the connection for open."""
    await proxied_store.append(ORDER, new_events(ORDER, 1))
    proxy.linger = True
    sql(GOODBYE)
    await asyncio.sleep(0.2)
    async with AsyncSession(proxied_store.bind) as session:
        store = proxied_store.within(session) if way == "in a session" else proxied_store
        events = new_events(ORDER, BY_COPY if way == "by COPY" else 1)
        with pytest.raises((OutcomeUnknownError, StoreUnavailableError)) as lost:
            await store.append(ORDER, events)
    assert lost.value.retryable
    assert await proxied_store.append(ORDER, events) == 1 + len(events)
    proxy.linger = False


@pytest.mark.parametrize("way", ["alone", "in a session"])
async def test_a_goodbye_of_the_server_before_a_copy_is_a_lost_connection(
    proxy, proxied_store, sql, monkeypatch, way
):
    async def after_a_goodbye(connection, copy):
        proxy.linger = True
        sql(GOODBYE)
        await asyncio.sleep(0.2)
        return await copy_in(connection, copy)

    events = new_events(ORDER, BY_COPY)
    async with AsyncSession(proxied_store.bind) as session:
        store = proxied_store.within(session) if way == "in a session" else proxied_store
        monkeypatch.setattr("k1s0_event_store.postgres.connection.copy_in", after_a_goodbye)
        with pytest.raises((OutcomeUnknownError, StoreUnavailableError)):
            await store.append(ORDER, events)
        monkeypatch.undo()
    assert await proxied_store.append(ORDER, events) == len(events)
    proxy.linger = False


async def test_a_read_on_a_connection_that_breaks_tells_so_and_the_next_one_works(proxy, proxied_store):
    await proxied_store.append(ORDER, new_events(ORDER, 1))
    proxy.lose_next_answer = True
    with pytest.raises(StoreUnavailableError):
        await proxied_store.load(ORDER)
    assert len(await proxied_store.load(ORDER)) == 1


async def test_an_unreachable_server_is_told_from_a_refused_login(event_store_server, free_port, tmp_path):
    for dsn in (
        f"postgresql://u:secret@127.0.0.1:{free_port}/app",
        f"postgresql://u:secret@/app?host={tmp_path}",
        "postgresql://u:secret@no-such-host.invalid/app",
    ):
        async with PostgresEventStore(EventStoreConfig(dsn=dsn, connect_timeout=5)) as store:
            with pytest.raises(StoreUnavailableError) as unreachable:
                await store.exists(ORDER)
            assert not isinstance(unreachable.value, AuthenticationError)
            assert "secret" not in str(unreachable.value)
        with SyncPostgresEventStore(EventStoreConfig(dsn=dsn, connect_timeout=5)) as store:
            with pytest.raises(StoreUnavailableError) as unreachable:
                store.exists(ORDER)
            assert "secret" not in str(unreachable.value)


@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:99999/db",
        "127.0.0.1:1,,127.0.0.1:1/db",
        "%00:1/db",
        "[%zz]:1/db",
        "a..b:1/db",
        f"{'a' * 70}:1/db",
        "127.0.0.1:1/db?sslmode=verify-full&sslrootcert=%00",
        "127.0.0.1:1/db?connect_timeout=soon",
    ],
)
async def test_a_dsn_that_a_driver_stumbles_over_is_an_error_of_ours(place):
    config = EventStoreConfig(dsn=f"postgresql://u:secret@{place}", connect_timeout=5)
    with pytest.raises(ConfigurationError) as refused:
        async with PostgresEventStore(config) as store:
            await store.exists(ORDER)
    assert "secret" not in str(refused.value)
    with pytest.raises((ConfigurationError, StoreUnavailableError)), SyncPostgresEventStore(config) as store:
        store.exists(ORDER)


async def test_a_missing_database_or_role_is_a_refused_login(event_store_server):
    missing = database_dsn(event_store_server, "no_such_database")
    stranger = event_store_server.replace("postgres@", "no_such_role@", 1)
    for dsn in (missing, stranger):
        async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
            with pytest.raises(AuthenticationError, match="no_such"):
                await store.append(ORDER, new_events(ORDER, 1))


async def test_a_dsn_may_leave_the_user_to_the_driver(proxy, monkeypatch):
    monkeypatch.setenv("PGUSER", "postgres")
    dsn = f"postgresql:///{proxy.dsn.partition('@/')[2]}"
    config = EventStoreConfig.from_url(dsn)
    async with PostgresEventStore(config) as store:
        assert await store.append(ORDER, new_events(ORDER, 1)) == 1
    with SyncPostgresEventStore(config) as store:
        assert store.current_version(ORDER) == 1


async def test_a_server_that_hangs_up_is_unavailable(proxy, proxied_store):
    proxy.refuse = True
    with pytest.raises(StoreUnavailableError):
        await proxied_store.append(ORDER, new_events(ORDER, 1))
    proxy.refuse = False
    assert await proxied_store.append(ORDER, new_events(ORDER, 1)) == 1


async def test_an_exhausted_pool_is_unavailable_not_a_hang(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=1, max_overflow=0, pool_timeout=0.1)
    async with PostgresEventStore(config) as store, store.bind.connect():
        with pytest.raises(StoreUnavailableError, match="QueuePool limit"):
            await store.exists(ORDER)


async def test_a_role_without_rights_gets_a_typed_error(event_store_dsn, sql):
    sql("DROP ROLE IF EXISTS k1s0_stranger")
    sql("CREATE ROLE k1s0_stranger")
    config = EventStoreConfig(dsn=event_store_dsn)
    async with PostgresEventStore(config) as store, store.bind.connect() as connection:
        await connection.exec_driver_sql("SET ROLE k1s0_stranger")
        with pytest.raises(PermissionDeniedError, match="eventstore"):
            await store.within(connection).append(ORDER, new_events(ORDER, 1))
    sql("DROP ROLE k1s0_stranger")


async def test_any_other_answer_of_the_server_keeps_its_sqlstate(event_store, app_engine):
    async with AsyncSession(app_engine) as session:
        await (await session.connection()).exec_driver_sql("SET LOCAL transaction_read_only = on")
        with pytest.raises(DatabaseError) as refused:
            await event_store.within(session).append(ORDER, new_events(ORDER, 1))
    assert refused.value.sqlstate == "25006"


async def test_a_statement_that_takes_too_long_stores_nothing(event_store, sql):
    await event_store.append(ORDER, new_events(ORDER, 1))
    database = "ALTER DATABASE " + sql("SELECT quote_ident(current_database())")[0][0]
    sql(f"{database} SET statement_timeout = '50ms'")
    await event_store.bind.dispose()
    with psycopg.connect(event_store.config.dsn) as holder:
        holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
        with pytest.raises(DatabaseError) as refused:
            await event_store.append(ORDER, new_events(ORDER, 1))
    assert refused.value.sqlstate == "57014"
    # What looks at the result has its time, also on a machine that is busy.
    sql(f"{database} RESET statement_timeout")
    await event_store.bind.dispose()
    assert await event_store.current_version(ORDER) == 1


async def test_a_row_dropped_by_a_trigger_is_never_a_success(event_store, sql):
    sql("CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.version % 2 = 1 THEN RETURN NULL; END IF; RETURN NEW; END $$")  # fmt: skip
    sql("CREATE TRIGGER drop_odd BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION drop_odd()")
    for expected in (0, None):
        with pytest.raises(DatabaseError, match="dropped a row; nothing was stored"):
            await event_store.append(ORDER, new_events(ORDER, 4), expected_version=expected)
    assert not await event_store.exists(ORDER)
    assert sql("SELECT count(*) FROM eventstore.events") == [(0,)]


async def test_an_error_of_the_unique_key_on_versions_is_a_conflict(event_store, sql):
    """The backstop: somebody wrote past the library, the head row does not know."""
    await event_store.append(ORDER, new_events(ORDER, 2))
    sql("UPDATE eventstore.streams SET version = 1")
    from k1s0_event_store import ConcurrencyError

    async with AsyncSession(event_store.bind) as session:
        with pytest.raises(ConcurrencyError) as refused:
            await event_store.within(session).append(ORDER, new_events(ORDER, 1), expected_version=1)
    assert refused.value.actual_version is None


async def test_a_cancelled_append_leaves_the_pool_healthy(event_store, sql):
    await event_store.append(ORDER, new_events(ORDER, 1))
    with psycopg.connect(event_store.config.dsn) as holder:
        holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
        waiting = [asyncio.create_task(event_store.append(ORDER, new_events(ORDER, 1))) for _ in range(5)]
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in done] == [asyncio.CancelledError] * 5
    assert event_store.bind.pool.checkedout() == 0
    # The server may still be at work on what was cancelled.
    version = await event_store.append(ORDER, new_events(ORDER, 1))
    assert len(await event_store.load(ORDER)) >= version


async def test_a_driver_or_database_of_another_kind_is_refused(event_store_dsn):
    with pytest.raises(ConfigurationError, match="sqlite"):
        SyncPostgresEventStore(bind=create_engine("sqlite://"))
    with pytest.raises(ConfigurationError, match="give EventStoreConfig"):
        PostgresEventStore(EventStoreConfig())
    for parameter in ("channel_binding", "gssencmode"):
        with pytest.raises(ConfigurationError, match=f"{parameter}=require"):
            PostgresEventStore(EventStoreConfig(dsn=f"postgresql://h/d?{parameter}=require"))
    engine = create_async_engine("postgresql+asyncpg://")
    assert PostgresEventStore(bind=engine).bind is engine


def test_every_sqlstate_of_the_driver_becomes_an_error_of_ours():
    """No class of asyncpg's errors is left unmapped."""
    classes = [c for c in vars(asyncpg.exceptions).values() if isinstance(c, type)]
    errors = [c("text") for c in classes if issubclass(c, asyncpg.PostgresError) and c.sqlstate]
    assert len(errors) > 200
    assert [e for e in errors if translate(e, "eventstore") is None] == []
    assert translate(ValueError("not ours"), "eventstore") is None
