"""The contract suite of publishers on real brokers, and what is special about each."""

import asyncio
import math
import traceback

import aio_pika
import pytest
from nats.js.api import DiscardPolicy
from redis.asyncio import Redis

from k1s0_event_store import (
    BrokerUnavailableError,
    CloudEvents,
    ConfigurationError,
    EventEnvelope,
    InMemoryEventStore,
    InMemorySubscriptionStore,
    Message,
    MessageRefusedError,
    Relay,
    StreamId,
    SubscriptionRunner,
)
from k1s0_event_store.brokers.kafka import KafkaPublisher
from k1s0_event_store.brokers.nats import NatsPublisher
from k1s0_event_store.brokers.rabbitmq import RabbitPublisher
from k1s0_event_store.brokers.redis import RedisPublisher
from k1s0_event_store.brokers.urls import publisher_for
from k1s0_event_store.testing.publisher_contract import (
    CLOUD_EVENT,
    PublisherContract,
    by_key,
    messages_of,
    outcomes,
)

from .conftest import LARGEST
from .consumers import consumer_of, nats_client, stream_of

NOWHERE = Message("nowhere", "order-1", b"")
TOO_LARGE = b"x" * (LARGEST + 100_000)


class OnBroker(PublisherContract):
    """Fixtures: server; unwanted, of each kind; own_names, which a message's headers must not have."""

    @pytest.fixture
    def consumer(self, server):
        return consumer_of(server.url)

    @pytest.fixture
    async def publisher(self, server):
        async with publisher_for(server.url) as publisher:
            yield publisher

    @pytest.fixture
    async def topic(self, consumer, topic_name):
        await consumer.make(topic_name)
        return topic_name

    @pytest.fixture
    def read(self, consumer):
        return consumer.read

    async def test_headers_with_names_that_the_publisher_uses_are_refused(
        self, publisher, topic, read, own_names
    ):
        clashing = [Message(topic, "order-1", b"", {name: "v"}, {"id": "1"}) for name in own_names]
        (good,) = messages_of(topic, "order-1", 1)
        errors = await outcomes(publisher, [*clashing, good])
        for name, error in zip(own_names, errors, strict=False):
            assert isinstance(error, MessageRefusedError), name
            assert name in str(error)
        assert await read(topic) == [good]

    async def test_connecting_is_possible_before_the_first_message(self, publisher, topic, read):
        await asyncio.gather(publisher.connect(), publisher.connect())
        await publisher.connect()
        (message,) = messages_of(topic, "order-1", 1)
        await publisher.publish(message)
        assert await read(topic) == [message]

    async def test_the_relay_publishes_every_event_in_the_order_of_its_stream(self, publisher, topic, read):
        store = InMemoryEventStore()
        streams = [StreamId("order", f"o-{number}") for number in range(20)]
        for number in range(10):
            for stream_id in streams:
                await store.append(stream_id, [EventEnvelope(stream_id, "Placed", {"n": number})])
        relay = Relay(publisher, CloudEvents("/shop", topic=topic))
        await SubscriptionRunner(store, InMemorySubscriptionStore(store), [relay]).run_until_caught_up()
        arrived = by_key(await read(topic))
        assert arrived.keys() == set(map(str, streams))
        for messages in arrived.values():
            assert [message.body for message in messages] == [b'{"n":%d}' % number for number in range(10)]
            assert [message.attributes["type"] for message in messages] == ["Placed"] * 10


