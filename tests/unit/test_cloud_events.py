"""CloudEvents: what of an event goes where."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from k1s0_event_store import CloudEvents, ConfigurationError, EventEnvelope, InvalidInputError, StreamId
from k1s0_event_store.envelope import undecoded_envelope

EVENT_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def event(event_type="order.placed", metadata=None, aggregate_id="o-1"):
    return EventEnvelope(
        StreamId("order", aggregate_id),
        event_type,
        {"total": 5},
        metadata,
        EVENT_ID,
        datetime(2026, 11, 23, 12, 30, tzinfo=UTC),
        version=7,
    )


def service(**options):
    return CloudEvents("/shop/orders", **{"tier": "service", "domain": "order", **options})


def test_in_binary_mode_the_body_is_the_payload_and_the_rest_is_attributes():
    message = service()(event())
    assert message.topic == "k1s0.service.order.placed.v1"
    assert (message.key, message.message_id) == ("order-o-1", str(EVENT_ID))
    assert (json.loads(message.body), message.content_type) == ({"total": 5}, "application/json")
    assert message.attributes == {
        "specversion": "1.0",
        "id": str(EVENT_ID),
        "source": "/shop/orders",
        "type": "order.placed",
        "subject": "order-o-1",
        "time": "2026-11-23T12:30:00Z",
        "datacontenttype": "application/json",
        "partitionkey": "order-o-1",
        "sequence": "7",
    }
    assert message.headers == {}


def test_in_structured_mode_everything_is_in_the_body():
    binary, message = service()(event()), service(structured=True)(event())
    assert message.content_type == "application/cloudevents+json"
    assert json.loads(message.body) == {**binary.attributes, "data": {"total": 5}}
    assert message.attributes == {}


def test_correlation_and_trace_are_headers_and_the_trace_is_an_attribute():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = {"correlation_id": "r-7", "causation_id": 5, "traceparent": trace, "actor": "ann"}
    message = service()(event(metadata=metadata))
    assert message.headers == {"correlation_id": "r-7", "causation_id": "5", "traceparent": trace}
    assert message.attributes["traceparent"] == trace


@pytest.mark.parametrize(
    ("event_type", "metadata", "topic"),
    [
        ("OrderPlaced", {}, "k1s0.service.order.order-placed.v1"),
        ("order.line.added", {"schema_version": 3}, "k1s0.service.order.line-added.v3"),
        ("Größe geändert!", {}, "k1s0.service.order.gr-e-ge-ndert.v1"),
    ],
)
def test_event_types_become_parts_of_topics(event_type, metadata, topic):
    assert service()(event(event_type, metadata)).topic == topic


def test_a_topic_of_ones_own():
    assert CloudEvents("/shop", topic="events.{aggregate-type}")(event()).topic == "events.order"
    assert CloudEvents("/shop", topic="all")(event()).topic == "all"


def test_the_body_is_the_text_that_is_stored():
    moment = (0).to_bytes(8, "big")
    stored = undecoded_envelope(
        StreamId("order", "o-1"), "order.placed", '{"b": 1, "a": 2.0}', "{}", EVENT_ID, moment, 7, moment, 9
    )
    assert service()(stored).body == b'{"b": 1, "a": 2.0}'
    assert service(structured=True)(stored).body.endswith(b',"data":{"b": 1, "a": 2.0}}')


def test_the_data_can_be_made_by_a_function():
    message = service(data=lambda event: {"of": event.stream_id.aggregate_id})(event())
    assert json.loads(message.body) == {"of": "o-1"}


def test_an_event_type_that_gives_no_topic_is_refused():
    with pytest.raises(InvalidInputError):
        CloudEvents("/shop", topic="{event-type}")(event("!"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs tier="),
        ({"tier": "service"}, "needs domain="),
        ({"topic": "a.{b}"}, "no {b}"),
        ({"topic": "a b"}, "a topic"),
        ({"topic": "", "tier": "x"}, "a topic"),
        ({"tier": "a b", "domain": "order"}, "a topic"),
        ({"topic": 5}, "topic must be a string, not int"),
        ({"topic": None}, "topic must be a string, not NoneType"),
        ({"tier": 5, "domain": "order"}, "tier must be a string, not int"),
        ({"tier": "service", "domain": ["order"]}, "domain must be a string, not list"),
    ],
    ids=str,
)
def test_a_template_that_gives_no_topics_is_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        CloudEvents("/shop", **options)


@pytest.mark.parametrize("source", ["", None])
def test_a_cloud_event_needs_a_source(source):
    with pytest.raises(ConfigurationError, match="source"):
        CloudEvents(source, topic="t")
