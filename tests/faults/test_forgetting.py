"""A person is forgotten: what nobody can read any more, where, and what is left to do.

A sentinel goes through everything that the library keeps, shows and hands on; then it is searched for.
"""

import asyncio
import base64
import io
import json
from dataclasses import dataclass, field
from functools import partial

import pytest
from sqlalchemy import text

from k1s0_event_store import (
    ConfigurationError,
    EventStoreConfig,
    Message,
    Projection,
    StreamId,
    SubscriptionRunner,
)
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.rebase import rebase
from k1s0_event_store.transfer import Selection, import_events

from .forgetting import (
    ANN,
    BOTH,
    CORE,
    FORGOTTEN,
    NAMES,
    NEW,
    OLD,
    STAY,
    GuestForgotten,
    Told,
    execute,
    has_replayed,
    hotel,
    listening,
    names,
    note,
    pages_of,
    prepared_server,
    standby_of,
    tables_with_traces,
    traces_in,
)
from .interruption import SECONDS, until
from .servers import Server, own_server

KEYS = "--table=eventstore.personal_keys"

another_cluster = partial(own_server, fsync="off")
"""An empty one, to restore a dump in."""


@dataclass
class Past:
    """Servers on which Ann was a guest and is forgotten, and what was told meanwhile."""

    primary: Server
    standby: Server
    before: bytes
    """A dump of when nobody was forgotten."""
    told: Told = field(default_factory=Told)
    clear_before: set[str] = field(default_factory=set)
    exported_before: bytes = b""
    messages: bytes = b""


async def live(past):
    """Ann comes, is seen by everything, and is forgotten."""
    with listening(past.told):
        async with hotel(past.primary.dsn, telemetry=past.told.telemetry()) as place:
            await place.check_in()
            await place.run()
            await place.receive()
            assert await place.read() == await place.read_feed() == NAMES
            past.messages = b"".join(message.body for message in place.broker.messages)
            past.exported_before = await place.export()
            past.clear_before = tables_with_traces(past.primary.dsn)
            past.before = past.primary.dump()
            async with place.bind.begin() as connection:
                await place.keys.within(connection).forget("g-ann")
                await connection.execute(text("DELETE FROM guests WHERE id = 'g-ann'"))
            assert await place.read() == await place.read_feed() == FORGOTTEN
            await place.run()


@pytest.fixture(scope="module")
def past():
    with prepared_server(fsync="off") as primary, standby_of(primary) as standby:
        past = Past(primary, standby, b"")
        asyncio.run(live(past))
        asyncio.run(until(lambda: has_replayed(primary, standby), "the standby is behind"))
        yield past


@pytest.fixture(scope="module")
def restored(past):
    """A cluster with a dump that was made after the forgetting."""
    with another_cluster() as server:
        server.restore(past.primary.dump())
        asyncio.run(in_transaction(EventStoreConfig(dsn=server.dsn), rebase))
        yield server


# Where it is, and where it is not


def test_the_search_finds_every_form_that_a_text_is_written_in():
    body = json.dumps({"name": ANN}).encode()
    for begin in range(3):
        assert traces_in(base64.b64encode(b"x" * begin + body))
    assert traces_in(json.dumps({"name": ANN}, ensure_ascii=False).encode()) == {"text"}
    assert traces_in(ANN.encode().hex().encode()) == {"hex"}
    assert traces_in(ANN.encode("utf-16-le")) == {"utf-16"}
    assert traces_in(b"Unmistakable") == set()


def test_before_the_forgetting_only_the_apps_own_table_holds_personal_data_in_the_clear(past):
    assert past.clear_before == {"public.guests"}


def test_after_the_forgetting_no_table_holds_it(past):
    assert tables_with_traces(past.primary.dsn) == set()


def test_a_dump_made_after_the_forgetting_does_not_hold_it(past):
    plain, custom = past.primary.dump(), past.primary.dump("--format=custom")
    assert traces_in(plain) == traces_in(custom) == traces_in(past.primary.unpack(custom)) == set()
    assert b"g-bob" in plain
    assert traces_in(past.before) == {"text"}, "the read model was not searched"


def test_a_standby_does_not_hold_it(past):
    assert tables_with_traces(past.standby.dsn) == set()


async def test_another_cluster_with_the_dump_does_not_hold_it_after_a_rebuild_either(restored):
    async with hotel(restored.dsn) as place:
        await place.storage.reset("guests")
        await place.run()
    assert execute(restored.dsn, "SELECT id, name FROM guests ORDER BY id") == list(FORGOTTEN.items())
    assert tables_with_traces(restored.dsn) == set()


