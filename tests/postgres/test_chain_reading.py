"""Looking through the chain, and signed heads of it: what the owner changes with all guards off is found."""

import asyncio
import random

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import ConfigurationError, EventStoreConfig, EventStoreError, StreamId, TransferError
from k1s0_event_store.postgres.chain import remove_chain
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.signed_heads import Head, HeadFault, check_heads, sign_head
from k1s0_event_store.signing import PrivateKey
from k1s0_event_store.testing.contract import new_events

from ..chained import add, chained_template, tamper

ONE, TWO, CART = StreamId("order", "1"), StreamId("order", "2"), StreamId("cart", "1")
PAGES = (1, 2, 3, 7, 5_000)
KEY = PrivateKey.new()
LONG = 60
"""Seconds that a busy machine may need."""


@pytest.fixture(scope="module")
def event_store_template(event_store_server, event_store_template):
    with chained_template(event_store_server, event_store_template) as name:
        yield name


@pytest.fixture
async def store(event_store):
    """Streams of 7, 3 and 2 events, side by side: at the positions 1 to 12."""
    for stream, count in ((ONE, 4), (TWO, 3), (CART, 2), (ONE, 3)):
        await event_store.append(stream, new_events(stream, count))
    return event_store


@pytest.fixture
def chain(event_store):
    return PostgresChain(event_store.config, bind=event_store.bind)


@pytest.fixture
def find(chain):
    """All broken links, looked for in pages of some size."""

    async def all_faults(*args, **options):
        return [fault async for fault in chain.faults(*args, **options)]

    return all_faults


ORDER_1 = "aggregate_type = 'order' AND aggregate_id = '1'"
OF_CART = "aggregate_type = 'cart'"
INSERT = """
    INSERT INTO events (aggregate_type, aggregate_id, version, event_id, event_type, payload, metadata,
                        occurred_at, chain)"""
GONE, CHANGED = "should stand here", "was changed"
# What is done to the tables; what is said of it, and where.
CHANGES = {
    "a payload": (
        [f"UPDATE events SET payload = '{{\"n\": 7}}' WHERE {ORDER_1} AND version = 3"],
        (CHANGED, "order", "1", 3),
    ),
    "a payload, in its spaces": (
        [f"UPDATE events SET payload = (payload::text || ' ')::json WHERE {ORDER_1} AND version = 1"],
        (CHANGED, "order", "1", 1),
    ),
    "metadata": (
        [f'UPDATE events SET metadata = \'{{"user": "eve"}}\' WHERE {OF_CART} AND version = 2'],
        (CHANGED, "cart", "1", 2),
    ),
    "an event type": (
        [f"UPDATE events SET event_type = 'Paid' WHERE {OF_CART} AND version = 1"],
        (CHANGED, "cart", "1", 1),
    ),
    "an event id": (
        [f"UPDATE events SET event_id = gen_random_uuid() WHERE {ORDER_1} AND version = 7"],
        (CHANGED, "order", "1", 7),
    ),
    "when it happened": (
        [
            "UPDATE events SET occurred_at = occurred_at + interval '1 microsecond'"
            f" WHERE {ORDER_1} AND version = 5"
        ],
        (CHANGED, "order", "1", 5),
    ),
    "when it happened, to never": (
        [f"UPDATE events SET occurred_at = 'infinity' WHERE {ORDER_1} AND version = 5"],
        (CHANGED, "order", "1", 5),
    ),
    "when it was stored": (
        [f"UPDATE events SET recorded_at = '2020-01-01' WHERE {ORDER_1} AND version = 6"],
        (CHANGED, "order", "1", 6),
    ),
    "one removed in the middle": (
        [f"DELETE FROM events WHERE {ORDER_1} AND version = 4"],
        ("version 4 should stand here", "order", "1", 5),
    ),
    "one removed, and the versions closed up": (
        [
            f"DELETE FROM events WHERE {ORDER_1} AND version = 4",
            *(f"UPDATE events SET version = {n - 1} WHERE {ORDER_1} AND version = {n}" for n in (5, 6, 7)),
            f"UPDATE streams SET version = 6 WHERE {ORDER_1}",
        ],
        (CHANGED, "order", "1", 4),
    ),
    "the first one removed": (
        [f"DELETE FROM events WHERE {ORDER_1} AND version = 1"],
        ("version 1 should stand here", "order", "1", 2),
    ),
    "two swapped": (
        [
            f"UPDATE events SET version = 99 WHERE {ORDER_1} AND version = 2",
            f"UPDATE events SET version = 2 WHERE {ORDER_1} AND version = 5",
            f"UPDATE events SET version = 5 WHERE {ORDER_1} AND version = 99",
        ],
        (CHANGED, "order", "1", 2),
    ),
    "the payloads of two swapped": (
        [
            "UPDATE events AS e SET payload = o.payload FROM events AS o"
            " WHERE (e.aggregate_type, e.aggregate_id) = ('order', '1')"
            " AND (o.aggregate_type, o.aggregate_id) = ('order', '1')"
            " AND e.version IN (2, 3) AND o.version = 5 - e.version"
        ],
        (CHANGED, "order", "1", 2),
    ),
    "one inserted": (
        [
            *(f"UPDATE events SET version = {n + 1} WHERE {ORDER_1} AND version = {n}" for n in (7, 6, 5)),
            f"{INSERT} SELECT aggregate_type, aggregate_id, 5, gen_random_uuid(), event_type, payload,"
            f" metadata, occurred_at, chain FROM events WHERE {ORDER_1} AND version = 4",
        ],
        (CHANGED, "order", "1", 5),
    ),
    "one moved to another stream": (
        ["UPDATE events SET aggregate_id = '1', version = 8 WHERE aggregate_id = '2' AND version = 3"],
        (CHANGED, "order", "1", 8),
    ),
    "a stream renamed": (
        ["UPDATE events SET aggregate_id = '3' WHERE aggregate_id = '2'"],
        (CHANGED, "order", "3", 1),
    ),
    "a link": (
        [f"UPDATE events SET chain = sha256('x') WHERE {ORDER_1} AND version = 3"],
        (CHANGED, "order", "1", 3),
    ),
    "a link, to nothing": (
        [
            "ALTER TABLE events ALTER chain DROP NOT NULL",
            f"UPDATE events SET chain = NULL WHERE {ORDER_1} AND version = 7",
        ],
        (CHANGED, "order", "1", 7),
    ),
    "the function of the trigger": (
        [
            "CREATE OR REPLACE FUNCTION events_chain() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN NEW.chain := sha256(''x''); RETURN NEW; END'",
            "ALTER TABLE events ENABLE TRIGGER trigger_events_chain",
            f"{INSERT} VALUES ('cart', '1', 3, gen_random_uuid(), 'Placed', '{{}}', '{{}}', now(), NULL)",
        ],
        (CHANGED, "cart", "1", 3),
    ),
    "a version stands twice": (
        [
            "ALTER TABLE events DROP CONSTRAINT uq_events_version",
            f"{INSERT} SELECT aggregate_type, aggregate_id, version, gen_random_uuid(), event_type, payload,"
            f" metadata, occurred_at, chain FROM events WHERE {OF_CART} AND version = 2",
        ],
        ("chain is broken", "cart", "1", 2),
    ),
}


