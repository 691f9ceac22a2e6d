"""Large appends: a transaction of several statements is as much one thing as a statement is."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from k1s0_event_store import EventStoreError, PostgresEventStore, StreamId
from k1s0_event_store.postgres.operations import BY_COPY
from k1s0_event_store.testing.contract import new_events, versions

ORDER = StreamId("order", "o-1")
TRIGGER = """
CREATE FUNCTION eventstore.meddle() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN {does} RETURN NEW; END$$;
CREATE TRIGGER meddles BEFORE INSERT ON eventstore.events FOR EACH ROW
WHEN (NEW.version = {version}) EXECUTE FUNCTION eventstore.meddle()"""
MEDDLING = {"refuses": "RAISE EXCEPTION 'not this one';", "drops": "RETURN NULL;"}


@pytest.fixture(params=["asyncpg", "psycopg"])
async def autocommit_engine(request, event_store_dsn):
    """An app's engine without transactions of its own."""
    url = event_store_dsn.replace("postgresql:", f"postgresql+{request.param}:")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("meddling", MEDDLING)
@pytest.mark.parametrize("make_bind", [lambda engine: engine, async_sessionmaker], ids=["engine", "sessions"])
async def test_a_large_append_is_stored_whole_or_not_at_all(autocommit_engine, sql, meddling, make_bind):
    sql(TRIGGER.format(does=MEDDLING[meddling], version=BY_COPY).replace("%", "%%"))
    store = PostgresEventStore(bind=make_bind(autocommit_engine))
    with pytest.raises(EventStoreError):
        await store.append(ORDER, new_events(ORDER, BY_COPY))
    assert await store.current_version(ORDER) == 0
    assert await store.load(ORDER) == []
    assert await store.append(ORDER, new_events(ORDER, BY_COPY - 1)) == BY_COPY - 1
    assert versions(await store.load(ORDER)) == list(range(1, BY_COPY))


async def test_a_large_append_finds_a_live_connection_where_idle_ones_died(event_store, sql):
    await asyncio.gather(*(event_store.current_version(StreamId("s", str(i))) for i in range(5)))
    sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    await asyncio.sleep(0.2)
    assert await event_store.append(ORDER, new_events(ORDER, BY_COPY)) == BY_COPY
    assert event_store.bind.pool.checkedout() == 0
