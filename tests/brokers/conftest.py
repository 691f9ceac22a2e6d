"""What the tests on real brokers share: each kind is started once, and whoever leaves a task is found."""

import asyncio
import gc
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest

from ..required import skip_without
from . import servers
from .consumers import consumer_of
from .servers import BrokerMissing

pytest.register_assert_rewrite("k1s0_event_store.testing.publisher_contract")

LARGEST = 1_000_000
"""Bytes of a message that RabbitMQ and NATS take in these tests; Kafka's is about the same."""


@contextmanager
def running(start, *options):
    """A broker; where its program is missing the test is skipped, or fails if brokers are required."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start(*options))
        except BrokerMissing as missing:
            skip_without("brokers", str(missing))
        yield server


@pytest.fixture(scope="session")
def kafka_server():
    with running(servers.kafka) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server():
    with running(servers.nats, f"max_payload: {LARGEST}") as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server():
    with running(servers.rabbitmq, f"max_message_size = {LARGEST}") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server():
    with running(servers.redis) as server:
        yield server


@pytest.fixture
def topic_name():
    """One that no other test has."""
    return f"k1s0.test.{uuid4().hex}"


@pytest.fixture
def server(broker):
    """A module's `broker`, to be ill-treated: it runs, whatever the test before did."""
    broker.thaw()
    if not broker.is_running:
        broker.start()
    return broker


@pytest.fixture
def consumer(broker):
    return consumer_of(broker.url)


@pytest.fixture
async def topic(server, consumer, topic_name):
    await consumer.make(topic_name)
    return topic_name


async def start_again(server):
    server.launch()
    await asyncio.to_thread(server.wait_until_ready)


@pytest.fixture(scope="session")
def only_new_garbage():
    """A look for garbage after each test passes by what was there before all of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
async def nothing_is_left_running(only_new_garbage):
    """Publishers, when they are closed, have ended all their tasks; what they left open is heard of."""
    yield
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(left, timeout=1)
    for task in left:
        task.cancel()
    gc.collect()
    assert [task.get_coro().__qualname__ for task in left] == []
