"""Redis Streams, through FastStream's broker over redis-py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import redis.exceptions
from faststream.redis import RedisBroker
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from k1s0_event_store.brokers.batching import Batches
from k1s0_event_store.brokers.connection import Connection, headers_of
from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.message import Message

_LARGEST_PIPELINE = 500

_Fields: TypeAlias = tuple[str, Any]
"""A topic, and the fields of a message."""


class RedisConnection(Connection):
    """XADD, with plain fields. What is asked for at the same time travels in one pipeline."""

    busy = (redis.exceptions.OutOfMemoryError, redis.exceptions.TryAgainError)
    outages = (
        *Connection.outages,
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
    )
    refusals = (*Connection.refusals, redis.exceptions.ResponseError, redis.exceptions.DataError)

    _client: Redis

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, timeout, options)
        self._batches = Batches(self._sent, _LARGEST_PIPELINE)
        settings: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # else a pipeline that failed is sent again
            "logger": None,
            **options,
        }
        self._broker = RedisBroker(url, **settings)

    async def open(self) -> None:
        self._client = await self._broker.connect()
        await self._client.ping()

    async def publish(self, message: Message) -> None:
        own = {"key": message.key, "message_id": message.message_id, "content_type": message.content_type}
        headers = headers_of(message, {**own, "body": ""}, "ce_")
        # Encoded here: what cannot be would refuse the whole batch.
        fields = {name.encode(): value.encode() for name, value in headers.items()}
        fields[b"body"] = message.body
        try:
            await self.acknowledged(self._batches.add((message.topic, fields)))
        except redis.exceptions.ReadOnlyError as error:  # no master any more: a new connection may find it
            raise ConnectionAbortedError(str(error)) from error

    async def _sent(self, batch: Sequence[_Fields]) -> list[Any]:
        """The answers to a batch, each an id or an error."""
        async with self._client.pipeline(transaction=False) as pipe:
            for topic, fields in batch:
                pipe.xadd(topic, fields)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    async def close(self) -> None:
        self._batches.cancel()
        await self._broker.stop()

    def abort(self, reason: BaseException) -> None:
        super().abort(reason)
        self._batches.cancel()


class RedisPublisher(BrokerPublisher):
    """Publishes with XADD to the Redis stream that is called as the topic.

    `redis://[user:password@]host:port/[database]`, or `rediss://`. The fields are `body`, `key`,
    `message_id`, `content_type`, the attributes of a CloudEvent as `ce_...`, and the headers.
    """

    schemes = ("redis", "rediss")
    connection = RedisConnection
