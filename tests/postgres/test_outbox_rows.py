"""Rows for outbox tables of the app's own: one commit with the events, and repeated by no retry."""

import json

import pytest
from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB, UUID, insert
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    CloudEvents,
    EventEnvelope,
    Message,
    StreamId,
    debezium_row,
    message_row,
    service_row,
)

ORDER = StreamId("order", "o-1")
METADATA = MetaData()
SERVICE = Table(
    "outbox_events",
    METADATA,
    Column("id", UUID, primary_key=True),
    Column("aggregate_type", Text, nullable=False),
    Column("aggregate_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("published_at", DateTime(timezone=True)),
)
MESSAGES = Table(
    "outbox_messages",
    METADATA,
    Column("id", UUID, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("retry_count", Integer, nullable=False),
)
DEBEZIUM = Table(
    "outbox",
    METADATA,
    Column("id", UUID, primary_key=True),
    Column("aggregatetype", Text, nullable=False),
    Column("aggregateid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
)
to_message = CloudEvents("/shop", topic="orders")


@pytest.fixture
async def event(event_store):
    async with event_store.bind.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    return EventEnvelope(ORDER, "order.placed", {"total": 5}, {"correlation_id": "r-1"})


async def record(session, store, event):
    version = await store.within(session).append(ORDER, [event], 0)
    for table, row in (
        (SERVICE, service_row(event, version)),
        (MESSAGES, message_row(to_message(event))),
        (DEBEZIUM, debezium_row(event)),
    ):
        await session.execute(insert(table).on_conflict_do_nothing(), row)


async def test_events_and_rows_are_one_commit_and_a_retry_repeats_neither(event_store, event, sql):
    for _ in range(2):
        async with AsyncSession(event_store.bind) as session, session.begin():
            await record(session, event_store, event)
    assert sql(
        "SELECT id, aggregate_type, aggregate_id, event_type, payload, published_at FROM outbox_events"
    ) == [
        (
            event.event_id,
            "order",
            "o-1",
            "order.placed",
            {"version": 1, "data": {"total": 5}, "metadata": {"correlation_id": "r-1"}},
            None,
        )
    ]
    ((key, topic, payload, headers, *rest),) = sql(
        "SELECT id, topic, payload, headers, status, retry_count FROM outbox_messages"
    )
    assert (key, topic, json.loads(payload), rest) == (event.event_id, "orders", {"total": 5}, ["PENDING", 0])
    assert (headers["type"], headers["correlation_id"]) == ("order.placed", "r-1")
    assert sql("SELECT id, aggregatetype, aggregateid, type, payload FROM outbox") == [
        (event.event_id, "order", "o-1", "order.placed", {"total": 5})
    ]


async def test_a_rollback_leaves_none_of_them(event_store, event, sql):
    async with AsyncSession(event_store.bind) as session:
        await record(session, event_store, event)
        await session.rollback()
    for table in ("outbox_events", "outbox_messages", "outbox", "eventstore.events"):
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_message_with_an_id_of_its_own_has_the_same_row_id_each_time():
    message = Message("t", "k", b"", message_id="mail-7")
    assert message_row(message)["id"] == message_row(message)["id"]
