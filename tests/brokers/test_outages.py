"""Brokers that are down, die, or do not answer: errors come in time, nothing is lost, the order stays."""

import asyncio
import time
from contextlib import contextmanager

import pytest

from k1s0_event_store import BrokerUnavailableError, Message, StoreClosedError
from k1s0_event_store.brokers.urls import publisher_for
from k1s0_event_store.testing.publisher_contract import (
    by_key,
    firsts,
    outcomes,
    publish_as_relay,
)

from . import servers
from .conftest import running, start_again

TIMEOUT = 1.0
SOON = 5
"""Seconds that something may take beyond the publisher's timeout."""
IN_FLIGHT = 200

# FastStream leaves a producer to the garbage collector when its broker dies, or accepts and says nothing.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")

KINDS = [
    pytest.param(kind, marks=pytest.mark.xdist_group(f"{kind} outages"))
    for kind in ("kafka", "nats", "rabbitmq", "redis")
]


@pytest.fixture(scope="module", params=KINDS)
def broker(request):
    """One of our own, to be ill-treated."""
    with running(getattr(servers, request.param)) as server:
        yield server


@contextmanager
def ending_in_time():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < TIMEOUT + SOON


async def fails_in_time(publisher, messages):
    with ending_in_time():
        errors = await outcomes(publisher, messages)
    assert [type(error) for error in errors] == [BrokerUnavailableError] * len(messages)


async def test_when_a_broker_dies_nobody_waits_for_long_and_closing_ends_in_time(server, topic):
    idle, busy, lost = (publisher_for(server.url, timeout=TIMEOUT) for _ in range(3))
    for publisher in (idle, busy, lost):
        await publisher.publish(Message(topic, "before", b""))
    server.freeze()
    # More than the client's buffers take: it dies with much that is not sent.
    much = [Message(topic, f"order-{number}", b"x" * 100_000) for number in range(200)]
    publishing = asyncio.create_task(fails_in_time(busy, much))
    await asyncio.sleep(0.3)
    server.kill()
    await fails_in_time(lost, much[:20])
    await publishing
    with ending_in_time():
        await asyncio.gather(idle.close(), busy.close(), lost.close())


async def test_a_broker_that_is_down_at_the_start_is_used_as_soon_as_it_is_there(
    broker, consumer, topic_name
):
    broker.kill()
    messages = [Message(topic_name, f"order-{number}", b"") for number in range(20)]
    async with publisher_for(broker.url, timeout=TIMEOUT) as publisher:
        with ending_in_time(), pytest.raises(BrokerUnavailableError):
            await publisher.connect()
        for _ in range(2):
            await fails_in_time(publisher, messages)
        await start_again(broker)
        await consumer.make(topic_name)
        assert await outcomes(publisher, messages) == [None] * 20
    assert by_key(await consumer.read(topic_name)) == by_key(messages)


async def test_while_a_broker_does_not_answer_errors_come_in_time_and_then_it_is_used_again(
    server, consumer, topic
):
    first, *others = (Message(topic, f"order-{number}", b"") for number in range(20))
    async with publisher_for(server.url, timeout=TIMEOUT) as publisher:
        await publisher.publish(first)
        server.freeze()
        await fails_in_time(publisher, others)  # on the connection that there is
        await fails_in_time(publisher, others)  # and for a new one
        server.thaw()
        with ending_in_time():
            await asyncio.gather(*(publish_as_relay(publisher, [message]) for message in others))
    assert by_key(firsts(await consumer.read(topic))) == by_key([first, *others])


@pytest.mark.parametrize("under_way", [0, 20])
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "connecting"])
async def test_closing_ends_in_time_while_a_broker_does_not_answer(server, topic, under_way, is_connected):
    publisher = publisher_for(server.url, timeout=TIMEOUT)
    if is_connected:
        await publisher.publish(Message(topic, "before", b""))
    server.freeze()
    messages = [Message(topic, f"order-{number}", b"") for number in range(under_way)]
    publishing = asyncio.create_task(outcomes(publisher, messages))
    await asyncio.sleep(0.1)
    with ending_in_time():
        await publisher.close()
        errors = await publishing
    assert {type(error) for error in errors} <= {BrokerUnavailableError, StoreClosedError}


async def crash(server):
    server.kill()
    await asyncio.sleep(0.2)


async def shut_down(server):
    await asyncio.to_thread(server.stop)


async def stall(server):
    server.freeze()
    await asyncio.sleep(2 * TIMEOUT)


async def recover(server):
    if server.is_running:
        server.thaw()
    else:
        await start_again(server)


@pytest.mark.parametrize("fault", [crash, shut_down, stall])
async def test_what_is_acknowledged_before_during_and_after_an_outage_is_there_in_order(
    server, consumer, topic, fault
):
    if fault is not stall and not server.keeps_its_data:
        pytest.skip("Tansu keeps nothing when it ends: what it acknowledged, and not even the topic")
    acknowledged = {f"order-{number}": [] for number in range(IN_FLIGHT)}
    begun, recovered = asyncio.Event(), asyncio.Event()

    async def publish_next(messages, key):
        message = Message(topic, key, b"%d" % len(messages))
        await publish_as_relay(publisher, [message])
        messages.append(message)

    async def publish_key(messages, key):
        for _ in range(5):
            await publish_next(messages, key)
        begun.set()
        while not recovered.is_set():
            await publish_next(messages, key)
        for _ in range(5):
            await publish_next(messages, key)

    async with (
        asyncio.timeout(40),
        publisher_for(server.url, timeout=TIMEOUT) as publisher,
        asyncio.TaskGroup() as group,
    ):
        for key, messages in acknowledged.items():
            group.create_task(publish_key(messages, key))
        await begun.wait()
        await fault(server)
        await recover(server)
        recovered.set()
    arrived = await consumer.read(topic)
    assert by_key(firsts(arrived)) == acknowledged
    assert len(arrived) - len(firsts(arrived)) <= IN_FLIGHT
