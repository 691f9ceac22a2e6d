"""Keys in PostgreSQL: in the caller's transaction, raced with real connections, rotated, never in clear."""

import asyncio
import base64
from typing import Annotated
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    ConfigurationError,
    CorruptDataError,
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
)
from k1s0_event_store.keys import WrappingKeys
from k1s0_event_store.personal import SEALING, Personal
from k1s0_event_store.postgres import key_operations
from k1s0_event_store.postgres.keys import PostgresKeyStore
from k1s0_event_store.sealer import FORGOTTEN, Sealer
from k1s0_event_store.testing.key_contract import key_of
from k1s0_event_store.testing.runner_contract import eventually

ORDER = StreamId("order", "o-1")
OLD = WrappingKeys({"2025": b"o" * 32}, current="2025")
BOTH = WrappingKeys({"2025": b"o" * 32, "2026": b"n" * 32}, current="2026")
NEW = WrappingKeys({"2026": b"n" * 32}, current="2026")
SUBJECTS = [f"customer-{number}" for number in range(50)]
WRITERS = 16

TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'eventstore'"
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


class Registered(BaseModel):
    customer_id: str
    name: Annotated[str, Personal(subject="customer_id")]


@pytest.fixture
async def keys(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, pool_size=WRITERS, max_overflow=0)
    async with PostgresKeyStore(config, wrapping=OLD) as keys:
        yield keys


def under(keys, wrapping):
    """The same keys, as a process sees them that has been given other wrapping keys."""
    return PostgresKeyStore(keys.config, bind=keys.bind, wrapping=wrapping)


def names_of_wrapping_keys(sql):
    rows = sql("SELECT wrapping_key, count(*) FROM eventstore.personal_keys GROUP BY 1")
    return dict(rows)


# In a transaction


async def test_a_key_commits_with_the_transaction_and_goes_with_it(keys):
    for commit in (False, True):
        async with AsyncSession(keys.bind) as session:
            made = await key_of(keys.within(session), "ada")
            assert await keys.find([made.key_id]) == {}
            await (session.commit() if commit else session.rollback())
        assert len(await keys.find([made.key_id])) == commit


async def test_forgetting_counts_once_it_is_committed(keys):
    made = await key_of(keys, "ada")
    async with keys.bind.connect() as connection:
        assert await keys.within(connection).forget("ada")
        assert await keys.within(connection).find([made.key_id]) == {}
        assert await keys.find([made.key_id]) == {made.key_id: made}
        await connection.rollback()
    assert await key_of(keys, "ada") == made


async def test_event_key_and_snapshot_commit_together(keys, event_store):
    snapshots = PostgresSnapshotStore(bind=event_store.bind)
    event = Registered(customer_id="ada", name="Ada")
    for commit in (False, True):
        async with AsyncSession(keys.bind) as session:
            sealer = Sealer(keys.within(session))
            envelope = EventEnvelope(ORDER, "Registered", event.model_dump(mode="json", context=SEALING))
            (sealed,) = await sealer.seal([(str(envelope.event_id), envelope.payload)])
            envelope = EventEnvelope(ORDER, "Registered", sealed.payload, event_id=envelope.event_id)
            await event_store.within(session).append(ORDER, [envelope], 0)
            state = await sealer.seal_state(sealed.key_ids, str(ORDER), {"name": "Ada"})
            await snapshots.within(session).save(ORDER, 1, state)
            await (session.commit() if commit else session.rollback())
    sealer = Sealer(keys)
    (stored,) = await event_store.load(ORDER)
    snapshot = await snapshots.load_latest(ORDER)
    for forgotten in (False, True):
        (unsealed,) = await sealer.unseal([(str(stored.event_id), stored.payload)])
        assert unsealed.payload == {"customer_id": "ada", "name": "[forgotten]" if forgotten else "Ada"}
        state = await sealer.unseal_state(str(ORDER), snapshot.state)
        assert state == (FORGOTTEN if forgotten else {"name": "Ada"})
        await keys.forget("ada")


# Races


@pytest.mark.parametrize("commit", [True, False])
async def test_who_meets_a_key_that_is_being_made_waits_for_it(keys, sql, commit):
    async with keys.bind.connect() as connection:
        first = await key_of(keys.within(connection), "ada")
        others = [asyncio.create_task(key_of(keys, "ada")) for _ in range(3)]
        await eventually(lambda: sql(WAITING) == [(3,)])
        await (connection.commit() if commit else connection.rollback())
    found = set(await asyncio.gather(*others))
    assert len(found) == 1
    assert (found == {first}) is commit


async def test_writers_in_transactions_that_race_get_the_same_keys(keys):
    async def write(number):
        turned = SUBJECTS[number:] + SUBJECTS[:number]
        async with AsyncSession(keys.bind) as session, session.begin():
            made = await keys.within(session).for_subjects(turned)
            await session.execute(text("SELECT pg_sleep(0.01)"))
            return made

    first, *others = await asyncio.gather(*map(write, range(WRITERS)))
    assert all(other == first for other in others)
    assert len(await keys.find([key.key_id for key in first.values()])) == len(SUBJECTS)


