"""The other end: what makes the topics of a broker and reads them, by its own client."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

import aio_pika
import aiokafka
import nats
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig
from redis.asyncio import Redis

from k1s0_event_store import Message


def stream_of(topic):
    """A stream's name holds no dots."""
    return topic.replace(".", "_")


def message_of(topic, body, own, headers, prefix, decode=str):
    """The message that travelled; `own` is its key, content type and id."""
    attributes = {
        name.removeprefix(prefix): decode(value) for name, value in headers.items() if name.startswith(prefix)
    }
    others = {name: value for name, value in headers.items() if not name.startswith(prefix)}
    key, content_type, message_id = own
    if others.get("correlation_id") == message_id:
        del others["correlation_id"]  # FastStream's own
    return Message(topic, key, body, others, attributes, content_type, message_id)


class Consumer(ABC):
    """A connection for each call: brokers come and go in these tests."""

    def __init__(self, url):
        self.url = url

    @abstractmethod
    async def make(self, topic, **settings):
        """Make a topic that can be published to."""

    @abstractmethod
    async def read(self, topic):
        """Everything that has arrived, from the beginning; those of each key in their order."""


class KafkaConsumer(Consumer):
    async def make(self, topic, partitions=4, **settings):
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])
        finally:
            await admin.close()

    async def read(self, topic):
        return [self._message(record) for record in await self.records(topic)]

    async def records(self, topic):
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=self._servers, group_id=None, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partitions = consumer.assignment()
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning()
            records = []
            async with asyncio.timeout(20):
                while any([await consumer.position(one) < ends[one] for one in partitions]):
                    for found in (await consumer.getmany(timeout_ms=1000)).values():
                        records += found
            return records
        finally:
            await consumer.stop()

    @property
    def _servers(self):
        return urlsplit(self.url).netloc

    def _message(self, record):
        headers = {name: value.decode() for name, value in record.headers}
        assert len(headers) == len(record.headers), f"a header came twice: {record.headers}"
        own = (record.key.decode(), headers.pop("content-type"), headers.pop("message-id"))
        return message_of(record.topic, record.value, own, headers, "ce_")


@asynccontextmanager
async def nats_client(url):
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


class NatsConsumer(Consumer):
    """A stream for each topic."""

    async def make(self, topic, **settings):
        async with nats_client(self.url) as client:
            config = StreamConfig(name=stream_of(topic), subjects=[topic], **settings)
            await client.jetstream().add_stream(config)

    async def read(self, topic):
        async with nats_client(self.url) as client:
            jetstream = client.jetstream()
            count = (await jetstream.stream_info(stream_of(topic))).state.messages
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
            subscription = await jetstream.subscribe(topic, ordered_consumer=True, config=config)
            arrived = [await subscription.next_msg(timeout=5) for _ in range(count)]
            await subscription.unsubscribe()
            return [self._message(message) for message in arrived]

    def _message(self, message):
        headers = dict(message.headers)
        own = (headers.pop("key"), headers.pop("content-type"), headers.pop("Nats-Msg-Id"))
        return message_of(message.subject, message.data, own, headers, "ce-", unquote)


class RabbitConsumer(Consumer):
    """A queue gives its messages away: they are kept here."""

    def __init__(self, url):
        super().__init__(url)
        self._arrived = {}

    async def make(self, topic, **arguments):
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(topic, durable=True, arguments=arguments)
            await queue.bind("amq.topic", topic)

    async def read(self, topic):
        return [self._message(message) for message in await self.deliveries(topic)]

    async def deliveries(self, topic):
        arrived = self._arrived.setdefault(topic, [])
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(topic, passive=True)
            count = queue.declaration_result.message_count
            if count:
                async with queue.iterator(timeout=5) as waiting:
                    async for message in waiting:
                        arrived.append(message)
                        count -= 1
                        if count == 0:
                            await message.ack(multiple=True)
                            break
        return arrived

    def _message(self, message):
        headers = dict(message.headers)
        own = (headers.pop("key"), message.content_type, message.message_id)
        return message_of(message.routing_key, message.body, own, headers, "cloudEvents:")


class RedisConsumer(Consumer):
    async def make(self, topic):
        """Streams need not be made."""

    async def read(self, topic):
        async with Redis.from_url(self.url) as client:
            return [self._message(topic, fields) for _, fields in await client.xrange(topic)]

    def _message(self, topic, fields):
        body = fields.pop(b"body")
        headers = {name.decode(): value.decode() for name, value in fields.items()}
        own = (headers.pop("key"), headers.pop("content_type"), headers.pop("message_id"))
        return message_of(topic, body, own, headers, "ce_")


def consumer_of(url):
    """The one for the broker at `url`."""
    kinds = {"kafka": KafkaConsumer, "nats": NatsConsumer, "amqp": RabbitConsumer, "redis": RedisConsumer}
    return kinds[urlsplit(url).scheme](url)
