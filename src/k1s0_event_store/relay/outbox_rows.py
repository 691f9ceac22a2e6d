"""Rows for outbox tables of the app's own, in the layouts that are in common use.

Insert them in the session that `within(session)` appends in, with ON CONFLICT DO NOTHING: their ids are
those of the events, so that an append that is repeated repeats no row.
"""

from __future__ import annotations

from typing import Any

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.message import Message, uuid_of


def service_row(event: EventEnvelope, version: int) -> dict[str, Any]:
    """id, aggregate_type, aggregate_id, event_type, payload (JSON); the table's created_at has a default.

    The payload holds `version`, the event's place in its stream: consumers put events in order by it.
    """
    return {
        "id": event.event_id,
        "aggregate_type": event.stream_id.aggregate_type,
        "aggregate_id": event.stream_id.aggregate_id,
        "event_type": event.event_type,
        "payload": {"version": version, "data": event.payload, "metadata": dict(event.metadata)},
    }


def message_row(message: Message) -> dict[str, Any]:
    """id, topic, payload (bytes), headers, status "PENDING", retry_count 0."""
    return {
        "id": uuid_of(message.message_id),
        "topic": message.topic,
        "payload": message.body,
        "headers": {**message.attributes, **message.headers},
        "status": "PENDING",
        "retry_count": 0,
    }


def debezium_row(event: EventEnvelope) -> dict[str, Any]:
    """For Debezium's outbox event router: id, aggregatetype, aggregateid, type, payload."""
    return {
        "id": event.event_id,
        "aggregatetype": event.stream_id.aggregate_type,
        "aggregateid": event.stream_id.aggregate_id,
        "type": event.event_type,
        "payload": event.payload,
    }
