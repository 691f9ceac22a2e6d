"""A standby answers readers and refuses writers; promoted, it has all that was acknowledged."""

import asyncio
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psycopg
import pytest
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    DatabaseError,
    EventStoreConfig,
    EventStoreError,
    OutcomeUnknownError,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    StoreUnavailableError,
    StreamId,
    SubscriptionRunner,
    SyncPostgresEventStore,
)
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import events_of, new_events, read_pages, versions

from ..postgres.racing import Reader, faults
from .interruption import SECONDS, until
from .servers import migrate, own_server
from .test_limits import STORES, async_store

ORDER = StreamId("order", "o-1")
WRITERS = 6
BEFORE, AFTER = 30, 30
"""Appends of each writer that are acknowledged before the kill, and after it."""


@contextmanager
def replicated(commit):
    """A primary whose commits wait for its standby, and that."""
    with own_server(synchronous_commit=commit) as primary:
        migrate(primary.dsn)
        with psycopg.connect(primary.dsn) as connection:
            connection.execute("CREATE TABLE ledger (event_id uuid, version integer)")
        standby = primary.copy(primary.folder.parent / "b")
        standby.start()
        with psycopg.connect(primary.dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        try:
            yield primary, standby
        finally:
            standby.stop()


@pytest.fixture(scope="module")
def standby():
    """With three events in it."""
    with replicated("remote_apply") as (primary, standby):

        async def fill():
            async with PostgresEventStore(EventStoreConfig(dsn=primary.dsn)) as store:
                await store.append(ORDER, new_events(ORDER, 3))

        asyncio.run(fill())
        yield standby


@STORES
@pytest.mark.parametrize("count", [1, 500])
async def test_a_standby_refuses_an_append_with_an_error_that_says_what_to_do(standby, open_store, count):
    async with open_store(EventStoreConfig(dsn=standby.dsn)) as store:
        with pytest.raises(DatabaseError, match="target_session_attrs=read-write") as refused:
            await store.append(ORDER, new_events(ORDER, count))
        assert refused.value.sqlstate == "25006"
        assert refused.value.retryable
        assert versions(await store.load(ORDER)) == [1, 2, 3]


async def test_a_standby_refuses_an_append_in_a_callers_transaction(standby):
    async with async_store(EventStoreConfig(dsn=standby.dsn)) as store:
        async with AsyncSession(store.bind) as session:
            with pytest.raises(DatabaseError, match="target_session_attrs=read-write"):
                await store.within(session).append(ORDER, new_events(ORDER, 1))
        assert store.bind.pool.checkedout() == 0


@STORES
async def test_a_standby_answers_readers(standby, open_store):
    async with open_store(EventStoreConfig(dsn=standby.dsn)) as store:
        assert versions(await store.load(ORDER)) == [1, 2, 3]
        assert [event.version async for event in store.stream(ORDER)] == [1, 2, 3]
        assert [event.version async for event in store.read_all()] == [1, 2, 3]
        assert versions(events_of(await read_pages(store, limit=1))) == [1, 2, 3]
        assert await store.current_version(ORDER) == 3
        later = await store.read_page(await store.latest_cursor())
        assert later.events == []


async def test_while_no_server_can_be_written_to_the_store_is_unavailable(standby):
    dsn = f"{standby.dsn}&target_session_attrs=read-write"
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        with pytest.raises(StoreUnavailableError) as refused:
            await store.append(ORDER, new_events(ORDER, 1))
        assert refused.value.retryable
    with SyncPostgresEventStore(EventStoreConfig(dsn=dsn)) as blocking:
        with pytest.raises(StoreUnavailableError) as refused:
            blocking.append(ORDER, new_events(ORDER, 1))
        assert refused.value.retryable


@pytest.mark.parametrize("transaction_pooler", [False, True])
async def test_a_connection_that_is_out_of_step_is_lost(
    event_store_dsn, event_store, transaction_pooler, monkeypatch
):
    """Of a server that is killed asyncpg may have read the last word, and not yet the end."""
    config = EventStoreConfig(dsn=event_store_dsn, transaction_pooler=transaction_pooler)
    batch = new_events(ORDER, 1)
    async with PostgresEventStore(config) as store:
        await store.current_version(ORDER)
        with monkeypatch.context() as patch:
            for kind, method in ((asyncpg.Connection, "fetch"), (PreparedStatement, "fetch")):
                patch.setattr(kind, method, out_of_step)
            with pytest.raises(OutcomeUnknownError):
                await store.append(ORDER, batch)
        assert await store.append(ORDER, batch) == 1
        assert store.bind.pool.checkedout() == 0


async def out_of_step(*_args, **_options):
    raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


class Progress:
    """What writers were told is stored."""

    def __init__(self):
        self.acknowledged = {}
        self.is_over = asyncio.Event()

    def has(self, count):
        return len(self.acknowledged) == WRITERS and min(map(len, self.acknowledged.values())) >= count

    def note(self, stream_id, version, event):
        self.acknowledged.setdefault(stream_id, []).append((version, event.event_id))


async def try_to_append(store, stream_id, batch, version):
    """The answer, None where there is none for now."""
    try:
        return await store.append(stream_id, batch, version)
    except EventStoreError as error:
        if not error.retryable:
            raise
        await asyncio.sleep(0.01)
        return None


async def write(store, stream_id, progress):
    """Append one event after the other; what fails for now is repeated, with the same ids."""
    version = 0
    while not progress.is_over.is_set():
        batch = new_events(stream_id, 1)
        answer = None
        while answer is None:
            answer = await try_to_append(store, stream_id, batch, version)
        version = answer
        progress.note(stream_id, version, batch[0])


async def project(event, session):
    await session.execute(
        text("INSERT INTO ledger VALUES (:id, :version)"), {"id": event.event_id, "version": event.version}
    )


def fail_over(primary, standby):
    primary.kill()
    standby.promote()


async def test_a_failover_loses_nothing_that_was_acknowledged_and_everybody_goes_on():
    with replicated("on") as (primary, standby):
        hosts = f"{primary.folder},{standby.folder}"
        dsn = f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"
        config = EventStoreConfig(dsn=dsn)
        with SyncPostgresEventStore(config) as blocking:
            async with PostgresEventStore(config) as store:
                await go_through_a_failover(store, blocking, lambda: fail_over(primary, standby))
                assert Path(await store_folder(store)) == standby.folder


async def store_folder(store):
    async with store.bind.connect() as connection:
        return await connection.scalar(text("SHOW unix_socket_directories"))


async def go_through_a_failover(store, blocking, fail_over):
    storage = PostgresSubscriptionStore(store.config, bind=store.bind)
    runner = SubscriptionRunner(
        store, storage, [Projection("orders", project)], lease_seconds=1.0, poll=(0.005, 0.05)
    )
    progress, reader = Progress(), Reader(store, 50)
    streams = [StreamId("order", f"o-{number}") for number in range(WRITERS)]
    running = asyncio.create_task(runner.run())
    stores = [ThreadedEventStore(blocking)] * 2 + [store] * (WRITERS - 2)
    writing = [
        asyncio.create_task(write(one, stream_id, progress))
        for one, stream_id in zip(stores, streams, strict=True)
    ]
    try:
        await until(lambda: progress.has(BEFORE), "the writers do not come so far")
        await reader.read()
        assert reader.events
        await asyncio.to_thread(fail_over)
        done = {stream_id: len(known) for stream_id, known in progress.acknowledged.items()}
        await until(
            lambda: all(len(progress.acknowledged[one]) >= done[one] + AFTER for one in streams),
            "the writers do not go on",
        )
    finally:
        progress.is_over.set()
        await asyncio.wait_for(asyncio.gather(*writing), SECONDS)
    await is_exactly_what_was_acknowledged(store, reader, progress)
    await storage.wait_until("orders", streams[0], 1, within=SECONDS)
    await until(lambda: caught_up(storage), "the projection does not go on")
    runner.stop()
    await asyncio.wait_for(running, SECONDS)
    assert await projected(store) == sorted(event.event_id for event in reader.events)
    assert store.bind.pool.checkedout() == blocking.bind.pool.checkedout() == 0


async def is_exactly_what_was_acknowledged(store, reader, progress):
    for stream_id, known in progress.acknowledged.items():
        stored = await store.load(stream_id)
        assert [(event.version, event.event_id) for event in stored] == known
    await reader.read()
    committed = {event_id for known in progress.acknowledged.values() for _, event_id in known}
    assert faults(committed, reader.events) == set()


async def caught_up(storage):
    (status,) = await storage.statuses("orders")
    return status.caught_up


async def projected(store):
    async with store.bind.connect() as connection:
        return sorted(await connection.scalars(text("SELECT event_id FROM ledger")))
