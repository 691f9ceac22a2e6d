"""Subscriptions on PostgreSQL: one transaction with the read model, faults, processes, notifications."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from k1s0_event_store import (
    ConfigurationError,
    EventStoreConfig,
    FailurePolicy,
    LeaseLostError,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Progress,
    Projection,
    StoreClosedError,
    StreamId,
    Subscriber,
    SubscriptionRunner,
    WaitTimeoutError,
)
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.testing.runner_contract import eventually

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")
SEEN = "INSERT INTO seen (stream, version) VALUES (:stream, :version)"
FAST = {"poll": (0.002, 0.05), "lease_seconds": 3.0}
RARELY = {"poll": (30.0, 30.0)}


@pytest.fixture(autouse=True)
def read_model(sql):
    sql("CREATE TABLE seen (stream text, version bigint, PRIMARY KEY (stream, version))")


async def write_down(event, session):
    await session.execute(text(SEEN), {"stream": event.stream_id.aggregate_id, "version": event.version})


def seen(sql):
    return [tuple(row) for row in sql("SELECT stream, version FROM seen ORDER BY 1, 2")]


def runner(store, storage, *subscriptions, **options):
    return SubscriptionRunner(store, storage, subscriptions, **{**FAST, **options})


async def leased(storage, name="p", worker="w", seconds=30.0):
    await storage.register(name, 1, 1)
    (lease,) = await storage.beat(name, 1, worker, seconds)
    return lease


async def test_what_an_old_owner_wrote_is_rolled_back_with_its_checkpoint(
    event_store, subscription_store, sql
):
    await event_store.append(ORDER, new_events(ORDER, 1))
    page = await event_store.read_page()
    old = await leased(subscription_store, worker="old", seconds=0.0)
    (new,) = await subscription_store.beat("p", 1, "new", 30.0)

    async def handle_as(lease):
        async with subscription_store.transaction() as transaction:
            await write_down(page.events[0], transaction.session)
            await subscription_store.save(lease, Progress(page.cursor, 1), transaction)

    with pytest.raises(LeaseLostError):
        await handle_as(old)
    assert seen(sql) == []
    await handle_as(new)
    assert seen(sql) == [("o-1", 1)]


async def test_a_checkpoint_whose_answer_was_lost_is_not_moved_twice(event_store, subscription_store, sql):
    await event_store.append(ORDER, new_events(ORDER, 1))
    page = await event_store.read_page()
    lease = await leased(subscription_store)
    await subscription_store.save(lease, Progress(page.cursor, 1))
    with pytest.raises(LeaseLostError):
        await subscription_store.save(lease, Progress(page.cursor, 1))
    assert sql("SELECT handled FROM eventstore.subscriptions") == [(1,)]


async def test_a_projection_survives_that_its_connection_is_killed(event_store, subscription_store, sql):
    await event_store.append(ORDER, new_events(ORDER, 20))
    killed = []

    async def handle(event, session):
        await write_down(event, session)
        if event.version == 10 and not killed:
            killed.append(True)
            pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar()
            sql("SELECT pg_terminate_backend(%s)", pid)
            await asyncio.sleep(0.05)

    notices = []
    projection = Projection("p", handle)
    await runner(event_store, subscription_store, projection, observe=notices.append).run_until_caught_up()
    assert seen(sql) == [("o-1", version) for version in range(1, 21)]
    assert "waiting" in {notice.kind for notice in notices}
    assert "parked" not in {notice.kind for notice in notices}


async def test_what_the_commit_refuses_is_parked(event_store, subscription_store, sql):
    sql("ALTER TABLE seen DROP CONSTRAINT seen_pkey")
    sql("ALTER TABLE seen ADD UNIQUE (stream, version) DEFERRABLE INITIALLY DEFERRED")
    await event_store.append(ORDER, new_events(ORDER, 3))
    await event_store.append(OTHER, new_events(OTHER, 3))

    async def handle(event, session):
        for _ in range(2 if (event.stream_id, event.version) == (ORDER, 2) else 1):
            await write_down(event, session)

    projection = Projection("p", handle, failure=FailurePolicy(attempts=1))
    await runner(event_store, subscription_store, projection).run_until_caught_up()
    assert seen(sql) == [("o-1", 1), ("o-2", 1), ("o-2", 2), ("o-2", 3)]
    assert [parked.event_version for parked in await subscription_store.parked("p")] == [2, 3]


async def test_a_lost_answer_to_commit_has_its_effect_once(proxy, sql):
    async with PostgresEventStore(EventStoreConfig(dsn=proxy.dsn)) as store:
        await store.append(ORDER, new_events(ORDER, 5))
        storage = PostgresSubscriptionStore(bind=store.bind)

        class LosesCommit(PostgresSubscriptionStore):
            lost = False

            async def save(self, lease, progress, transaction=None):
                await super().save(lease, progress, transaction)
                if transaction is not None and not self.lost:
                    type(self).lost = proxy.lose_next_answer = True

        storage = LosesCommit(bind=store.bind)
        await runner(store, storage, Projection("p", write_down), lease_seconds=0.3).run_until_caught_up()
        assert LosesCommit.lost
    assert seen(sql) == [("o-1", version) for version in range(1, 6)]
    assert sql("SELECT handled FROM eventstore.subscriptions") == [(5,)]


async def test_a_server_that_cannot_be_reached_for_a_while_loses_nothing(proxy, sql):
    async with PostgresEventStore(EventStoreConfig(dsn=proxy.dsn)) as store:
        storage = PostgresSubscriptionStore(bind=store.bind)
        running = runner(store, storage, Projection("p", write_down))
        async with running:
            await store.append(ORDER, new_events(ORDER, 3))
            await eventually(lambda: len(seen(sql)) == 3)
            proxy.refuse = True
            sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.3)
            proxy.refuse = False
            await store.append(ORDER, new_events(ORDER, 2))
            await eventually(lambda: len(seen(sql)) == 5)


async def test_a_reset_commits_with_the_emptied_read_model_or_not_at_all(
    event_store, subscription_store, sql
):
    await event_store.append(ORDER, new_events(ORDER, 3))
    projection = Projection("p", write_down)
    await runner(event_store, subscription_store, projection).run_until_caught_up()
    async with AsyncSession(event_store.bind) as session:
        await session.execute(text("TRUNCATE seen"))
        await subscription_store.within(session).reset("p")
        await session.rollback()
    await runner(event_store, subscription_store, projection).run_until_caught_up()
    assert len(seen(sql)) == 3
    async with AsyncSession(event_store.bind) as session, session.begin():
        await session.execute(text("TRUNCATE seen"))
        await subscription_store.within(session).reset("p")
    assert seen(sql) == []
    await runner(event_store, subscription_store, projection).run_until_caught_up()
    assert len(seen(sql)) == 3


async def test_handlers_get_sessions_of_the_apps_own_sessionmaker(event_store, event_store_dsn, sql):
    class AppSession(AsyncSession):
        pass

    kinds = set()

    async def handle(event, session):
        kinds.add(type(session))
        await write_down(event, session)

    await event_store.append(ORDER, new_events(ORDER, 2))
    storage = PostgresSubscriptionStore(bind=async_sessionmaker(event_store.bind, class_=AppSession))
    await runner(event_store, storage, Projection("p", handle)).run_until_caught_up()
    assert (kinds, len(seen(sql))) == ({AppSession}, 2)


async def test_psycopg_drives_subscriptions_too(event_store, event_store_dsn, sql):
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+psycopg://"))
    store = PostgresEventStore(bind=engine)
    await store.append(ORDER, new_events(ORDER, 700))
    storage = PostgresSubscriptionStore(bind=engine)
    await runner(store, storage, Projection("p", write_down, partitions=2)).run_until_caught_up()
    assert len(seen(sql)) == 700
    assert [status.caught_up for status in await storage.statuses()] == [True]
    await engine.dispose()


async def test_events_wait_for_nobody_who_listens(event_store_config, event_store_dsn, sql):
    config = EventStoreConfig(dsn=event_store_dsn, notify=True)
    async with (
        PostgresEventStore(config) as store,
        PostgresSubscriptionStore(config, bind=store.bind) as storage,
        runner(store, storage, Projection("p", write_down), **RARELY),
    ):
        await eventually(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))
        await store.append(ORDER, new_events(ORDER, 2))
        await storage.wait_until("p", ORDER, 2, within=5)
        async with AsyncSession(store.bind) as session:
            await store.within(session).append(OTHER, new_events(OTHER, 1), expected_version=0)
            with pytest.raises(WaitTimeoutError):
                await storage.wait_until("p", OTHER, 1, within=0.2)
            await session.commit()
        await storage.wait_until("p", OTHER, 1, within=5)


async def test_a_lost_listener_listens_again(event_store_dsn, sql):
    config = EventStoreConfig(dsn=event_store_dsn, notify=True)
    listeners = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    async with (
        PostgresEventStore(config) as store,
        PostgresSubscriptionStore(config, bind=store.bind) as storage,
        runner(store, storage, Projection("p", write_down), **RARELY),
    ):
        ((first,),) = await eventually(lambda: sql(listeners))
        sql("SELECT pg_terminate_backend(%s)", first)
        await store.append(ORDER, new_events(ORDER, 1))  # nobody hears it
        ((second,),) = await eventually(lambda: [r for r in sql(listeners) if r != (first,)])
        assert second != first
        await storage.wait_until("p", ORDER, 1, within=5)
        await store.append(ORDER, new_events(ORDER, 1))
        await storage.wait_until("p", ORDER, 2, within=5)
    assert sql(listeners) == []


async def test_without_a_listener_polling_finds_what_is_new(event_store_dsn, sql):
    config = EventStoreConfig(dsn=event_store_dsn, notify=True, transaction_pooler=True)
    async with (
        PostgresEventStore(config) as store,
        PostgresSubscriptionStore(config, bind=store.bind) as storage,
        runner(store, storage, Projection("p", write_down)),
    ):
        await store.append(ORDER, new_events(ORDER, 1))
        await storage.wait_until("p", ORDER, 1, within=5)


async def test_listening_needs_an_engine(event_store_config):
    config = EventStoreConfig(notify=True)
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        PostgresSubscriptionStore(config, bind=async_sessionmaker(bind=None)).listen(lambda: None)


async def test_a_closed_subscription_store_refuses(event_store, event_store_config):
    storage = PostgresSubscriptionStore(event_store_config)
    await storage.close()
    with pytest.raises(StoreClosedError):
        await storage.statuses()
    with pytest.raises(StoreClosedError):
        await storage.reset("p")


async def test_a_poll_of_a_partition_reads_what_another_connection_commits_late(
    event_store, subscription_store, sql
):
    """The lower position commits last: the subscription gets it, behind what came before it."""
    order = []

    async def handle(event):
        order.append(event.stream_id.aggregate_id)

    async with runner(event_store, subscription_store, Subscriber("s", handle)):
        async with AsyncSession(event_store.bind) as session:
            await event_store.within(session).append(ORDER, new_events(ORDER, 1))
            await event_store.append(OTHER, new_events(OTHER, 1))
            await subscription_store.wait_until("s", OTHER, 1)
            await session.commit()
        await subscription_store.wait_until("s", ORDER, 1)
    assert order == ["o-2", "o-1"]


def start_worker(dsn):
    program = Path(__file__).with_name("subscription_worker.py")
    return subprocess.Popen([sys.executable, str(program), dsn], stdin=subprocess.DEVNULL)


async def test_processes_share_the_partitions_and_take_over_from_one_that_is_killed(
    event_store, subscription_store, event_store_dsn, sql
):
    streams = [StreamId("order", f"s-{number}") for number in range(40)]
    for stream_id in streams:
        await event_store.append(stream_id, new_events(stream_id, 10))
    processes = [start_worker(event_store_dsn) for _ in range(3)]
    try:
        holders = "SELECT count(DISTINCT owner), count(owner) FROM eventstore.subscriptions"
        await eventually(lambda: sql(holders) == [(3, 6)], 30)
        processes[0].send_signal(signal.SIGKILL)
        for stream_id in streams:
            await event_store.append(stream_id, new_events(stream_id, 10))
        await eventually(lambda: sql("SELECT count(*) FROM seen") == [(800,)], 30)
        await eventually(lambda: sql(holders) == [(2, 6)], 30)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    assert seen(sql) == sorted((s.aggregate_id, v) for s in streams for v in range(1, 21))
    assert sql("SELECT count(*) FROM eventstore.subscriptions WHERE owner IS NOT NULL") == [(0,)]
