"""Imports on PostgreSQL: a batch is one transaction, through every driver, whatever happens to it."""

import asyncio
import json
import random

import psycopg
import pytest
from sqlalchemy import event as sa_event
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from k1s0_event_store import (
    ConcurrencyError,
    DatabaseError,
    DuplicateEventError,
    EventEnvelope,
    EventStoreConfig,
    InMemoryEventStore,
    InvalidEventError,
    OutcomeUnknownError,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    StoreUnavailableError,
    StreamId,
    SubscriptionRunner,
    SyncPostgresEventStore,
    TransactionRequiredError,
)
from k1s0_event_store.postgres import binary_copy
from k1s0_event_store.postgres.import_statements import import_statements_for
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import new_events, numbers, versions
from k1s0_event_store.testing.import_contract import CART, ONE, TWO, copies, identity
from k1s0_event_store.testing.runner_contract import eventually
from k1s0_event_store.transfer import export_events, import_events, importing

from .racing import Reader, faults, follow, ids

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture(params=["asyncpg", "psycopg", "blocking", "sessionmaker"])
async def store(request, event_store_dsn, event_store_config):
    """A store of every driver; nothing is checked out when the test is done."""
    if request.param == "blocking":
        with SyncPostgresEventStore(event_store_config) as blocking:
            yield ThreadedEventStore(blocking)
            assert blocking.bind.pool.checkedout() == 0
        return
    driver = "psycopg" if request.param == "psycopg" else "asyncpg"
    engine = create_async_engine(event_store_dsn.replace("postgresql://", f"postgresql+{driver}://"))
    bind = async_sessionmaker(engine) if request.param == "sessionmaker" else engine
    yield PostgresEventStore(bind=bind)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture
def killed(sql, monkeypatch):
    """Ends the connection that a batch is travelling on, when the payload {"n": 3} is its turn."""
    row = binary_copy._row

    def kill(*values):
        if '{"n":3}' in values:
            monkeypatch.setattr(binary_copy, "_row", row)
            sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
        return row(*values)

    monkeypatch.setattr(binary_copy, "_row", kill)


@pytest.fixture
def losing(proxy, monkeypatch):
    """The answer to the COPY of a batch gets lost, and with it the connection."""
    row = binary_copy._row

    def lose(*values):
        proxy.lose_next_answer = True
        return row(*values)

    monkeypatch.setattr(binary_copy, "_row", lose)


async def test_of_a_refused_batch_nothing_is_stored(store, sql):
    await store.import_batch(copies(CART, 1))
    (taken,) = await store.load(CART)
    refused = [
        ([*copies(ONE, 1), *copies(CART, 1, first=3)], InvalidEventError),
        ([*copies(ONE, 1), *copies(CART, 1)], InvalidEventError),
        (copies(ONE, 1, event_id=taken.event_id), DuplicateEventError),
        ([*copies(TWO, 3), EventEnvelope(ONE, "Bad", object(), version=1)], InvalidEventError),
    ]
    for batch, error in refused:
        with pytest.raises(error):
            await store.import_batch(batch)
    assert sql("SELECT aggregate_type, version FROM eventstore.streams") == [("cart", 1)]
    assert await store.import_batch(copies(ONE, 2)) == 2


async def test_a_connection_that_is_killed_in_the_midst_stores_nothing_and_repeating_does(store, sql, killed):
    batch = [*copies(ONE, 5), *copies(TWO, 2)]
    with pytest.raises(OutcomeUnknownError, match="repeat it with the same events"):
        await store.import_batch(batch)
    assert sql("SELECT count(*) FROM eventstore.streams") == [(0,)]
    assert await store.import_batch(batch) == 7
    assert identity(await store.load(ONE)) == identity(batch[:5])


