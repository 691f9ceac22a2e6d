"""Contexts that travel in the metadata of events and the headers of messages."""

from dataclasses import dataclass

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind

from k1s0_event_store import (
    EventEnvelope,
    EventRegistry,
    InMemoryEventStore,
    Message,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    Subscriber,
    SubscriptionRunner,
    SyncInMemoryEventStore,
    TypedEventStore,
    event_metadata,
)
from k1s0_event_store.memory import InMemoryPublisher, InMemorySubscriptionStore
from k1s0_event_store.relay.cloud_events import CloudEvents
from k1s0_event_store.relay.relay import Relay
from k1s0_event_store.telemetry import context as module
from k1s0_event_store.telemetry import handling
from k1s0_event_store.testing.contract import new_events

ORDER, INVOICE = StreamId("order", "o-1"), StreamId("invoice", "i-1")
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

EVENTS = EventRegistry()


@EVENTS.register("OrderPlaced")
@dataclass
class OrderPlaced:
    pass


@EVENTS.register("InvoiceSent")
@dataclass
class InvoiceSent:
    pass


@pytest.fixture
def memory():
    return InMemoryEventStore()


@pytest.fixture
def store(telemetry, memory):
    return telemetry.store(memory)


@pytest.fixture
def tracer(collected):
    return collected.tracer_provider.get_tracer("app")


def traceparent_of(span):
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.fixture(params=["memory", "postgres"])
def any_store(request, telemetry):
    """A traced store on each backend."""
    return telemetry.store(
        InMemoryEventStore() if request.param == "memory" else request.getfixturevalue("event_store")
    )


async def run(store, *subscriptions):
    inner = getattr(store, "wrapped", store)
    if isinstance(inner, InMemoryEventStore):
        storage = InMemorySubscriptionStore(inner)
    else:
        storage = PostgresSubscriptionStore(inner.config, bind=inner.bind)
    await SubscriptionRunner(store, storage, subscriptions).run_until_caught_up()


async def test_events_carry_the_context_of_their_append(store, collected):
    events = [EventEnvelope(ORDER, "Placed", {}, {"tenant": "t"}), EventEnvelope(ORDER, "Paid", {})]
    await store.append(ORDER, events)
    (span,) = collected.spans
    stored = await store.load(ORDER)
    assert [dict(event.metadata) for event in stored] == [
        {"tenant": "t", "traceparent": traceparent_of(span)},
        {"traceparent": traceparent_of(span)},
    ]
    assert [event.event_id for event in stored] == [event.event_id for event in events]
    assert [dict(event.metadata) for event in events] == [{"tenant": "t"}, {}]


async def test_a_context_of_another_trace_stays_as_it_is(store):
    given = [OTHER, "nonsense", 5, ["x"]]
    events = [EventEnvelope(ORDER, "Placed", {}, {"traceparent": one}) for one in given]
    await store.append(ORDER, events)
    assert [event.metadata["traceparent"] for event in await store.load(ORDER)] == given


async def test_the_context_around_the_append_becomes_that_of_the_append(store, tracer, collected):
    with tracer.start_as_current_span("request") as request:
        given = EventEnvelope(ORDER, "Placed", {}, {"traceparent": traceparent_of(request)})
        await store.append(ORDER, [given])
    (event,) = await store.load(ORDER)
    (append,) = collected.named("append order")
    assert event.metadata["traceparent"] == traceparent_of(append)
    assert append.parent.span_id == request.context.span_id


async def test_the_state_of_the_trace_travels_too(store, collected):
    state = {"traceparent": OTHER, "tracestate": "vendor=1"}
    token = attach(module.within(module.context_of(state)))
    await store.append(ORDER, new_events(ORDER, 1))
    detach(token)
    (event,) = await store.load(ORDER)
    assert event.metadata["tracestate"] == "vendor=1"
    assert event.metadata["traceparent"].startswith(OTHER[:35])


