"""Events as CloudEvents 1.0 (https://github.com/cloudevents/spec): the default form of a message."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from k1s0_event_store.envelope import EventEnvelope, json_texts
from k1s0_event_store.events.registry import SCHEMA_VERSION
from k1s0_event_store.exceptions import ConfigurationError, shown
from k1s0_event_store.jsontext import encode
from k1s0_event_store.message import Message, check_topic
from k1s0_event_store.metadata import CAUSATION_ID, CORRELATION_ID

TOPIC: Final = "k1s0.{tier}.{domain}.{event-type}.{version}"
"""The default topic; what stands in braces is filled in."""

_PLACES: Final = ("tier", "domain", "aggregate-type", "event-type", "version")
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_NO_TOPIC_LETTER: Final = re.compile(r"[^A-Za-z0-9_-]+")
_HEADERS: Final = (CORRELATION_ID, CAUSATION_ID, "trace_id", "traceparent")

Data = Callable[[EventEnvelope], Any]


class CloudEvents:
    """As `to_message` of a relay: every event as a CloudEvent, with the stream as key.

    The event id is the id, the event type the type, the stream the subject; correlation, causation
    and trace ids are headers of their own. `topic` may use {tier}, {domain}, {aggregate-type},
    {event-type} and {version}: the event type in lower case, without the domain in front and what a
    topic cannot hold, and "v" with the payload's schema version. `data` makes the content of an
    event (default: its payload). In binary mode the attributes are headers and the body is the data;
    `structured` puts all into a JSON body. Raises ConfigurationError.
    """

    def __init__(
        self,
        source: str,
        *,
        topic: str = TOPIC,
        tier: str | None = None,
        domain: str | None = None,
        structured: bool = False,
        data: Data | None = None,
    ) -> None:
        if not isinstance(source, str) or not source:
            raise ConfigurationError("a CloudEvent needs a source: a URI that names your service")
        self._source = source
        self._topic = _checked(topic, {"tier": tier, "domain": domain})
        self._domain = f"{domain}."
        self._structured = structured
        self._data = data

    def __call__(self, event: EventEnvelope) -> Message:
        """The message of one event."""
        metadata, event_id, stream = event.metadata, str(event.event_id), str(event.stream_id)
        attributes = {
            "specversion": "1.0",
            "id": event_id,
            "source": self._source,
            "type": event.event_type,
            "subject": stream,
            "time": event.occurred_at.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "partitionkey": stream,
            "sequence": str(event.version),
        }
        headers = {name: str(metadata[name]) for name in _HEADERS if metadata.get(name) is not None}
        if "traceparent" in headers:
            attributes["traceparent"] = headers["traceparent"]
        # The payload goes out as the text that is stored: nobody has to decode it.
        data = json_texts(event)[0] if self._data is None else encode(self._data(event))
        content_type = "application/json"
        if self._structured:
            inside = ",".join(f"{encode(name)}:{encode(value)}" for name, value in attributes.items())
            data, content_type, attributes = f'{{{inside},"data":{data}}}', "application/cloudevents+json", {}
        return Message(
            self.topic_of(event), stream, data.encode(), headers, attributes, content_type, event_id
        )

    def topic_of(self, event: EventEnvelope) -> str:
        """The topic of an event; raises InvalidInputError for one that no broker takes."""
        version = event.metadata.get(SCHEMA_VERSION, 1)
        kind = event.stream_id.aggregate_type, event.event_type.removeprefix(self._domain), f"v{version}"
        return _filled(self._topic, *kind)


def _checked(topic: str, given: Mapping[str, str | None]) -> str:
    """The template with `given` filled in; raises ConfigurationError."""
    for name, text in {"topic": topic, **given}.items():
        if not isinstance(text, str) and (text is not None or name == "topic"):
            raise ConfigurationError(f"{name} must be a string, not {type(text).__name__}")
    for place in _PLACE.findall(topic):
        if place not in _PLACES:
            raise ConfigurationError(
                f"a topic has no {{{place}}}: use {', '.join(map('{{{}}}'.format, _PLACES))}"
            )
        if place in given and not given[place]:
            raise ConfigurationError(f"the topic {shown(topic)} needs {place}=...")
    filled = _PLACE.sub(lambda place: given.get(place[1]) or place[0], topic)
    try:
        check_topic(_PLACE.sub("x", filled))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return filled


@lru_cache(1_000)
def _filled(topic: str, aggregate_type: str, event_type: str, version: str) -> str:
    found = {
        "aggregate-type": _topic_part(aggregate_type),
        "event-type": _topic_part(event_type),
        "version": version,
    }
    return check_topic(_PLACE.sub(lambda place: found[place[1]], topic))


def _topic_part(name: str) -> str:
    """A type as a part of a topic: "OrderPlaced" and "order.placed" both as "order-placed"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    return _NO_TOPIC_LETTER.sub("-", words).strip("-").lower()