async def test_a_connection_that_is_killed_while_it_waits_stores_nothing(store, sql, event_store_dsn):
    await store.import_batch(copies(ONE, 1))
    with psycopg.connect(event_store_dsn) as holder:
        holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
        waiting = asyncio.create_task(store.import_batch([*copies(TWO, 1), *copies(ONE, 1, first=2)]))
        ((pid,),) = await eventually(lambda: sql(WAITING))
        sql("SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(OutcomeUnknownError):
            await waiting
    assert not await store.exists(TWO)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_lost_answer_to_a_copy_in_the_callers_transaction_tells_so(proxy, losing, driver):
    engine = create_async_engine(proxy.dsn.replace("postgresql://", f"postgresql+{driver}://"))
    store = PostgresEventStore(bind=engine)
    async with AsyncSession(engine) as session:
        with pytest.raises(StoreUnavailableError, match="broke"):
            await store.within(session).import_batch(copies(ONE, 2))
    assert not await store.exists(ONE)
    await engine.dispose()


def test_a_lost_answer_to_a_copy_in_a_blocking_transaction_tells_so(losing, proxied_sync_store):
    with Session(proxied_sync_store.bind) as session, pytest.raises(StoreUnavailableError, match="broke"):
        proxied_sync_store.within(session).import_batch(copies(ONE, 2))
    assert not proxied_sync_store.exists(ONE)


async def test_a_file_whose_import_was_killed_is_gone_on_with(
    event_store, sql, killed, tmp_path, monkeypatch
):
    monkeypatch.setattr(importing, "_MOST_EVENTS", 2)
    source = InMemoryEventStore()
    for number in range(5):
        for stream_id in (ONE, TWO):
            await source.append(stream_id, [EventEnvelope(stream_id, "Placed", {"n": number})])
    path = tmp_path / "events.jsonl.gz"
    await export_events(source, path)
    with pytest.raises(OutcomeUnknownError):
        await import_events(event_store, path)
    assert sql("SELECT count(*) FROM eventstore.events") == [(6,)]
    imported = await import_events(event_store, path)
    assert (imported.events, imported.appended) == (10, 4)
    for stream_id in (ONE, TWO):
        assert identity(await event_store.load(stream_id)) == identity(await source.load(stream_id))


@pytest.mark.parametrize("store", ["asyncpg", "psycopg", "sessionmaker"], indirect=True)
async def test_a_cancelled_import_stores_nothing_and_leaves_the_pool_healthy(store, sql, event_store_dsn):
    await store.import_batch(copies(ONE, 1))
    with psycopg.connect(event_store_dsn) as holder:
        holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
        waiting = asyncio.create_task(store.import_batch([*copies(TWO, 1), *copies(ONE, 1, first=2)]))
        await eventually(lambda: sql(WAITING))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not await store.exists(TWO)
    assert await store.import_batch(copies(TWO, 1)) == 1


@pytest.fixture
async def held(event_store):
    """Two events of ONE, appended in a transaction that is open."""
    async with event_store.bind.connect() as connection:
        events = new_events(ONE, 2)
        await event_store.within(connection).append(ONE, events)
        yield (
            connection,
            [
                EventEnvelope(ONE, e.event_type, e.payload, event_id=e.event_id, version=n)
                for n, e in enumerate(events, 1)
            ],
        )


async def test_an_import_waits_for_a_writer_and_leaves_out_what_that_has_stored(event_store, held, sql):
    connection, same = held
    importing = asyncio.create_task(event_store.import_batch([*copies(TWO, 2), *same, *copies(ONE, 1, 3)]))
    await eventually(lambda: sql(WAITING))
    await connection.commit()
    assert await importing == 3
    assert numbers(await event_store.load(ONE)) == [1, 2, 3]
    assert numbers(await event_store.load(TWO)) == [1, 2]


async def test_an_import_waits_for_a_writer_and_is_refused_if_that_stores_something_else(
    event_store, held, sql
):
    connection, _ = held
    importing = asyncio.create_task(event_store.import_batch([*copies(TWO, 2), *copies(ONE, 2)]))
    await eventually(lambda: sql(WAITING))
    await connection.commit()
    with pytest.raises(InvalidEventError, match="in the store") as refused:
        await importing
    assert refused.value.index == 2
    assert not await event_store.exists(TWO)


async def test_an_import_waits_for_a_writer_and_stores_all_if_that_gives_up(event_store, held, sql):
    connection, _ = held
    importing = asyncio.create_task(event_store.import_batch(copies(ONE, 3)))
    await eventually(lambda: sql(WAITING))
    await connection.rollback()
    assert await importing == 3


async def test_imports_of_the_same_streams_in_any_order_never_block_each_other_for_good(event_store, sql):
    streams = [StreamId("order", name) for name in ("ä", "a", "B", "b", "_", "Z", "z-1", "z1")]
    chooser = random.Random(2026)
    batches = []
    for first in range(1, 40, 2):
        runs = [copies(stream_id, 2, first) for stream_id in streams]
        batches.append(runs)

    async def run():
        imported = 0
        for runs in batches:
            mixed = [event for run in chooser.sample(runs, len(runs)) for event in run]
            imported += await event_store.import_batch(mixed)
        return imported

    assert sum(await asyncio.gather(*(run() for _ in range(6)))) == 40 * len(streams)
    for stream_id in streams:
        assert versions(await event_store.load(stream_id)) == list(range(1, 41))


async def test_readers_beside_imports_and_appends_get_each_event_once_and_in_order(event_store, sql):
    readers = [Reader(event_store, limit) for limit in (3, 1_000)]
    done = False

    async def take_in(number):
        one, two = StreamId("order", f"a{number % 2}"), StreamId("order", f"b{number}")
        for first in range(1, 30, 3):
            await event_store.import_batch(copies(two, 3, first))
            await event_store.append(one, new_events(one, 2))

    following = [asyncio.create_task(follow(reader, lambda: done)) for reader in readers]
    await asyncio.gather(*map(take_in, range(6)))
    done = True
    await asyncio.gather(*following)
    for reader in readers:
        await reader.read()
        assert len(reader.events) == 6 * 50
        assert faults(ids(sql), reader.events) == set()


async def test_a_batch_stands_in_the_feed_in_its_own_order(event_store):
    one, two = copies(ONE, 3), copies(TWO, 3)
    batch = [two[0], one[0], one[1], two[1], two[2], one[2]]
    await event_store.import_batch(batch)
    read = [event async for event in event_store.read_all()]
    assert identity(read) == identity(batch)
    assert [event.position for event in read] == sorted(event.position for event in read)


async def test_a_subscription_handles_what_is_imported_once_and_is_woken(event_store_dsn, sql):
    config = EventStoreConfig(dsn=event_store_dsn, notify=True)
    handled = []

    async def handle(event, session):
        handled.append(event)

    async with (
        PostgresEventStore(config) as store,
        PostgresSubscriptionStore(config, bind=store.bind) as storage,
        SubscriptionRunner(store, storage, [Projection("p", handle)], poll=(60.0, 60.0)),
    ):
        await eventually(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))
        for first in (1, 4):  # before the second one the subscription is at rest for certain
            await store.import_batch([*copies(ONE, 3, first), *copies(TWO, 3, first)])
            await storage.wait_until("p", TWO, first + 2, within=10)
    assert sorted(numbers(handled)) == sorted([1, 2, 3, 4, 5, 6] * 2)