async def test_writers_that_ask_in_different_orders_do_not_deadlock(keys, sql):
    async with keys.bind.connect() as connection:
        await keys.within(connection).for_subjects(["a"])
        orders = (["x", "a", "y"], ["y", "a", "x"])
        others = [asyncio.create_task(keys.for_subjects(order)) for order in orders]
        await eventually(lambda: sql(WAITING) == [(2,)])
        await connection.rollback()
    one, other = await asyncio.gather(*others)
    assert one == other


async def test_events_written_while_their_subject_is_forgotten_are_readable_or_forgotten(keys, event_store):
    sealer = Sealer(keys)
    event = Registered(customer_id="ada", name="Ada")

    async def write():
        for _ in range(10):
            envelope = EventEnvelope(ORDER, "Registered", event.model_dump(mode="json", context=SEALING))
            (sealed,) = await sealer.seal([(str(envelope.event_id), envelope.payload)])
            await event_store.append(
                ORDER, [EventEnvelope(ORDER, "Registered", sealed.payload, event_id=envelope.event_id)]
            )

    async def forget():
        for _ in range(10):
            await keys.forget("ada")
            await asyncio.sleep(0.005)

    await asyncio.gather(*(write() for _ in range(8)), forget())
    stored = [(str(each.event_id), each.payload) for each in await event_store.load(ORDER)]
    assert {each.payload["name"] for each in await sealer.unseal(stored)} <= {"Ada", "[forgotten]"}
    await keys.forget("ada")
    unsealed = await sealer.unseal(stored)
    assert len(unsealed) == 80
    assert {(each.payload["name"], each.forgotten, each.key_ids) for each in unsealed} == {
        ("[forgotten]", True, ())
    }


# Wrapping keys


async def test_rotation_wraps_every_key_anew_and_changes_none(keys, sql, monkeypatch):
    monkeypatch.setattr(key_operations, "_ROTATED_AT_ONCE", 7)
    made = await keys.for_subjects(SUBJECTS)
    before = sql("SELECT key_id, subject, created_at FROM eventstore.personal_keys ORDER BY 1")
    newer = await under(keys, BOTH).for_subjects(["newer"])
    assert await under(keys, BOTH).for_subjects(SUBJECTS) == made
    assert names_of_wrapping_keys(sql) == {"2025": 50, "2026": 1}

    assert await under(keys, BOTH).rotate() == 50
    assert names_of_wrapping_keys(sql) == {"2026": 51}
    assert sql("SELECT key_id, subject, created_at FROM eventstore.personal_keys ORDER BY 1") != before
    assert set(before) < set(sql("SELECT key_id, subject, created_at FROM eventstore.personal_keys"))
    assert await under(keys, NEW).for_subjects([*SUBJECTS, "newer"]) == {**made, **newer}
    assert await under(keys, BOTH).rotate() == await under(keys, NEW).rotate() == 0


async def test_rotation_joins_the_callers_transaction(keys, sql):
    await keys.for_subjects(SUBJECTS)
    async with AsyncSession(keys.bind) as session:
        assert await under(keys, BOTH).within(session).rotate() == 50
        await session.rollback()
    assert names_of_wrapping_keys(sql) == {"2025": 50}


async def test_rotation_runs_beside_writers_readers_and_forgetters(keys, sql, monkeypatch):
    monkeypatch.setattr(key_operations, "_ROTATED_AT_ONCE", 5)
    made = await keys.for_subjects(SUBJECTS)
    forgotten, kept = SUBJECTS[::3], [each for each in SUBJECTS if each not in SUBJECTS[::3]]
    newer = under(keys, BOTH)

    async def forget():
        for subject in forgotten:
            assert await newer.forget(subject)

    async def write(writer):
        for number in range(20):
            await newer.for_subjects([f"new-{writer}-{number}", kept[number]])

    async def read():
        for _ in range(20):
            found = await newer.find([made[subject].key_id for subject in kept])
            assert found == {made[subject].key_id: made[subject] for subject in kept}

    rotated = await asyncio.gather(*(newer.rotate() for _ in range(4)), forget(), write(1), write(2), read())
    assert len(kept) <= sum(rotated[:4]) <= len(SUBJECTS)
    assert names_of_wrapping_keys(sql) == {"2026": len(kept) + 40}
    found = await under(keys, NEW).for_subjects(kept)
    assert found == {subject: made[subject] for subject in kept}
    assert await newer.find([made[subject].key_id for subject in forgotten]) == {}


async def test_a_key_that_is_forgotten_while_it_is_rotated_stays_forgotten(keys, sql):
    made = await key_of(keys, "ada")
    async with keys.bind.connect() as connection:
        await keys.within(connection).forget("ada")
        rotating = asyncio.create_task(under(keys, BOTH).rotate())
        await eventually(lambda: sql(WAITING) == [(1,)])
        await connection.commit()
    assert await rotating == 0
    assert await keys.find([made.key_id]) == {}