async def test_exports_hold_what_is_encrypted_alone_also_those_made_before(past):
    async with hotel(past.primary.dsn) as place:
        after = await place.export()
    assert traces_in(past.exported_before) == traces_in(after) == set()
    assert b"g-ann" in after


def test_messages_hold_what_is_encrypted_alone(past):
    assert b"g-ann" in past.messages
    assert traces_in(past.messages) == set()


async def test_the_stream_browser_shows_nothing_of_it(past):
    shown = await pages_of(past.primary.dsn)
    assert b"g-ann" in shown
    assert b"ValueError" in shown
    assert traces_in(shown) == set()


def test_telemetry_tells_nothing_of_it(past):
    assert b"stay" in past.told.telemetry_text
    assert traces_in(past.told.telemetry_text) == set()


def test_the_log_holds_what_handlers_said_in_their_errors_and_nothing_else_of_it(past):
    said = past.told.logs.getvalue()
    assert said.count(CORE) == said.count(f'ValueError: no address of Änn "{CORE}"') == 1


@pytest.mark.parametrize("where", ["primary", "standby", "restored"])
async def test_everybody_who_reads_gets_the_value_for_forgotten(past, restored, where):
    servers = {"primary": past.primary, "standby": past.standby, "restored": restored}
    async with hotel(servers[where].dsn) as place:
        assert await place.read() == await place.read_feed() == FORGOTTEN


async def test_a_message_that_was_enqueued_stays_as_it_is(event_store, event_store_dsn):
    """It is an event that nobody can delete: send ids, or let the relay make messages of events."""
    await event_store.enqueue(Message("mails", "g-ann", ANN.encode()))
    assert tables_with_traces(event_store_dsn) == {"eventstore.events"}


# Copies that were made before


async def test_a_dump_made_before_is_read_only_with_the_wrapping_key_of_its_time(past):
    with another_cluster() as server:
        server.restore(past.before)
        async with hotel(server.dsn, OLD) as place:
            assert await place.read() == NAMES
        async with hotel(server.dsn, NEW) as place:
            with pytest.raises(ConfigurationError, match="2025"):
                await place.read()
        assert traces_in(server.dump("--schema=eventstore")) == set()


async def test_after_rotate_an_old_dump_needs_the_keys_of_today_and_then_has_forgotten(past):
    """The old wrapping key is destroyed; the keys come from a newer dump of their table."""
    with another_cluster() as today, another_cluster() as old:
        today.restore(past.primary.dump())
        async with hotel(today.dsn, BOTH) as place:
            assert await place.keys.rotate() == 1
        async with hotel(today.dsn, NEW) as place:
            assert await place.read() == FORGOTTEN
        old.restore(past.before)
        execute(old.dsn, "TRUNCATE eventstore.personal_keys")
        old.restore(today.dump("--data-only", KEYS))
        async with hotel(old.dsn, NEW) as place:
            assert await place.read() == FORGOTTEN


async def test_a_base_backup_made_before_is_read_only_with_the_wrapping_key_of_its_time():
    with prepared_server(fsync="off") as server:
        async with hotel(server.dsn) as place:
            await place.check_in()
            backup = server.copy(server.folder.parent / "backup")
            await place.keys.forget("g-ann")
        server.stop()
        try:
            backup.start()
            backup.promote()
            async with hotel(backup.dsn, NEW) as place:
                with pytest.raises(ConfigurationError, match="2025"):
                    await place.read()
            async with hotel(backup.dsn, OLD) as place:
                assert await place.read() == NAMES
                await place.keys.forget("g-ann")
                assert await place.read() == FORGOTTEN
        finally:
            backup.stop()


async def test_forgettings_that_an_old_dump_does_not_know_are_repeated_and_no_others():
    with prepared_server(fsync="off") as server, another_cluster() as old:
        async with hotel(server.dsn) as place:
            await place.check_in(NAMES | {"g-cat": "Cat"})
            await place.tell_forgotten("g-cat")
            await place.check_in({"g-cat": "Cat again"})
            dump = server.dump()
            await place.tell_forgotten("g-ann")
            assert await place.read() == FORGOTTEN | {"g-cat": "Cat again"}
            kept = await place.export(Selection(("forgotten",)))
            assert traces_in(kept) == set()
        old.restore(dump)
        await in_transaction(EventStoreConfig(dsn=old.dsn), rebase)
        async with hotel(old.dsn) as place:
            assert await place.read() == NAMES | {"g-cat": "Cat again"}
            assert (await import_events(place.store, io.BytesIO(kept))).appended == 1
            await place.forget_who_was_told()
            assert await place.read() == FORGOTTEN | {"g-cat": "Cat again"}


