"""Events can only be added, whoever asks; and the rights that the library needs are few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from k1s0_event_store import (
    STREAM_EXISTS,
    EventEnvelope,
    EventStoreConfig,
    PermissionDeniedError,
    PostgresEventStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    StreamId,
    SyncPostgresEventStore,
    SyncPostgresSnapshotStore,
)
from k1s0_event_store.keys import WrappingKeys
from k1s0_event_store.postgres.connection import create_async_store_engine
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.postgres.rights import Role
from k1s0_event_store.postgres.schema import downgrade_database, upgrade_database
from k1s0_event_store.testing.inbox_contract import (
    Begin,
    InboxContract,
    MakeInbox,
    TransactionalInboxContract,
    later,
)
from k1s0_event_store.testing.key_contract import KeyStoreContract
from k1s0_event_store.testing.subscription_contract import SubscriptionStoreContract

ORDER = StreamId("order", "o-1")
WRAPPING = WrappingKeys({"2026": b"w" * 32}, current="2026")
MakeRole = Callable[..., str]

WRITER, READER, PROJECTOR = (Role.WRITER,), (Role.READER,), (Role.WRITER, Role.PROJECTOR)
KEEPER, CONSUMER = (Role.WRITER, Role.KEEPER), (Role.WRITER, Role.CONSUMER)
ALL_BUT_THE_OWNER = tuple(role for role in Role if role is not Role.OWNER)

CHANGES = [
    "UPDATE eventstore.events SET payload = '{}'",
    "UPDATE eventstore.events SET version = version + 1 WHERE false",
    "DELETE FROM eventstore.events",
    "DELETE FROM eventstore.events WHERE aggregate_id = 'o-1'",
    "TRUNCATE eventstore.events",
    "TRUNCATE eventstore.events, eventstore.streams CASCADE",
    """MERGE INTO eventstore.events AS e USING (SELECT 1) AS one ON e.aggregate_id = 'o-1'
       WHEN MATCHED THEN DELETE""",
]


def _event(number: int = 1) -> EventEnvelope:
    return EventEnvelope(ORDER, "OrderPlaced", {"number": number})


@pytest.fixture(params=["superuser", "owner"])
def owner_dsn(
    request: pytest.FixtureRequest,
    empty_dsn: str,
    make_role: MakeRole,
    make_engine: Callable[[str], Engine],
) -> str:
    """DSN of who owns the tables, in a database with three events."""
    dsn = empty_dsn if request.param == "superuser" else make_role(empty_dsn, (Role.OWNER,))
    engine = make_engine(dsn)
    with engine.begin() as connection:
        upgrade_database(connection)
    SyncPostgresEventStore(bind=engine).append(ORDER, [_event(1), _event(2), _event(3)])
    return dsn


@pytest.mark.parametrize("change", CHANGES)
def test_the_database_refuses_to_change_events_even_for_their_owner(owner_dsn: str, change: str) -> None:
    rows = b"SELECT * FROM eventstore.events ORDER BY position"
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        before = connection.execute(rows).fetchall()
        with pytest.raises(errors.RestrictViolation, match="append-only") as refused:
            connection.execute(change.encode())
        assert refused.value.diag.message_hint == "Append an event that corrects the earlier one."
        assert len(before) == 3
        assert connection.execute(rows).fetchall() == before


def test_an_upsert_on_events_is_refused(owner_dsn: str) -> None:
    upsert = b"""
        INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,
                                       payload, metadata, occurred_at)
        SELECT aggregate_type, aggregate_id, version, event_id, 'Forged', payload, metadata, occurred_at
        FROM eventstore.events
        ON CONFLICT (aggregate_type, aggregate_id, version) DO UPDATE SET event_type = 'Forged'"""
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        with pytest.raises(errors.RestrictViolation):
            connection.execute(upsert)
        types = connection.execute("SELECT DISTINCT event_type FROM eventstore.events").fetchall()
    assert types == [("OrderPlaced",)]


def test_an_owner_without_other_rights_can_migrate_and_take_it_back(
    empty_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine]
) -> None:
    engine = make_engine(make_role(empty_dsn, (Role.OWNER,)))
    with engine.begin() as connection:
        upgrade_database(connection)
    SyncPostgresEventStore(bind=engine).validate()
    with engine.begin() as connection:
        downgrade_database(connection)


async def test_the_documented_rights_are_enough_for_an_async_store(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    dsn = make_role(event_store_dsn, WRITER)
    config = EventStoreConfig(dsn=dsn)
    async with (
        PostgresEventStore(config) as store,
        PostgresSnapshotStore(config, bind=store.bind) as snapshots,
    ):
        await store.validate()
        batch = [_event(1)]
        assert await store.append(ORDER, batch, 0) == 1
        assert await store.append(ORDER, batch, 0) == 1
        assert await store.append(ORDER, [_event(2)], 1) == 2
        assert await store.append(ORDER, [_event(3)]) == 3
        assert await store.append(ORDER, [_event(4)], STREAM_EXISTS) == 4
        async with AsyncSession(store.bind) as session, session.begin():
            joined = store.within(session)
            assert await joined.lock(ORDER) == 4
            assert await joined.lock(StreamId("order", "new"), wait=1) == 0
            assert await joined.append(ORDER, [_event(5)], 4) == 5
        assert len(await store.load(ORDER)) == 5
        assert [event.version async for event in store.stream(ORDER)] == [1, 2, 3, 4, 5]
        assert [event.version async for event in store.read_all()] == [1, 2, 3, 4, 5]
        for version in (1, 2, 3, 4, 4):
            await snapshots.save(ORDER, version, {"version": version})
        found = await snapshots.load_latest(ORDER)
        assert found is not None
        assert found.version == 4
        copies = [EventEnvelope(ORDER, "OrderPlaced", {}, version=version) for version in (6, 7)]
        assert [await store.import_batch(copies) for _ in range(2)] == [2, 0]


async def test_the_documented_rights_are_enough_for_appends_in_batches(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, WRITER))
    async with PostgresEventStore(config, coalesce=True) as store:
        for version in (1, 2):
            streams = [StreamId("order", str(number)) for number in range(5)]
            calls = (store.append(stream, [EventEnvelope(stream, "OrderPlaced", {})]) for stream in streams)
            assert await asyncio.gather(*calls) == [version] * 5


def test_the_documented_rights_are_enough_for_a_blocking_store(
    event_store_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine]
) -> None:
    engine = make_engine(make_role(event_store_dsn, WRITER))
    store, snapshots = SyncPostgresEventStore(bind=engine), SyncPostgresSnapshotStore(bind=engine)
    store.validate()
    batch = [_event(1)]
    assert [store.append(ORDER, batch, 0), store.append(ORDER, batch, 0)] == [1, 1]
    assert store.append(ORDER, [_event(2)], 1) == 2
    assert store.append(ORDER, [_event(3)]) == 3
    assert store.append(ORDER, [_event(4)], STREAM_EXISTS) == 4
    with Session(engine) as session, session.begin():
        assert store.within(session).lock(ORDER, wait=1) == 4
        assert store.within(session).append(ORDER, [_event(5)], 4) == 5
    assert [event.version for event in store.stream(ORDER)] == [1, 2, 3, 4, 5]
    assert [event.version for event in store.read_all()] == [1, 2, 3, 4, 5]
    for version in (1, 2, 3, 4, 4):
        snapshots.save(ORDER, version, {"version": version})
    found = snapshots.load_latest(ORDER)
    assert found is not None
    assert found.version == 4


@pytest.mark.parametrize(
    "change",
    [
        *CHANGES,
        "DELETE FROM eventstore.streams",
        "DELETE FROM eventstore.cluster",
        "UPDATE eventstore.cluster SET system_identifier = 1",
        "UPDATE eventstore.streams SET aggregate_id = 'other'",
        "UPDATE eventstore.streams SET created_at = now()",
        "UPDATE eventstore.personal_keys SET subject = 'other'",
        "TRUNCATE eventstore.personal_keys",
        "UPDATE eventstore.inbox SET message_id = 'other'",
        "TRUNCATE eventstore.inbox",
        "ALTER TABLE eventstore.events DISABLE TRIGGER ALL",
        "DROP TABLE eventstore.events",
        "CREATE TABLE eventstore.another (id int)",
        "INSERT INTO eventstore.events (position) OVERRIDING SYSTEM VALUE SELECT nextval(s)"
        " FROM pg_get_serial_sequence('eventstore.events', 'position') AS s",
    ],
)
def test_the_documented_rights_do_not_reach_further(
    event_store_dsn: str, make_role: MakeRole, make_engine: Callable[[str], Engine], change: str
) -> None:
    dsn = make_role(event_store_dsn, ALL_BUT_THE_OWNER)
    store = SyncPostgresEventStore(bind=make_engine(dsn))
    store.append(ORDER, [_event(1)])
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(change.encode())
    assert [event.payload for event in store.load(ORDER)] == [{"number": 1}]


class TestTheDocumentedRightsAreEnoughForSubscriptions(SubscriptionStoreContract):
    """Every call of a subscription store, as a role that has the rights for it and no others."""

    @pytest_asyncio.fixture
    async def store(self, event_store_dsn: str, make_role: MakeRole) -> AsyncIterator[PostgresEventStore]:
        config = EventStoreConfig(dsn=make_role(event_store_dsn, PROJECTOR))
        async with PostgresEventStore(config) as store:
            yield store

    @pytest.fixture
    def storage(self, store: PostgresEventStore) -> PostgresSubscriptionStore:
        return PostgresSubscriptionStore(bind=store.bind)


async def test_an_app_without_the_rights_of_subscriptions_cannot_run_them(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, WRITER))
    async with PostgresSubscriptionStore(config) as storage:
        with pytest.raises(PermissionDeniedError):
            await storage.register("totals", 1, 1)
        with pytest.raises(PermissionDeniedError):
            await storage.statuses()


class TestTheDocumentedRightsAreEnoughForKeys(KeyStoreContract):
    """Every call of a key store, as a role that has the rights for it and no others."""

    @pytest_asyncio.fixture
    async def keys(self, event_store_dsn: str, make_role: MakeRole) -> AsyncIterator[PostgresKeyStore]:
        config = EventStoreConfig(dsn=make_role(event_store_dsn, (*KEEPER, Role.FORGETTER)))
        async with PostgresKeyStore(config, wrapping=WRAPPING) as keys:
            yield keys


async def test_an_app_that_encrypts_may_neither_forget_nor_rotate(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, KEEPER))
    newer = WrappingKeys({**WRAPPING.keys, "new": b"n" * 32}, current="new")
    async with PostgresKeyStore(config, wrapping=WRAPPING) as keys:
        made = await keys.for_subjects(["ada"])
        assert len(await keys.find([made["ada"].key_id])) == 1
        with pytest.raises(PermissionDeniedError):
            await keys.forget("ada")
        with pytest.raises(PermissionDeniedError):
            await PostgresKeyStore(bind=keys.bind, wrapping=newer).rotate()
        assert await keys.for_subjects(["ada"]) == made


async def test_the_documented_rights_are_enough_to_rotate(event_store_dsn: str, make_role: MakeRole) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, (*KEEPER, Role.ROTATOR)))
    newer = WrappingKeys({**WRAPPING.keys, "new": b"n" * 32}, current="new")
    async with PostgresKeyStore(config, wrapping=WRAPPING) as keys:
        await keys.for_subjects(["ada"])
        assert await PostgresKeyStore(bind=keys.bind, wrapping=newer).rotate() == 1


class TestTheDocumentedRightsAreEnoughForTheInbox(InboxContract, TransactionalInboxContract):
    """Every call of an inbox, as a role that has the rights for it and no others."""

    @pytest.fixture
    def make_inbox(self) -> MakeInbox:
        return PostgresInbox

    @pytest_asyncio.fixture
    async def begin(self, event_store_dsn: str, make_role: MakeRole) -> AsyncIterator[Begin]:
        config = EventStoreConfig(dsn=make_role(event_store_dsn, (*CONSUMER, Role.CLEANER)))
        engine = create_async_store_engine(config)
        yield engine.begin
        await engine.dispose()


async def test_an_app_that_handles_messages_may_not_forget_them(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, CONSUMER))
    inbox = PostgresInbox("billing")
    async with PostgresEventStore(config) as store, AsyncSession(store.bind) as session:
        async with inbox.once(session, "m-1") as is_new:
            assert is_new
        await session.commit()
        with pytest.raises(PermissionDeniedError):
            await inbox.forget(session, later())


async def test_an_app_without_the_rights_of_the_inbox_cannot_use_it(
    event_store_dsn: str, make_role: MakeRole
) -> None:
    config = EventStoreConfig(dsn=make_role(event_store_dsn, WRITER))
    async with PostgresEventStore(config) as store, AsyncSession(store.bind) as session:
        with pytest.raises(PermissionDeniedError):
            async with PostgresInbox("billing").once(session, "m-1"):
                raise AssertionError("it got in")


async def test_a_role_that_may_only_read_reads_and_is_refused_the_rest(
    event_store_dsn: str, event_store: PostgresEventStore, make_role: MakeRole
) -> None:
    await event_store.append(ORDER, [_event(1)])
    config = EventStoreConfig(dsn=make_role(event_store_dsn, READER))
    async with PostgresEventStore(config) as store, PostgresSnapshotStore(config) as snapshots:
        await store.validate()
        assert len(await store.load(ORDER)) == 1
        assert len([event async for event in store.read_all()]) == 1
        for expected in (None, 1, STREAM_EXISTS):
            with pytest.raises(PermissionDeniedError):
                await store.append(ORDER, [_event(2)], expected)
        with pytest.raises(PermissionDeniedError):
            await snapshots.save(ORDER, 1, {})
        with pytest.raises(PermissionDeniedError):
            async with store.bind.connect() as connection:
                await store.within(connection).lock(ORDER)
        assert await store.current_version(ORDER) == 1
