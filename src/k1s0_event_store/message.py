"""Messages for a broker: what is published, under which topic, in which order."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from k1s0_event_store.envelope import EventEnvelope, StreamId, check_name, new_event_id
from k1s0_event_store.exceptions import CorruptDataError, InvalidInputError, shown

OUTBOX: Final = "$outbox"
"""The aggregate type of messages that are no events."""
ENQUEUED: Final = "$message"
"""Their event type."""

_TOPIC: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", re.ASCII)
_LONGEST_KEY: Final = 600
_TEXT: Final = frozenset({str})


def check_topic(topic: object) -> str:
    """Return `topic` if every broker takes it, else raise InvalidInputError."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        raise InvalidInputError(
            "a topic is 1 to 249 ASCII letters, digits, '.', '_' and '-', and begins with a letter or digit: "
            f"{shown(topic)}"
        )
    return topic


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Those with the same `key` are published, and kept, in order.

    `headers` go out as they are, `attributes` (of a CloudEvent) under the names of the protocol's
    binding. `message_id` is what consumers tell a repetition by. Raises InvalidInputError.
    """

    topic: str
    key: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    message_id: str = field(default_factory=lambda: str(new_event_id()))

    def __post_init__(self) -> None:
        check_topic(self.topic)
        if not isinstance(self.key, str) or not 0 < len(self.key) <= _LONGEST_KEY:
            raise InvalidInputError(
                f"a message's key must be 1 to {_LONGEST_KEY} characters, not {shown(self.key)}"
            )
        check_name(self.message_id, "a message's id")
        check_name(self.content_type, "a message's content type")
        if not isinstance(self.body, bytes):
            raise InvalidInputError(f"a message's body must be bytes, not {type(self.body).__name__}")
        _check_pairs(self.headers, "headers")
        _check_pairs(self.attributes, "attributes")


def _check_pairs(pairs: object, what: str) -> None:
    if type(pairs) is dict and {*map(type, pairs), *map(type, pairs.values())} <= _TEXT and "" not in pairs:
        return  # what the loop would find, in a third of the time
    if not isinstance(pairs, Mapping) or not all(
        isinstance(name, str) and name and isinstance(value, str) for name, value in pairs.items()
    ):
        raise InvalidInputError(f"{what} must be a mapping of names to strings, not {shown(pairs)}")


def as_event(message: Message) -> EventEnvelope:
    """The event that keeps a message until the relay publishes it; repeated it has the same id.

    Raises InvalidInputError for a key of more than 255 characters.
    """
    payload = {
        "topic": message.topic,
        "body": b64encode(message.body).decode(),
        "headers": dict(message.headers),
        "attributes": dict(message.attributes),
        "content_type": message.content_type,
        "message_id": message.message_id,
    }
    return EventEnvelope(
        StreamId(OUTBOX, message.key), ENQUEUED, payload, event_id=uuid_of(message.message_id)
    )


def events_by_key(messages: Sequence[Message]) -> dict[StreamId, list[EventEnvelope]]:
    """What keeps messages, by stream; in one order for all, so that writers do not wait in a circle."""
    found: dict[StreamId, list[EventEnvelope]] = {}
    for message in messages:
        event = as_event(message)
        found.setdefault(event.stream_id, []).append(event)
    return dict(sorted(found.items(), key=lambda pair: pair[0].aggregate_id))


def is_enqueued(event: EventEnvelope) -> bool:
    """True for an event that keeps a message."""
    return event.stream_id.aggregate_type == OUTBOX and event.event_type == ENQUEUED


def from_event(event: EventEnvelope) -> Message:
    """The message that an event keeps; raises CorruptDataError."""
    content: dict[str, Any] = event.payload
    try:
        return Message(
            content["topic"],
            event.stream_id.aggregate_id,
            b64decode(content["body"], validate=True),
            content["headers"],
            content["attributes"],
            content["content_type"],
            content["message_id"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"version {event.version} of {event.stream_id} is no message") from error


def uuid_of(message_id: str) -> UUID:
    """A message's id as a UUID: itself, or one that is made of it."""
    try:
        return UUID(message_id)
    except ValueError:
        return uuid5(NAMESPACE_URL, message_id)