@pytest.mark.parametrize("page", PAGES)
async def test_an_unbroken_chain_has_no_faults(store, find, page):
    assert await find(page=page) == []


async def test_a_chain_without_events_has_no_faults(find):
    assert await find() == []


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_changed_is_found_where_its_stream_first_breaks(store, find, event_store_dsn, change):
    done, (problem, *where) = CHANGES[change]
    tamper(event_store_dsn, *done)
    for page in PAGES:
        (found,) = await find(page=page)
        assert problem in found.problem
        assert [found.aggregate_type, found.aggregate_id, found.version] == where
        assert len(found.advice) > 20


async def test_every_broken_stream_is_found_once(store, find, event_store_dsn):
    tamper(event_store_dsn, "UPDATE events SET payload = '1' WHERE version >= 2")
    for page in PAGES:
        found = await find(page=page)
        assert [(f.aggregate_type, f.aggregate_id, f.version) for f in found] == [
            ("cart", "1", 2), ("order", "1", 2), ("order", "2", 2)
        ]  # fmt: skip
        assert [fault.aggregate_id for fault in await find("order", page=page)] == ["1", "2"]
        assert await find("carton", page=page) == []


async def test_it_tells_how_much_it_has_looked_at(store, find):
    told = []
    await find(page=5, watch=told.append)
    assert [(looked.check, looked.rows) for looked in told] == [("links", 5), ("links", 10), ("links", 12)]


async def test_running_writers_break_no_chain(store, find, sql):
    done = asyncio.Event()

    async def write(writer):
        for number in range(150):
            if done.is_set():
                return
            stream = StreamId("order", f"{writer}-{number // 5}")
            await store.append(stream, new_events(stream, 1 + number % 3))

    writers = [asyncio.create_task(write(writer)) for writer in range(4)]
    for page in (20, 50, 5_000, 10, 5):
        assert await find(page=page) == []
    done.set()
    await asyncio.gather(*writers)
    assert await find() == []


async def test_without_a_chain_it_says_what_adds_one(event_store_config, find):
    await in_transaction(event_store_config, remove_chain)
    with pytest.raises(ConfigurationError, match="are not chained: k1s0-event-store chain add"):
        await find()