async def test_a_key_under_an_unknown_wrapping_key_is_an_error_that_names_it(keys):
    made = await key_of(keys, "ada")
    ignorant = under(keys, NEW)
    for call in (ignorant.for_subjects(["ada"]), ignorant.find([made.key_id]), ignorant.rotate()):
        with pytest.raises(ConfigurationError, match=r"wrapped with '2025', which is not among \['2026'\]"):
            await call
    assert await key_of(ignorant, "bob") == await key_of(ignorant, "bob")
    assert await ignorant.forget("ada")


async def test_rotation_stops_at_what_it_cannot_read_and_goes_on_later(keys, sql, monkeypatch):
    monkeypatch.setattr(key_operations, "_ROTATED_AT_ONCE", 10)
    made = await keys.for_subjects(SUBJECTS)
    last = max(key.key_id for key in made.values())
    sql("UPDATE eventstore.personal_keys SET wrapping_key = 'lost' WHERE key_id = %s", UUID(last))
    with pytest.raises(ConfigurationError, match="'lost'"):
        await under(keys, BOTH).rotate()
    assert names_of_wrapping_keys(sql) == {"2025": 9, "2026": 40, "lost": 1}
    sql("UPDATE eventstore.personal_keys SET wrapping_key = '2025' WHERE key_id = %s", UUID(last))
    assert await under(keys, BOTH).rotate() == 10
    assert await under(keys, NEW).for_subjects(SUBJECTS) == made


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE eventstore.personal_keys AS k SET secret = o.secret FROM eventstore.personal_keys AS o"
        " WHERE o.subject <> k.subject",
        "UPDATE eventstore.personal_keys SET subject = subject || '!'",
        "UPDATE eventstore.personal_keys SET key_id = gen_random_uuid()",
        "UPDATE eventstore.personal_keys SET secret = set_byte(secret, 20, get_byte(secret, 20) # 1)",
        "UPDATE eventstore.personal_keys SET secret = ''",
    ],
)
async def test_a_row_that_was_changed_is_refused(keys, sql, change):
    await keys.for_subjects(["ada", "bob"])
    sql(change)
    rows = sql("SELECT subject, key_id::text FROM eventstore.personal_keys")
    for subject, key_id in rows:
        for call in (keys.for_subjects([subject]), keys.find([key_id]), under(keys, BOTH).rotate()):
            with pytest.raises(CorruptDataError, match="cannot be unwrapped with '2025'"):
                await call


async def test_the_wrong_bytes_under_the_right_name_are_refused(keys):
    await keys.for_subjects(["ada"])
    with pytest.raises(CorruptDataError, match="give the wrapping key the bytes that it had"):
        await under(keys, WrappingKeys({"2025": b"x" * 32}, current="2025")).for_subjects(["ada"])


@pytest.mark.parametrize("wrapping", [None, {"2025": b"o" * 32}, b"o" * 32])
def test_wrapping_keys_must_be_given(wrapping):
    with pytest.raises(ConfigurationError, match=r"wrapping must be WrappingKeys"):
        PostgresKeyStore(EventStoreConfig(dsn="postgresql://localhost/x"), wrapping=wrapping)


# In clear nowhere


async def test_neither_data_nor_keys_stand_in_clear_in_any_table_or_text(keys, sql, event_store):
    sealer = Sealer(keys)
    event = Registered(customer_id="ada", name="Ada Lovelace")
    (sealed,) = await sealer.seal([("e", event.model_dump(mode="json", context=SEALING))])
    await event_store.append(ORDER, [EventEnvelope(ORDER, "Registered", sealed.payload)], 0)
    state = await sealer.seal_state(sealed.key_ids, str(ORDER), {"name": "Ada Lovelace"})
    await PostgresSnapshotStore(bind=event_store.bind).save(ORDER, 1, state)
    key = await key_of(keys, "ada")

    tables = [name for (name,) in sql(TABLES)]
    assert {"events", "snapshots", "personal_keys"} <= set(tables)
    rows = {name: str(sql(f"SELECT t::text FROM eventstore.{name} AS t")) for name in tables}
    assert all(key.key_id in rows[name] for name in ("events", "snapshots", "personal_keys"))
    texts = [*rows.values(), *map(repr, (keys, sealer, sealed, key, OLD, vars(keys)))]
    for secret in (key.secret, OLD.keys["2025"], b"Lovelace"):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert not [each for each in texts if form in each]


async def test_no_error_shows_a_secret(keys, sql):
    key = await key_of(keys, "ada")
    with pytest.raises(CorruptDataError) as refused:
        await under(keys, WrappingKeys({"2025": b"x" * 32}, current="2025")).find([key.key_id])
    shown = f"{refused.value!r} {refused.value.__cause__!r}"
    assert not any(form in shown for form in (key.secret.hex(), repr(key.secret), "xxxx", "oooo"))


async def test_one_pool_serves_events_and_keys(event_store_dsn):
    async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
        keys = PostgresKeyStore(bind=store.bind, wrapping=OLD)
        await keys.validate()
        await keys.for_subjects(["ada"])
        await keys.close()
        assert await store.current_version(ORDER) == 0
