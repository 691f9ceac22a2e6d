"""Kafka, through FastStream's broker over aiokafka."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote

import aiokafka.errors
from aiokafka.partitioner import DefaultPartitioner
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from k1s0_event_store.brokers.batching import Batches
from k1s0_event_store.brokers.connection import Connection, headers_of
from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.config import split_url
from k1s0_event_store.exceptions import ConfigurationError, MessageRefusedError
from k1s0_event_store.message import Message

_MECHANISMS = {"plain": SASLPlaintext, "scram-sha-256": SASLScram256, "scram-sha-512": SASLScram512}
_BATCH_BYTES = 128 * 1024
_LARGEST_BATCH = 1_000
_LARGEST_MESSAGE = 1024 * 1024


class _Record(NamedTuple):
    key: bytes
    body: bytes
    headers: list[tuple[str, bytes]]


class KafkaConnection(Connection):
    """acks=all. aiokafka has one request per node under way and retries it, so each key stays in order.

    A batch that it gives up would let the next one pass: our own timeout is shorter, and ends all.
    """

    # They hit a batch.
    collective = (
        aiokafka.errors.MessageSizeTooLargeError,
        aiokafka.errors.RecordListTooLargeError,
        aiokafka.errors.InvalidTopicError,
        aiokafka.errors.TopicAuthorizationFailedError,
        aiokafka.errors.UnknownTopicOrPartitionError,
        aiokafka.errors.InvalidMessageError,
    )
    outages = (*Connection.outages, aiokafka.errors.KafkaError)

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, timeout, options)
        parts = split_url(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        self._servers = [host if ":" in host.rpartition("]")[2] else f"{host}:9092" for host in hosts]
        self._topics: set[str] = set()
        self._look = asyncio.Lock()
        self._producer: Any = None  # aiokafka's own: FastStream has no way to end it without a flush
        settings: dict[str, Any] = {
            "acks": "all",
            "request_timeout_ms": int(timeout * 2000),
            "max_batch_size": _BATCH_BYTES,
            "security": security_of(parts),
            "logger": None,
            **options,
        }
        self._broker = KafkaBroker(self._servers, **settings)
        self._largest: int = settings.get("max_request_size", _LARGEST_MESSAGE)
        self._batches: dict[tuple[str, int], Batches[_Record]] = {}

    async def open(self) -> None:
        await _reach_one_of(self._servers)  # FastStream leaves a producer that finds no broker unclosed
        await self.connected(self._broker.connect())
        made: Any = self._broker.config.broker_config.producer
        self._producer = made._producer.producer

    async def publish(self, message: Message) -> None:
        if message.topic not in self._topics:
            async with asyncio.timeout(self.timeout), self._look:
                await self._look_up(message.topic)
        own = {"message-id": message.message_id, "content-type": message.content_type}
        headers = [(name, value.encode()) for name, value in headers_of(message, own, "ce_").items()]
        record = _Record(message.key.encode(), message.body, headers)
        size = len(record.key) + len(record.body)
        if size > self._largest:
            raise MessageRefusedError(f"{size:,} bytes; max_request_size allows {self._largest:,}")
        partitions = self._producer.client.cluster.partitions_for_topic(message.topic)
        if partitions is None:
            partitions = await self._producer.partitions_for(message.topic)
        place = message.topic, _partition_of(record.key, len(partitions))
        batches = self._batches.get(place)
        if batches is None:
            batches = self._batches[place] = Batches(partial(self._sent, *place), _LARGEST_BATCH)
        await self.acknowledged(batches.add(record))

    async def _sent(self, topic: str, partition: int, records: Sequence[_Record]) -> Sequence[None]:
        """Send records as batches of Kafka, one after the other: a future for each record would be dear."""
        rest = deque(records)
        while rest:
            batch = self._producer.create_batch()
            while rest:
                key, body, headers = rest[0]
                if batch.append(timestamp=None, key=key, value=body, headers=headers) is None:
                    break  # it is full
                rest.popleft()
            await (await self._producer.send_batch(batch, topic, partition=partition))
        return [None] * len(records)

    async def _look_up(self, topic: str) -> None:
        """A topic that the broker has not spoils the metadata of all others in aiokafka, for a long time."""
        if topic in self._topics:
            return
        (found,) = await self._broker.config.broker_config.admin_client.describe_topics([topic])
        error = aiokafka.errors.for_code(found["error_code"])
        if error is aiokafka.errors.LeaderNotAvailableError:  # it is just being made
            raise TimeoutError(f"the topic {topic} has no leader yet")
        if error is not aiokafka.errors.NoError:
            raise MessageRefusedError(f"the topic {topic}: {error.__name__}")
        self._topics.add(topic)

    def abort(self, reason: BaseException) -> None:
        super().abort(reason)
        for batches in self._batches.values():
            batches.cancel()
        self._producer._sender.sender_task.cancel()

    async def close(self) -> None:
        if self._producer is None:
            await self._broker.stop()
            return
        # stop() would flush first: wait for the lost broker, and send what the caller gave up.
        self._producer._closed = True
        sender = self._producer._sender.sender_task
        while not sender.done():  # the first time it waits for the requests that are under way
            sender.cancel()
            await asyncio.wait([sender], timeout=0.02)
        await asyncio.gather(
            self._producer.client.close(), self._broker.config.broker_config.admin.disconnect()
        )


class KafkaPublisher(BrokerPublisher):
    """Publishes to Kafka: the stream is the key, so that a partitioned topic keeps its order.

    `kafka://[user:password@]host:port[,host:port]`, with `?tls=true` and `&sasl=plain`,
    `scram-sha-256` or `scram-sha-512` where the cluster wants it. Attributes of a CloudEvent travel as
    `ce_...` headers, the id also as `message-id`.
    """

    schemes = ("kafka",)
    connection = KafkaConnection

    def __init__(self, url: str, *, timeout: float = 10.0, **options: Any) -> None:
        super().__init__(url, timeout=timeout, **options)
        security_of(split_url(url))  # a wrong parameter is found here, not by the first message


def security_of(url: SplitResult) -> BaseSecurity | None:
    """TLS and credentials as FastStream wants them; raises ConfigurationError."""
    asked = dict(parse_qsl(url.query))
    mechanism = asked.pop("sasl", "plain").lower()
    tls = asked.pop("tls", "false").lower() in {"true", "1", "yes"}
    if asked or mechanism not in _MECHANISMS:
        raise ConfigurationError(f"a Kafka URL knows tls=true and sasl={'|'.join(_MECHANISMS)} only")
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    if user:
        return _MECHANISMS[mechanism](unquote(user), unquote(password), use_ssl=tls)
    return BaseSecurity(use_ssl=True) if tls else None


@lru_cache(100_000)
def _partition_of(key: bytes, partitions: int) -> int:
    """As Java's clients do; in Python a third of the price of a message."""
    return int(DefaultPartitioner()(key, list(range(partitions)), []))


async def _reach_one_of(servers: list[str]) -> None:
    """Raises the OSError of the last one if nobody answers."""
    error: OSError = OSError("no server is given")
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError as failed:
            error = failed
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise error