async def test_a_refusal_leaves_the_callers_transaction_usable(event_store):
    bad = EventEnvelope(ONE, "Bad", float("nan"), version=2)
    await event_store.import_batch(copies(CART, 1))
    refused = [[*copies(ONE, 1), bad], copies(TWO, 1, first=5), copies(CART, 1)]
    async with AsyncSession(event_store.bind) as session:
        bound = event_store.within(session)
        await bound.append(ONE, new_events(ONE, 1))
        for batch in refused:
            with pytest.raises(InvalidEventError):
                await bound.import_batch(batch)
        assert await bound.import_batch(copies(ONE, 2, first=2)) == 2
        with pytest.raises(DBAPIError, match="does not exist"):  # no savepoint is left behind
            async with session.begin_nested():
                await session.execute(text("RELEASE SAVEPOINT k1s0_event_store_import"))
        await session.commit()
    assert numbers(await event_store.load(ONE)) == [1, 2, 3]
    assert not await event_store.exists(TWO)


async def test_what_is_imported_in_the_callers_transaction_goes_with_its_rollback(event_store, sql):
    async with AsyncSession(event_store.bind) as session:
        assert await event_store.within(session).import_batch(copies(ONE, 2)) == 2
        await session.rollback()
    assert sql("SELECT count(*) FROM eventstore.streams") == [(0,)]


async def test_above_read_committed_a_stream_that_moved_is_a_conflict(event_store):
    async with event_store.bind.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        bound = event_store.within(connection)
        assert not await bound.exists(ONE)
        await event_store.append(ONE, new_events(ONE, 1))
        with pytest.raises(ConcurrencyError) as refused:
            await bound.import_batch(copies(ONE, 2))
    assert refused.value.actual_version is None


async def test_an_import_in_autocommit_is_refused(event_store):
    engine = event_store.bind.execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        with pytest.raises(TransactionRequiredError):
            await event_store.within(connection).import_batch(copies(ONE, 1))


async def test_a_stream_that_was_locked_before_its_first_event_is_imported(event_store):
    async with event_store.bind.begin() as connection:
        assert await event_store.within(connection).lock(ONE) == 0
    assert await event_store.import_batch(copies(ONE, 2)) == 2
    assert await event_store.current_version(ONE) == 2