@pytest.mark.xdist_group("kafka")
class TestKafka(OnBroker):
    """On Tansu, which makes what topic is missing and takes any size: it is the client that refuses."""

    @pytest.fixture
    def server(self, kafka_server):
        return kafka_server

    @pytest.fixture(params=["too large", "header"])
    def unwanted(self, request, topic):
        return {
            "too large": Message(topic, "order-1", TOO_LARGE),
            "header": Message(topic, "order-1", b"", {"message-id": "m-1"}),
        }[request.param]

    @pytest.fixture
    def own_names(self):
        return ["message-id", "content-type", "ce_id"]

    @pytest.mark.parametrize(
        ("key", "hash_of_java"),
        [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
        ],
    )
    async def test_a_key_has_the_partition_that_other_clients_give_it(
        self, publisher, consumer, topic_name, key, hash_of_java
    ):
        await consumer.make(topic_name, partitions=7)
        await publisher.publish(Message(topic_name, key, b""))
        (record,) = await consumer.records(topic_name)
        assert record.partition == (hash_of_java & 0x7FFFFFFF) % 7

    async def test_keys_are_spread_over_the_partitions(self, publisher, consumer, topic):
        messages = [Message(topic, f"order-{number}", b"") for number in range(40)]
        await outcomes(publisher, messages)
        assert {record.partition for record in await consumer.records(topic)} == {0, 1, 2, 3}

    async def test_a_topic_that_the_broker_makes_when_it_is_asked_for_can_be_published_to(
        self, publisher, read, topic_name
    ):
        messages = [Message(topic_name, f"order-{number}", b"") for number in range(10)]
        assert await outcomes(publisher, messages) == [None] * 10
        assert by_key(await read(topic_name)) == by_key(messages)

    async def test_options_are_those_of_the_broker_of_faststream(self, server, topic, read):
        async with KafkaPublisher(server.url, max_request_size=1_000) as publisher:
            with pytest.raises(MessageRefusedError):
                await publisher.publish(Message(topic, "order-1", b"x" * 2_000))
        async with KafkaPublisher(server.url, max_request_size=5_000_000) as publisher:
            await publisher.publish(large := Message(topic, "order-1", TOO_LARGE))
        assert await read(topic) == [large]

    async def test_one_of_several_servers_is_enough(self, server, topic, read):
        async with KafkaPublisher(f"{server.url.replace('//', '//127.0.0.1:1,')}") as publisher:
            await publisher.publish(message := Message(topic, "order-1", b""))
        assert await read(topic) == [message]


@pytest.mark.xdist_group("nats")
class TestNats(OnBroker):
    @pytest.fixture
    def server(self, nats_server):
        return nats_server

    @pytest.fixture(
        params=["no stream", "bad subject", "too large", "too large for the stream", "header", "header name"]
    )
    async def unwanted(self, request, consumer, topic, topic_name):
        small = f"{topic_name}.small"
        await consumer.make(small, max_msg_size=1_000)
        return {
            "no stream": NOWHERE,
            "bad subject": Message("orders..placed", "order-1", b""),
            "too large": Message(topic, "order-1", TOO_LARGE),
            "too large for the stream": Message(small, "order-1", b"x" * 2_000),
            "header": Message(topic, "order-1", b"", {"Nats-Msg-Id": "m-1"}),
            "header name": Message(topic, "order-1", b"", {"a b": "v"}),
        }[request.param]

    @pytest.fixture
    def own_names(self):
        return ["Nats-Msg-Id", "key", "content-type", "ce-id"]

    async def test_a_message_that_is_published_again_is_kept_once(self, publisher, topic, read):
        message, other = messages_of(topic, "order-1", 2)
        for one in (message, other, message, message):
            await publisher.publish(one)
        assert await read(topic) == [message, other]

    async def test_attributes_are_percent_encoded_as_the_binding_of_cloud_events_says(
        self, publisher, server, topic
    ):
        await publisher.publish(Message(topic, "order-1", b"", {"x-plain": 'a "b" 100%'}, CLOUD_EVENT))
        async with nats_client(server.url) as client:
            raw = await client.jetstream().get_msg(stream_of(topic), 1)
        assert raw.headers["ce-subject"] == "order-1%20%22%C3%86r%C3%B8%22%20100%25%20%F0%9F%98%80"
        assert raw.headers["ce-source"] == "/shop/orders"
        assert raw.headers["ce-time"] == CLOUD_EVENT["time"]
        assert raw.headers["x-plain"] == 'a "b" 100%'

    async def test_a_stream_that_is_full_is_waited_for(self, publisher, consumer, server, topic_name, read):
        await consumer.make(topic_name, max_msgs=1, discard=DiscardPolicy.NEW)
        first, second = messages_of(topic_name, "order-1", 2)
        await publisher.publish(first)
        with pytest.raises(BrokerUnavailableError):
            await publisher.publish(second)
        async with nats_client(server.url) as client:
            await client.jetstream().purge_stream(stream_of(topic_name))
        await publisher.publish(second)
        assert await read(topic_name) == [second]

    async def test_who_listens_to_the_subject_and_answers_is_not_taken_for_the_stream(
        self, server, topic, topic_name, read
    ):
        async def thank(message):
            await message.respond(b"thanks")

        (message,) = messages_of(topic, "order-1", 1)
        async with nats_client(server.url) as client, publisher_for(server.url, timeout=1) as publisher:
            for subject in (topic, "no.stream"):
                await client.subscribe(subject, cb=thank)
            await client.flush()
            await publisher.publish(message)
            with pytest.raises((BrokerUnavailableError, MessageRefusedError)):
                await publisher.publish(Message("no.stream", "order-1", b""))
        assert await read(topic) == [message]