async def test_a_repeated_batch_is_still_a_repetition(store, collected, event_store, telemetry):
    for one in (store, telemetry.store(event_store)):
        events = new_events(ORDER, 2)
        for expected in (0, 0, None):
            assert await one.append(ORDER, events, expected) == 2
        assert await one.current_version(ORDER) == 2
    assert len({span.context.trace_id for span in collected.named("append order")}) == 6


@pytest.mark.parametrize(
    "carrier", [{}, {"traceparent": None}, {"traceparent": 7}, {"traceparent": "00-0-0-0"}]
)
def test_what_is_no_context_is_none(carrier):
    assert module.context_of(carrier) is None


async def test_from_a_writer_to_a_broker_all_is_one_trace(any_store, telemetry, tracer, collected):
    typed = TypedEventStore(any_store, EVENTS)

    async def bill(event):
        await typed.append(INVOICE, [InvoiceSent()])

    publisher = InMemoryPublisher()
    relay = Relay(telemetry.publisher(publisher), CloudEvents("/shop", topic="shop.{event-type}"))
    with tracer.start_as_current_span("request"):
        await typed.append(ORDER, [OrderPlaced()])
    billing = Subscriber("billing", typed.handler(bill), event_types=["OrderPlaced"])
    await run(any_store, telemetry.subscription(billing))
    await run(any_store, telemetry.subscription(relay))

    (request,) = collected.named("request")
    assert {span.context.trace_id for span in collected.spans} == {request.context.trace_id}
    parents = {span.context.span_id: span for span in collected.spans}
    chain = [collected.named("publish shop.invoice-sent")[0]]
    while chain[-1].parent is not None:
        chain.append(parents[chain[-1].parent.span_id])
    assert [span.name for span in chain] == [
        "publish shop.invoice-sent",
        "handle relay",
        "append invoice",
        "handle billing",
        "append order",
        "request",
    ]
    for message, topic in zip(publisher.messages, ("order-placed", "invoice-sent"), strict=True):
        (publish,) = collected.named(f"publish shop.{topic}")
        assert message.headers["traceparent"] == traceparent_of(publish)
        (append,) = collected.named(f"append {topic.partition('-')[0]}")
        assert message.attributes["traceparent"] == traceparent_of(append)
        assert [link.context.span_id for link in publish.links] == [append.context.span_id]


async def test_a_handler_links_to_what_is_under_way(store, telemetry, tracer, collected):
    async def handle(event):
        pass

    await store.append(ORDER, new_events(ORDER, 1))
    with tracer.start_as_current_span("job") as job:
        await run(store, telemetry.subscription(Subscriber("mail", handle)))
    (span,), (append,) = collected.named("handle mail"), collected.named("append order")
    assert span.kind is SpanKind.CONSUMER
    assert span.parent.span_id == append.context.span_id
    assert [link.context.span_id for link in span.links] == [append.context.span_id, job.context.span_id]
    (event,) = await store.load(ORDER)
    assert dict(span.attributes) == {
        "messaging.system": "k1s0_event_store",
        "messaging.operation.name": "handle",
        "messaging.operation.type": "process",
        "messaging.destination.subscription.name": "mail",
        "k1s0.event_store.subscription.version": 1,
        "messaging.message.id": str(event.event_id),
        "k1s0.event_store.aggregate_type": "order",
        "k1s0.event_store.event_type": "Counted",
    }


async def test_old_events_are_linked_to_and_not_continued(store, telemetry, collected, monkeypatch):
    monkeypatch.setattr(handling, "_CONTINUED_FOR", handling.timedelta(seconds=-1))

    async def handle(event, session):
        pass

    await store.append(ORDER, new_events(ORDER, 1))
    await run(store, telemetry.subscription(Projection("table", handle)))
    (span,), (append,) = collected.named("handle table"), collected.named("append order")
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [append.context.span_id]