class TestSignedHeads:
    """As the store was signed: after 4 events, after 9, with nothing new, and after 12."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "heads.jsonl"

    @pytest.fixture
    async def signed(self, event_store, chain, path):
        for stream, count in ((ONE, 4), (TWO, 3), (None, 0), (ONE, 3)):
            if stream is not None:
                await event_store.append(stream, new_events(stream, count))
            if stream == TWO:
                await event_store.append(CART, new_events(CART, 2))
            await sign_head(path, KEY, chain, LONG)
        return event_store

    @pytest.fixture
    def check(self, chain, path):
        async def check():
            with path.open("rb") as file:
                found = [each async for each in check_heads(file, KEY.public, chain)]
            return [(each.line, each.problem) for each in found if isinstance(each, HeadFault)]

        return check

    async def test_what_was_signed_is_there(self, signed, chain, path, check, find):
        assert await check() == []
        assert await find() == []
        heads = [Head.model_validate_json(line) for line in path.read_bytes().splitlines()]
        assert [(head.after, head.to, head.events) for head in heads] == [
            (0, 4, 4), (4, 9, 5), (9, 9, 0), (9, 12, 3)
        ]  # fmt: skip
        await signed.append(CART, new_events(CART, 5))
        assert await check() == []
        for page in (1, 2, 3, 20_000):
            assert (await chain.stretch(4, 9, page=page)).digest == heads[1].digest

    CHANGES = {  # noqa: RUF012 - what is done, which lines find it
        "a stream is cut off, its head as well": (
            [
                f"DELETE FROM events WHERE {ORDER_1} AND version > 4",
                f"UPDATE streams SET version = 4 WHERE {ORDER_1}",
            ],
            [4],
        ),
        "a stream is gone": (
            [f"DELETE FROM events WHERE {OF_CART}", f"DELETE FROM streams WHERE {OF_CART}"],
            [2],
        ),
        "all is gone": (["DELETE FROM events", "DELETE FROM streams"], [1, 2, 4]),
        "the positions of two streams are swapped": (
            [
                "ALTER TABLE events ALTER position SET GENERATED BY DEFAULT",
                f"UPDATE events SET position = 100 WHERE {OF_CART} AND version = 1",
                f"UPDATE events SET position = 8 WHERE {ORDER_1} AND version = 7",
                f"UPDATE events SET position = 12 WHERE {OF_CART} AND version = 1",
            ],
            [2, 4],
        ),
        "the positions inside a stretch are swapped": (
            [
                "ALTER TABLE events ALTER position SET GENERATED BY DEFAULT",
                "UPDATE events SET position = 17 - position WHERE position IN (7, 8, 9, 10)",
            ],
            [2, 4],
        ),
        "an event is added below what was signed": (
            [
                "ALTER TABLE events ALTER position SET GENERATED BY DEFAULT",
                "ALTER TABLE events ENABLE TRIGGER trigger_events_chain",
                f"{INSERT} VALUES ('cart', '2', 1, gen_random_uuid(), 'Paid', '{{}}', '{{}}', now(), NULL)",
                "UPDATE events SET position = -5 WHERE aggregate_id = '2' AND aggregate_type = 'cart'",
                "INSERT INTO streams (aggregate_type, aggregate_id, version) VALUES ('cart', '2', 1)",
            ],
            [1],
        ),
    }

    @pytest.mark.parametrize("change", CHANGES)
    async def test_what_breaks_no_link_is_found_by_the_heads(
        self, signed, event_store_dsn, check, find, change
    ):
        done, lines = self.CHANGES[change]
        tamper(event_store_dsn, *done)
        assert await find() == []
        assert [line for line, _ in await check()] == lines

    async def test_a_chain_that_the_owner_has_made_anew_is_found_by_the_heads(
        self, signed, event_store_config, event_store_dsn, check, find
    ):
        await in_transaction(event_store_config, remove_chain)
        tamper(event_store_dsn, f"UPDATE events SET payload = '{{}}' WHERE {ORDER_1} AND version = 5")
        assert add(event_store_dsn) == 12
        assert await find() == []
        assert [line for line, _ in await check()] == [4]

    async def test_the_same_chain_made_anew_fits_the_heads(
        self, signed, event_store_config, event_store_dsn, check
    ):
        await in_transaction(event_store_config, remove_chain)
        add(event_store_dsn)
        assert await check() == []

    async def test_after_a_restore_of_an_older_backup_nothing_is_signed(
        self, signed, event_store_dsn, chain, path
    ):
        tamper(event_store_dsn, f"DELETE FROM events WHERE {ORDER_1} AND version > 4")
        with pytest.raises(TransferError, match="up to position 12, but there are none beyond 9"):
            await sign_head(path, KEY, chain, LONG)


async def test_an_empty_store_is_signed(chain, tmp_path):
    head = await sign_head(tmp_path / "heads", KEY, chain, LONG)
    assert (head.after, head.to, head.events) == (0, 0, 0)


async def begun(store, stream, session):
    """The position that an append in an open transaction has drawn."""
    await store.within(session).append(stream, new_events(stream, 1))
    (event,) = await store.within(session).load(stream)
    return event.position


async def test_a_position_below_that_is_not_committed_yet_is_waited_for(store, chain, tmp_path):
    async with AsyncSession(store.bind) as slow:
        position = await begun(store, StreamId("order", "slow"), slow)
        await store.append(CART, new_events(CART, 1))
        with pytest.raises(EventStoreError, match=r"open 0.3 s ago is still open, .* nothing was signed"):
            await sign_head(tmp_path / "heads", KEY, chain, wait=0.3)
        assert (tmp_path / "heads").read_bytes() == b""
        signing = asyncio.create_task(sign_head(tmp_path / "heads", KEY, chain, LONG))
        await asyncio.sleep(0.2)
        assert not signing.done()
        await slow.commit()
    head = await signing
    assert (head.to, head.events) == (position + 1, 14)


async def test_of_those_still_open_also_the_youngest_is_waited_for(store, chain):
    """It has drawn the lower position, and a higher transaction id than any that is over."""
    async with AsyncSession(store.bind) as first, AsyncSession(store.bind) as second:
        await (await first.connection()).exec_driver_sql("SELECT pg_current_xact_id()")
        lower = await begun(store, StreamId("order", "second"), second)
        higher = await begun(store, StreamId("order", "first"), first)
        assert lower < higher
        await first.commit()
        with pytest.raises(EventStoreError, match=f"below position {higher}"):
            await chain.settled(0.3)
        await second.commit()
    assert await chain.settled(LONG) == higher


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_event_ever_comes_at_or_below_a_settled_position(event_store, chain, sql, seed):
    """Whoever races: slow transactions, rollbacks, savepoints, transactions without events."""
    dice, done, seen = random.Random(seed), asyncio.Event(), []

    async def write(writer, dice):
        for number in range(25):
            stream = StreamId("order", f"{writer}-{number % 3}")
            async with AsyncSession(event_store.bind) as session:
                if dice.random() < 0.3:
                    await (await session.connection()).exec_driver_sql("SELECT pg_current_xact_id()")
                joined = event_store.within(session)
                await joined.append(stream, new_events(stream, dice.randint(1, 4)))
                await asyncio.sleep(dice.random() * 0.02)
                async with session.begin_nested() as savepoint:
                    await joined.append(stream, new_events(stream, dice.randint(1, 150)))
                    if dice.random() < 0.3:
                        await savepoint.rollback()
                await asyncio.sleep(dice.random() * 0.02)
                await (session.rollback if dice.random() < 0.2 else session.commit)()

    async def settle():
        while not done.is_set():
            to = await chain.settled(LONG)
            seen.append((to, await chain.stretch(None, to)))

    settling = asyncio.create_task(settle())
    await asyncio.gather(*(write(writer, random.Random(dice.random())) for writer in range(5)))
    done.set()
    await settling
    assert len(seen) > 2, f"seed {seed}"
    for to, stretch in seen:
        assert await chain.stretch(None, to) == stretch, f"seed {seed}, position {to}"


async def test_on_a_standby_nothing_is_signed(chain, monkeypatch):
    """As if it were one: no id of a transaction is drawn there."""
    monkeypatch.setattr(chain, "_runner", Standby(chain._runner))
    with pytest.raises(EventStoreError, match="sign on the primary"):
        await chain.settled(1)


class Standby:
    """Answers as a standby does."""

    def __init__(self, runner):
        self._runner = runner

    async def fetch(self, query):
        rows = await self._runner.fetch(query)
        return [(rows[0][0], None)] if "pg_is_in_recovery" in query.statement.dollar else rows


async def test_a_role_that_only_reads_looks_and_signs(store, chain, sql, event_store_dsn, tmp_path):
    async with PostgresChain(EventStoreConfig(dsn=event_store_dsn)) as own, own.bind.connect() as connection:
        sql("GRANT USAGE ON SCHEMA eventstore TO pg_read_all_settings")
        sql("GRANT SELECT ON eventstore.events TO pg_read_all_settings")
        await connection.exec_driver_sql("SET ROLE pg_read_all_settings")
        joined = own.within(connection)
        assert [fault async for fault in joined.faults()] == []
        assert (await sign_head(tmp_path / "heads", KEY, joined, LONG)).events == 12
        with pytest.raises(psycopg.errors.RestrictViolation):
            sql("UPDATE eventstore.events SET chain = ''")