def test_a_dump_without_the_keys_has_none(past):
    dump = past.primary.dump(KEYS.replace("--table", "--exclude-table-data"))
    assert b"personal_keys" in dump
    (secret,) = execute(past.primary.dsn, "SELECT encode(secret, 'hex') FROM eventstore.personal_keys")[0]
    assert secret.encode() in past.primary.dump()
    assert secret.encode() not in dump


# Who still reads


async def test_no_process_remembers_a_key():
    with prepared_server(fsync="off") as server:
        async with hotel(server.dsn) as one, hotel(server.dsn) as other:
            await one.check_in()
            assert await other.read() == NAMES
            await one.keys.forget("g-ann")
            assert await other.read() == FORGOTTEN


async def test_a_cached_aggregate_holds_it_until_it_is_loaded_again():
    with prepared_server(fsync="off") as server:
        async with hotel(server.dsn) as place:
            await place.check_in()
            assert CORE.encode() in cached(place)
            await place.keys.forget("g-ann")
            assert CORE.encode() in cached(place)
            await place.stays.load("s-1")
            assert CORE.encode() not in cached(place)


def cached(place):
    return b"".join(entry.state for entry in place.cache._entries.values())


async def test_a_transaction_with_a_snapshot_from_before_reads_it_until_it_ends():
    with prepared_server(fsync="off") as server:
        async with hotel(server.dsn) as place:
            await place.check_in()
            async with place.bind.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ")
                typed = place.typed.within(connection)
                assert names(await typed.load(STAY)) == NAMES
                await place.keys.forget("g-ann")
                assert names(await typed.load(STAY)) == NAMES
                await connection.rollback()
                assert names(await typed.load(STAY)) == FORGOTTEN


async def test_a_standby_that_lags_reads_it_until_it_has_replayed_the_forgetting():
    with prepared_server(fsync="off") as server, standby_of(server) as standby:
        async with hotel(server.dsn) as place, hotel(standby.dsn) as copy:
            await place.check_in()
            await until(lambda: has_replayed(server, standby), "the standby is behind")
            execute(standby.dsn, "SELECT pg_wal_replay_pause()")
            await until(lambda: is_paused(standby), "the standby goes on")
            await place.keys.forget("g-ann")
            assert await copy.read() == NAMES
            execute(standby.dsn, "SELECT pg_wal_replay_resume()")
            await until(lambda: has_replayed(server, standby), "the standby is behind")
            assert await copy.read() == FORGOTTEN


def is_paused(standby):
    return execute(standby.dsn, "SELECT pg_get_wal_replay_pause_state()") == [("paused",)]


@pytest.mark.parametrize("told", [False, True])
async def test_a_read_model_that_was_handling_an_event_is_clean_when_it_has_handled_the_forgetting(told):
    """What it had read already it writes after the forgetting, and after a DELETE beside it."""
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event, session):
        if isinstance(event.payload, GuestForgotten):
            await session.execute(text("DELETE FROM guests WHERE id = :id"), {"id": event.payload.guest_id})
        else:
            reading.set()
            await go_on.wait()
            await note(event, session)

    with prepared_server(fsync="off") as server:
        async with hotel(server.dsn) as place:
            await place.check_in({"g-ann": ANN})
            runner = SubscriptionRunner(
                place.store, place.storage, [Projection("guests", place.typed.handler(handle))]
            )
            running = asyncio.create_task(runner.run())
            await asyncio.wait_for(reading.wait(), SECONDS)
            await forget_and_delete(place, told)
            assert tables_with_traces(server.dsn) == set()
            go_on.set()
            await until(lambda: has_caught_up(place), "the read model does not come so far")
            runner.stop()
            await running
        assert tables_with_traces(server.dsn) == (set() if told else {"public.guests"})


async def forget_and_delete(place, told):
    async with place.bind.begin() as connection:
        await place.keys.within(connection).forget("g-ann")
        await connection.execute(text("DELETE FROM guests WHERE id = 'g-ann'"))
        if told:
            stream_id = StreamId("forgotten", "g-ann")
            await place.typed.within(connection).append(stream_id, [GuestForgotten(guest_id="g-ann")])


async def has_caught_up(place):
    (status,) = await place.storage.statuses()
    return status.caught_up
