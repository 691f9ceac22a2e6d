"""NATS JetStream, through FastStream's broker over nats-py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import nats.errors
import nats.js.errors
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from k1s0_event_store.brokers.connection import CORRELATION, Connection, headers_of
from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.exceptions import BrokerUnavailableError, MessageRefusedError
from k1s0_event_store.message import Message

_FULL = frozenset({10077, 10076, 10122})
"""Error codes of a stream that takes nothing more for now: messages, bytes, of one subject."""
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What the binding of CloudEvents leaves as it is."""


class NatsConnection(Connection):
    """The acknowledgements of JetStream come to an inbox of ours.

    FastStream's publish into a stream takes twice as long, and nats-py's publish_async never ends
    when JetStream refuses, nor when the connection goes.
    """

    busy = (nats.js.errors.ServiceUnavailableError, nats.js.errors.ServerError)
    refusals = (
        nats.errors.MaxPayloadError,
        nats.errors.BadSubjectError,
        nats.errors.BadHeaderError,
        nats.js.errors.APIError,
        UnicodeError,
    )
    outages = (*Connection.outages, nats.errors.Error)

    _client: Client | None = None
    _subscription: Subscription | None = None
    _inbox = ""

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        super().__init__(url, timeout, options)
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._number = 0
        settings: dict[str, Any] = {
            "allow_reconnect": True,  # for connect(): else it leaves open what failed
            "max_reconnect_attempts": 1,  # of connect() too; 0 would be for ever
            "reconnect_time_wait": 0,
            "connect_timeout": timeout / 4,
            "disconnected_cb": self._disconnected,
            "logger": None,
            **options,
        }
        self._broker = NatsBroker(url, **settings)

    async def open(self) -> None:
        self._client = await self.connected(self._broker.connect())
        self._client.options["allow_reconnect"] = False
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(self, message: Message) -> None:
        own = {"Nats-Msg-Id": message.message_id, "key": message.key, "content-type": message.content_type}
        headers = headers_of(message, own, "ce-", _quoted)
        _check_lines(headers)
        self._number += 1
        token = str(self._number)
        self._answers[token] = answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.timeout):  # full buffers of a lost connection are never emptied
                await self._broker.publish(
                    message.body,
                    message.topic,
                    headers=headers,
                    correlation_id=message.headers.get(CORRELATION, message.message_id),
                    reply_to=f"{self._inbox}.{token}",
                )
            await self.acknowledged(answer)
        except nats.js.errors.NoStreamResponseError:
            await self._find_stream(message.topic)
        finally:
            del self._answers[token]

    async def _find_stream(self, subject: str) -> None:
        """Nobody took the message: no stream is for it (raises NotFoundError), or it has no leader now."""
        if self._client is None:
            return
        stream = await self._client.jetstream(timeout=self.timeout).find_stream_name_by_subject(subject)
        raise BrokerUnavailableError(f"the stream {stream} does not answer")

    async def _disconnected(self) -> None:
        self.abort(nats.errors.ConnectionClosedError())

    async def _answered(self, answer: Msg) -> None:
        waiting = self._answers.get(answer.subject.rpartition(".")[2])
        if waiting is None or waiting.done():
            return
        if (answer.headers or {}).get("Status") == "503":
            waiting.set_exception(nats.js.errors.NoStreamResponseError())
            return
        said = json.loads(answer.data)
        if error := said.get("error"):
            waiting.set_exception(_error_of(error))
        elif "stream" in said:  # else of somebody who listens to the subject too
            waiting.set_result(None)

    async def close(self) -> None:
        # Not the broker's stop(): it drains, and waits for a server that may not answer.
        if self._client is None:
            return
        try:
            if not self._client.is_closed:
                await self._client.close()
        finally:
            # What nats-py forgets when the server died with something unsent.
            if self._subscription is not None and self._subscription._wait_for_msgs_task is not None:
                self._subscription._wait_for_msgs_task.cancel()
            transport: Any = self._client._transport
            if transport is not None:
                transport.close()


class NatsPublisher(BrokerPublisher):
    """Publishes to the JetStream stream that has the subject; somebody else makes the stream.

    `nats://[user:password@]host:port`, or `tls://`. The id travels as `Nats-Msg-Id`, by which
    JetStream drops repetitions, attributes of a CloudEvent as `ce-...`, the key as `key`.
    """

    schemes = ("nats", "tls")
    connection = NatsConnection


def _check_lines(headers: Mapping[str, str]) -> None:
    """Headers are lines of text, and lose the blanks around them."""
    for pair in headers.items():
        for text in pair:
            if "\r" in text or "\n" in text or text != text.strip():
                raise MessageRefusedError(f"NATS has no header {pair[0]!r} with this value: {pair[1]!r:.100}")


def _error_of(error: dict[str, Any]) -> Exception:
    if error["err_code"] in _FULL:
        return nats.js.errors.ServiceUnavailableError(**error)
    try:
        nats.js.errors.APIError.from_error(error)
    except nats.js.errors.APIError as known:
        return known
    return nats.js.errors.APIError(**error)


def _quoted(value: str) -> str:
    return quote(value, safe=_PRINTABLE)
