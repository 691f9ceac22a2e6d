"""Inboxes without a database: what they refuse, and the one in memory between threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from k1s0_event_store import ConfigurationError, InvalidInputError
from k1s0_event_store.memory import InMemoryInbox
from k1s0_event_store.postgres.inbox import PostgresInbox
from k1s0_event_store.testing.inbox_contract import NEVER

THREADS = 16
ASYNC_ENGINE = create_async_engine("postgresql+asyncpg://localhost/nowhere")
NOT_SESSIONS = [
    None,
    object(),
    ASYNC_ENGINE,
    async_sessionmaker(ASYNC_ENGINE),
    Session(create_engine("postgresql+psycopg://localhost/nowhere")),
]


async def enter(inbox, session, message_id):
    async with inbox.once(session, message_id):
        raise AssertionError("it got in")


@pytest.mark.parametrize("session", NOT_SESSIONS, ids=lambda session: type(session).__name__)
async def test_what_is_no_async_session_or_connection_is_refused_by_its_name(session):
    inbox = PostgresInbox("billing")
    for call in (enter(inbox, session, "m-1"), inbox.forget(session, NEVER)):
        with pytest.raises(ConfigurationError, match=f"AsyncConnection, not {type(session).__name__}: give"):
            await call


@pytest.mark.parametrize("kind", [InMemoryInbox, PostgresInbox])
@pytest.mark.parametrize("wrong", ["", "x" * 256, None, 5])
def test_a_consumer_needs_a_name(kind, wrong):
    with pytest.raises(InvalidInputError, match="the name of a consumer must"):
        kind(wrong)


@pytest.mark.parametrize("kind", [InMemoryInbox, PostgresInbox])
@pytest.mark.parametrize("wrong", ["", "x" * 256, None, 5])
async def test_a_message_needs_an_id_before_anything_is_asked(kind, wrong):
    with pytest.raises(InvalidInputError, match="a message's id must"):
        await enter(kind("billing"), object(), wrong)


def test_the_one_in_memory_can_be_shared_between_threads():
    inbox = InMemoryInbox("billing")
    handled = []

    async def consume(number):
        for name in range(50):
            async with inbox.once(None, f"m-{name}") as is_new:
                await asyncio.sleep(0)
                if is_new:
                    handled.append(name)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: asyncio.run(consume(number)), range(THREADS)))
    assert sorted(handled) == list(range(50))
