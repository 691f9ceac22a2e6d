"""RabbitMQ, through FastStream's broker over aio-pika."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aio_pika.exceptions
import aiormq.exceptions
from aio_pika import RobustConnection
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange

from k1s0_event_store.brokers.connection import CORRELATION, Connection, headers_of
from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.config import join_url, split_url
from k1s0_event_store.exceptions import MessageRefusedError
from k1s0_event_store.message import Message

DEFAULT_EXCHANGE = "amq.topic"
_LONGEST = 255


class RabbitConnection(Connection):
    """With publisher confirms; a message for which no queue is bound comes back, and is refused."""

    busy = (aio_pika.exceptions.DeliveryError,)  # nacked: a queue is full
    refusals = (ValueError,)  # a routing key of more than 255 bytes
    # These close the channel, and with it all that is under way.
    collective = (
        aio_pika.exceptions.ChannelNotFoundEntity,  # no such exchange
        aio_pika.exceptions.ChannelPreconditionFailed,  # larger than max_message_size
        aiormq.exceptions.ChannelAccessRefused,
    )
    outages = (
        *Connection.outages,
        aio_pika.exceptions.AMQPError,
        aio_pika.exceptions.ChannelInvalidStateError,
    )

    _connection: RobustConnection | None = None

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, timeout, options)
        known_url, exchange = split_exchange(url)
        self._exchange = RabbitExchange(exchange, declare=False)
        settings: dict[str, Any] = {
            "default_channel": Channel(publisher_confirms=True, on_return_raises=True),
            "timeout": timeout / 2,
            "fail_fast": True,
            "logger": None,
            **options,
        }
        self._broker = RabbitBroker(known_url, **settings)

    async def open(self) -> None:
        self._connection = await self.connected(self._broker.connect())
        await self._broker.declare_exchange(self._exchange)  # looked up once, not by every first publish

    async def publish(self, message: Message) -> None:
        headers: dict[str, Any] = {**headers_of(message, {"key": message.key}, "cloudEvents:")}
        correlation_id = message.headers.get(CORRELATION, message.message_id)
        _check_lengths(message.message_id, message.content_type, correlation_id, *headers)
        try:
            async with asyncio.timeout(self.timeout):
                await self._broker.publish(
                    message.body,
                    exchange=self._exchange,
                    routing_key=message.topic,
                    headers=headers,
                    persist=True,
                    message_id=message.message_id,
                    correlation_id=correlation_id,
                    content_type=message.content_type,
                )
        except aio_pika.exceptions.PublishError as error:
            raise MessageRefusedError(f"no queue is bound for the routing key {message.topic}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # aio-pika cancels who waits for a channel that closes; nobody has cancelled us.
            raise ConnectionAbortedError("the channel was closed") from error

    async def close(self) -> None:
        if self._connection is not None:
            # Else stop() would close the channel first, and wait for a broker that does not answer.
            with contextlib.suppress(Exception):
                await self._connection.close()
        await self._broker.stop()


class RabbitPublisher(BrokerPublisher):
    """Publishes to a topic exchange that exists, persistent, with the topic as routing key.

    `amqp://[user:password@]host:port/[vhost][?exchange=amq.topic]`, or `amqps://`. Id and content type
    are the message's properties; attributes of a CloudEvent are headers `cloudEvents:...`, the key is
    the header `key`.
    """

    schemes = ("amqp", "amqps")
    connection = RabbitConnection


def _check_lengths(*texts: str) -> None:
    """AMQP has short strings for properties and names; a longer one would close the channel."""
    for text in texts:
        if len(text.encode()) > _LONGEST:
            raise MessageRefusedError(
                f"RabbitMQ takes no id, type or name of a header of over {_LONGEST} bytes"
            )


def split_exchange(url: str) -> tuple[str, str]:
    """The URL as the library knows it, and the exchange."""
    parts = split_url(url)
    query: dict[str, Any] = dict(parse_qsl(parts.query))
    exchange = query.pop("exchange", DEFAULT_EXCHANGE)
    return join_url(parts._replace(query=urlencode(query))), exchange