async def test_a_row_dropped_by_a_trigger_is_never_an_import(store, sql):
    sql("CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.version % 2 = 1 THEN RETURN NULL; END IF; RETURN NEW; END $$")  # fmt: skip
    sql("CREATE TRIGGER drop_odd BEFORE INSERT ON eventstore.events FOR EACH ROW EXECUTE FUNCTION drop_odd()")
    with pytest.raises(DatabaseError, match="dropped a row; nothing was stored"):
        await store.import_batch(copies(ONE, 4))
    assert sql("SELECT count(*) FROM eventstore.streams") == [(0,)]


@pytest.mark.parametrize("stored", [[2], [3], [2, 3]])
async def test_events_that_stand_beyond_the_head_are_an_error_and_no_endless_loop(event_store, sql, stored):
    """Somebody wrote past the library."""
    batch = copies(ONE, 4)
    await event_store.import_batch(batch[:3])
    sql("ALTER TABLE eventstore.events DISABLE TRIGGER ALL")
    sql("DELETE FROM eventstore.events WHERE version > 1 AND NOT version = ANY (%s)", stored)
    sql("UPDATE eventstore.streams SET version = 1")
    for given in (batch, copies(ONE, 3, first=2)):
        with pytest.raises(InvalidEventError, match=r"in the store|the store has only 1"):
            await event_store.import_batch(given)


async def test_a_unique_key_of_the_apps_own_is_an_error_and_no_endless_loop(event_store, sql):
    sql("CREATE UNIQUE INDEX one_of_a_type ON eventstore.events (event_type)")
    with pytest.raises(DatabaseError, match="one_of_a_type") as refused:
        await event_store.import_batch(copies(ONE, 2))
    assert refused.value.sqlstate == "23505"


@pytest.mark.parametrize("name", ["stored", "taken"])
async def test_what_is_looked_up_for_a_batch_is_found_by_keys(event_store, sql, name):
    batch = [EventEnvelope(StreamId("order", str(n)), "Copied", {}, version=1) for n in range(3_000)]
    await event_store.import_batch(batch)
    sql("ANALYZE")
    last = [str(event.event_id) for event in batch] if name == "taken" else ["1"] * len(batch)
    columns = [["order"] * len(batch), [str(n) for n in range(len(batch))], ["1"] * len(batch), last]
    statement = getattr(import_statements_for("eventstore"), name).dollar
    for number, column in enumerate(columns, 1):
        statement = statement.replace(f"${number}", f"'{{{','.join(column)}}}'")
    plan = "\n".join(line for (line,) in sql(f"EXPLAIN {statement}"))
    assert "Seq Scan" not in plan
    assert "uq_events" in plan
    # Each event stands where it belongs: found as stored, and no id of it is taken by another.
    assert len(sql(statement)) == (0 if name == "taken" else len(batch))


async def test_a_json_codec_of_the_apps_does_not_meddle(event_store_dsn):
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+asyncpg://"))

    @sa_event.listens_for(engine.sync_engine, "connect")
    def register(connection, _record):
        connection.run_async(
            lambda driver: driver.set_type_codec(
                "json", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
        )

    batch = copies(ONE, 2)
    store = PostgresEventStore(bind=engine)
    await store.import_batch(batch)
    assert identity(await store.load(ONE)) == identity(batch)
    await engine.dispose()


async def test_the_text_of_a_file_is_kept_as_it_is_written(event_store, sql, tmp_path):
    path = tmp_path / "events.jsonl"
    payloads = [
        '{"b": 1.00, "a":[ 0.1000000000000000055511151231257827 ]}',
        "1E5",
        '"\\u00e9\\u2028"',
        "null",
    ]
    source = InMemoryEventStore()
    await source.append(ONE, [EventEnvelope(ONE, "Odd", "HERE") for _ in payloads])
    await export_events(source, path)
    header, *lines, footer = path.read_text().splitlines()
    lines = [line.replace('"HERE"', text) for line, text in zip(lines, payloads, strict=True)]
    path.write_text("\n".join([header, *lines, footer, ""]))
    await import_events(event_store, path)
    stored = "SELECT payload::text FROM eventstore.events ORDER BY version"
    assert [text for (text,) in sql(stored)] == payloads
    again = tmp_path / "again.jsonl"
    await export_events(event_store, again)
    written = [line.partition('"payload":')[2][:-1] for line in again.read_text().splitlines()[1:-1]]
    assert written == payloads