@pytest.mark.xdist_group("rabbitmq")
class TestRabbit(OnBroker):
    @pytest.fixture
    def server(self, rabbitmq_server):
        return rabbitmq_server

    @pytest.fixture(params=["no queue", "too large", "header", "content type"])
    def unwanted(self, request, topic):
        # One that is too large closes the channel, with all that is under way.
        return {
            "no queue": NOWHERE,
            "too large": Message(topic, "order-1", TOO_LARGE),
            "header": Message(topic, "order-1", b"", {"key": "v"}),
            "content type": Message(topic, "order-1", b"", content_type="é" * 200),  # 400 bytes
        }[request.param]

    @pytest.fixture
    def own_names(self):
        return ["key", "cloudEvents:id"]

    async def test_messages_are_persistent_and_have_the_properties_of_the_protocol(
        self, publisher, consumer, topic
    ):
        await publisher.publish(Message(topic, "order-1", b"", {}, CLOUD_EVENT, "text/plain", "m-1"))
        (delivery,) = await consumer.deliveries(topic)
        assert delivery.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert (delivery.message_id, delivery.content_type) == ("m-1", "text/plain")
        assert delivery.headers["cloudEvents:subject"] == CLOUD_EVENT["subject"]
        assert delivery.exchange == "amq.topic"

    async def test_a_queue_that_is_full_is_waited_for(self, publisher, consumer, topic_name, read):
        await consumer.make(topic_name, **{"x-max-length": 1, "x-overflow": "reject-publish"})
        first, second = messages_of(topic_name, "order-1", 2)
        await publisher.publish(first)
        with pytest.raises(BrokerUnavailableError):
            await publisher.publish(second)
        assert await read(topic_name) == [first]
        await publisher.publish(second)
        assert await read(topic_name) == [first, second]

    async def test_the_exchange_stands_in_the_url(self, server, topic, read):
        connection = await aio_pika.connect(server.url)
        async with connection:
            channel = await connection.channel()
            await channel.declare_exchange("orders", "topic")
            await (await channel.get_queue(topic)).bind("orders", topic)
        async with publisher_for(f"{server.url}?exchange=orders") as publisher:
            await publisher.publish(message := Message(topic, "order-1", b""))
        assert await read(topic) == [message]

    async def test_an_exchange_that_is_missing_is_named(self, server, topic):
        async with publisher_for(f"{server.url}?exchange=no-such") as publisher:
            for _ in range(2):
                with pytest.raises(BrokerUnavailableError, match="no-such"):
                    await publisher.publish(Message(topic, "order-1", b""))

    async def test_a_wrong_password_is_not_shown(self, server, topic):
        async with publisher_for(server.url.replace("guest@", "secret@")) as publisher:
            with pytest.raises(BrokerUnavailableError) as caught:
                await publisher.publish(Message(topic, "order-1", b""))
        assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.xdist_group("redis")