async def test_a_batch_is_one_span_with_a_link_to_each_append(store, telemetry, collected, monkeypatch):
    monkeypatch.setattr(handling, "_MOST_LINKS", 3)
    sizes = []

    async def handle(events, session):
        sizes.append(len(events))

    for _ in range(4):
        await store.append(ORDER, new_events(ORDER, 2))
    await run(store, telemetry.subscription(Projection("table", handle, batch=True)))
    (span,), appends = collected.named("handle table"), collected.named("append order")
    assert sizes == [8]
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [one.context.span_id for one in appends[:3]]
    assert span.attributes["messaging.batch.message_count"] == 8
    assert "messaging.message.id" not in span.attributes


async def test_a_side_effect_has_a_span_of_its_own(store, telemetry, collected):
    class Mail:
        async def handle(self, event):
            pass

        async def side_effect(self, event):
            pass

    await store.append(ORDER, new_events(ORDER, 1))
    await run(store, telemetry.subscription(Subscriber("mail", Mail())))
    assert [span.name for span in collected.spans] == ["append order", "handle mail", "side_effect mail"]


async def test_events_without_a_context_are_handled_in_traces_of_their_own(memory, telemetry, collected):
    async def handle(event):
        pass

    await memory.append(ORDER, [EventEnvelope(ORDER, "Placed", {}, {"traceparent": 5}) for _ in range(2)])
    await run(memory, telemetry.subscription(Subscriber("mail", handle)))
    first, second = collected.named("handle mail")
    assert (first.parent, second.parent, first.links) == (None, None, ())
    assert first.context.trace_id != second.context.trace_id


async def test_the_subscription_that_was_given_stays_as_it_was(telemetry):
    async def handle(event):
        pass

    given = Subscriber("mail", handle, concurrency=3)
    copied = telemetry.subscription(given)
    assert (type(copied), copied.name, copied.concurrency) == (Subscriber, "mail", 3)
    assert given.handler.call is handle
    assert copied.handler.call is not handle


async def test_a_message_without_a_span_around_it_belongs_to_its_own_trace(telemetry, collected):
    publisher = InMemoryPublisher()
    message = Message("shop.orders", "order-1", b"{}", {"traceparent": OTHER})
    async with telemetry.publisher(publisher) as traced:
        await traced.publish(message)
    (span,) = collected.spans
    assert (span.name, span.kind) == ("publish shop.orders", SpanKind.PRODUCER)
    assert span.parent.span_id == int(OTHER.split("-")[2], 16)
    assert publisher.messages[0].headers == {"traceparent": traceparent_of(span)}
    assert message.headers == {"traceparent": OTHER}
    assert dict(span.attributes) == {
        "messaging.system": "k1s0_event_store",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop.orders",
        "messaging.message.id": message.message_id,
    }


async def test_enqueued_messages_carry_the_context_of_who_enqueued_them(store, telemetry, tracer, collected):
    publisher = InMemoryPublisher()
    blocking = telemetry.store(SyncInMemoryEventStore())
    with tracer.start_as_current_span("request") as request:
        await store.enqueue(Message("shop.orders", "order-1", b"{}"))
        blocking.enqueue(Message("shop.orders", "order-1", b"{}"))
    await run(store, Relay(publisher))
    assert publisher.messages[0].headers == {"traceparent": traceparent_of(request)}
    (kept,) = blocking.load(StreamId("$outbox", "order-1"))
    assert kept.payload["headers"] == publisher.messages[0].headers


async def test_enqueued_messages_continue_the_trace_of_who_enqueued_them(store, telemetry, tracer, collected):
    publisher = InMemoryPublisher()
    with tracer.start_as_current_span("request") as request:
        await store.enqueue(Message("shop.orders", "order-1", b"{}"))
    await run(store, Relay(telemetry.publisher(publisher)))
    (span,) = collected.named("publish shop.orders")
    assert span.parent.span_id == request.context.span_id
    assert publisher.messages[0].headers == {"traceparent": traceparent_of(span)}


async def test_metadata_of_the_caller_stays_with_the_context(store, tracer):
    with event_metadata(actor="ann", traceparent=OTHER):
        await TypedEventStore(store, EVENTS).append(ORDER, [OrderPlaced()])
    (event,) = await store.load(ORDER)
    assert (event.metadata["actor"], event.metadata["traceparent"]) == ("ann", OTHER)
