"""What is left of a deleted key in the files of servers: until when, and what makes an end of it."""

import psycopg
from sqlalchemy import text

from .forgetting import execute, files_with, has_replayed, hotel, prepared_server, standby_of
from .interruption import until


async def make_keys(place):
    """Of some guests; the key of the newest as it is stored, and as it is."""
    for number in range(5):
        (key,) = (await place.keys.for_subjects([f"g-{number}"])).values()
    async with place.bind.connect() as connection:
        statement = text("SELECT secret FROM eventstore.personal_keys WHERE subject = 'g-4'")
        return await connection.scalar(statement), key.secret


def is_gone_from_wal(server, secret):
    """Begin another file of the WAL, and let the server throw away or use again what it needs no more."""
    execute(server.dsn, "CREATE TEMP TABLE something AS SELECT 1; SELECT pg_switch_wal()")
    execute(server.dsn, "CHECKPOINT")
    return "pg_wal" not in files_with(server.data, secret)


async def test_a_deleted_key_stays_on_disk_until_vacuum_full_and_the_end_of_its_wal():
    with prepared_server(fsync="off", autovacuum="off") as server, standby_of(server) as standby:
        async with hotel(server.dsn) as place:
            wrapped, secret = await make_keys(place)
            await place.keys.forget("g-4")
        execute(server.dsn, "CHECKPOINT")
        assert files_with(server.data, wrapped) == {"base", "pg_wal"}
        execute(server.dsn, "VACUUM eventstore.personal_keys")
        execute(server.dsn, "CHECKPOINT")
        assert "base" in files_with(server.data, wrapped), "VACUUM is enough after all: mend the document"
        execute(server.dsn, "VACUUM FULL eventstore.personal_keys")
        await until(lambda: is_gone_from_wal(server, wrapped), "it stays in the WAL")
        assert files_with(server.data, wrapped) == set()
        await until(lambda: is_gone_from(standby, server, wrapped), "it stays on the standby")
        assert files_with(server.data, secret) == files_with(standby.data, secret) == set()


def is_gone_from(standby, server, secret):
    is_gone_from_wal(server, secret)
    execute(standby.dsn, "CHECKPOINT")
    return files_with(standby.data, secret) == set()


async def test_a_slot_that_nobody_reads_keeps_the_wal_with_a_deleted_key():
    with prepared_server(fsync="off", autovacuum="off") as server:
        execute(server.dsn, "SELECT pg_create_physical_replication_slot('lags', true)")
        async with hotel(server.dsn) as place:
            wrapped, _ = await make_keys(place)
            await place.keys.forget("g-4")
        execute(server.dsn, "VACUUM FULL eventstore.personal_keys")
        assert not any(is_gone_from_wal(server, wrapped) for _ in range(5))
        execute(server.dsn, "SELECT pg_drop_replication_slot('lags')")
        await until(lambda: is_gone_from_wal(server, wrapped), "it stays in the WAL")


async def test_an_old_transaction_on_a_standby_with_feedback_keeps_a_deleted_key_in_the_table():
    feedback = {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1"}
    with prepared_server(fsync="off", autovacuum="off") as server, standby_of(server, **feedback) as standby:
        async with hotel(server.dsn) as place:
            wrapped, _ = await make_keys(place)
            await until(lambda: has_replayed(server, standby), "the standby is behind")
            with psycopg.connect(standby.dsn) as reader:
                reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                reader.execute("SELECT FROM eventstore.personal_keys")
                await until(lambda: is_held_back(server), "the standby tells nothing")
                await place.keys.forget("g-4")
                assert not is_gone_from_table(server, wrapped)
        await until(lambda: is_gone_from_table(server, wrapped), "it stays in the table")


def is_held_back(server):
    return execute(server.dsn, "SELECT backend_xmin IS NOT NULL FROM pg_stat_replication") == [(True,)]


def is_gone_from_table(server, secret):
    execute(server.dsn, "VACUUM FULL eventstore.personal_keys")
    execute(server.dsn, "CHECKPOINT")
    return "base" not in files_with(server.data, secret)