class TestRedis(OnBroker):
    @pytest.fixture
    def server(self, redis_server):
        return redis_server

    @pytest.fixture
    async def client(self, server):
        async with Redis.from_url(server.url) as client:
            yield client

    @pytest.fixture(params=["no stream", "header", "no text"])
    async def unwanted(self, request, client, topic):
        await client.set("a.text", "this is no stream")
        return {
            "no stream": Message("a.text", "order-1", b""),
            "header": Message(topic, "order-1", b"", {"body": "v"}),
            "no text": Message(topic, "order-1", b"", {"x": "\ud800"}),
        }[request.param]

    @pytest.fixture
    def own_names(self):
        return ["body", "key", "message_id", "content_type", "ce_id"]

    async def test_a_server_that_has_no_memory_left_is_waited_for(self, publisher, client, topic, read):
        first, second, third = messages_of(topic, "order-1", 3)
        await publisher.publish(first)
        await client.config_set("maxmemory", "1")
        try:
            assert list(map(type, await outcomes(publisher, [second, third]))) == [BrokerUnavailableError] * 2
        finally:
            await client.config_set("maxmemory", "0")
        await publisher.publish(second)
        assert await read(topic) == [first, second]

    async def test_a_server_that_is_only_read_from_is_waited_for(self, publisher, client, topic, read):
        first, second = messages_of(topic, "order-1", 2)
        await publisher.publish(first)
        await client.replicaof("127.0.0.1", "1")
        try:
            for _ in range(2):
                with pytest.raises(BrokerUnavailableError):
                    await publisher.publish(second)
        finally:
            await client.replicaof("NO", "ONE")
        await publisher.publish(second)
        assert await read(topic) == [first, second]

    async def test_the_database_stands_in_the_url(self, server, topic):
        other = f"{server.url.removesuffix('/0')}/1"
        async with publisher_for(other) as publisher:
            await publisher.publish(message := Message(topic, "order-1", b""))
        assert await consumer_of(server.url).read(topic) == []
        assert await consumer_of(other).read(topic) == [message]


URLS = {
    "kafka://h:9092": KafkaPublisher,
    "kafka://h:9092,i:9092?tls=true&sasl=scram-sha-256": KafkaPublisher,
    "nats://h:4222": NatsPublisher,
    "tls://h:4222": NatsPublisher,
    "amqp://h:5672/": RabbitPublisher,
    "amqps://user:secret@h/shop?exchange=orders": RabbitPublisher,
    "redis://h:6379/0": RedisPublisher,
    "rediss://:secret@h:6379/1": RedisPublisher,
}


@pytest.mark.parametrize("url", URLS)
async def test_the_scheme_of_a_url_says_which_broker(url):
    async with publisher_for(url) as publisher:
        assert type(publisher) is URLS[url]


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        "user:secret@h",
        "http://user:secret@h",
        "postgresql://user:secret@h/shop",
        "kafka://",
        "nats:///",
        "amqp:user:secret@h",
        "kafka://user:secret@h:9092?sasl=gssapi",
        "kafka://user:secret@h:9092?exchange=orders",
        "nats://user:secret@",
        "redis://user:secret@h:port/0",
        "amqp://user:secret@h:port",
        "kafka://user:secret@h:port",
        "nats://user:secret@h:port",
    ],
)
def test_a_url_of_no_broker_is_refused_and_its_password_not_shown(url):
    with pytest.raises(ConfigurationError) as caught:
        publisher_for(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, True, "5", None])
def test_what_is_no_time_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        publisher_for("redis://h:6379/0", timeout=timeout)


@pytest.mark.parametrize(
    "url", [f"{scheme}://user:secret@127.0.0.1:1" for scheme in ("kafka", "nats", "amqp", "redis")]
)
async def test_who_cannot_connect_does_not_show_the_password(url):
    async with publisher_for(url, timeout=2) as publisher:
        with pytest.raises(BrokerUnavailableError) as caught:
            await publisher.publish(NOWHERE)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in repr(publisher)
