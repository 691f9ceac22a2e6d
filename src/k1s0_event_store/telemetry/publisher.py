"""A publisher that tells what it does, around any other one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind, get_current_span

from k1s0_event_store.message import Message
from k1s0_event_store.publisher import Publisher
from k1s0_event_store.telemetry import conventions as names
from k1s0_event_store.telemetry.context import carrying, context_of, links_to, within
from k1s0_event_store.telemetry.instruments import Instruments
from k1s0_event_store.telemetry.operation import Operation
from k1s0_event_store.telemetry.wrapping import AsyncWrapper

_SYSTEMS: Final[Mapping[str, str]] = {"amqp": "rabbitmq"}
"""Schemes of URLs that are not called like the broker."""


class TracedPublisher(AsyncWrapper[Publisher], Publisher):
    """A Publisher around `wrapped`: see Telemetry.publisher."""

    def __init__(self, wrapped: Publisher, instruments: Instruments) -> None:
        self.wrapped = wrapped
        self._instruments = instruments
        self._labels = {
            names.MESSAGING_SYSTEM: _system_of(wrapped),
            names.MESSAGING_OPERATION_NAME: "publish",
            names.MESSAGING_OPERATION_TYPE: "send",
        }

    async def publish(self, message: Message) -> None:
        self._instruments.sent.add(1, self._labels)
        with self._operation(message) as span:
            await self.wrapped.publish(carrying(message, span))

    def _operation(self, message: Message) -> Operation:
        """The span belongs to what is under way (the handling of an event), or to the message's trace."""
        created = context_of(message.headers)
        return Operation(
            self._instruments.tracer,
            self._instruments.publisher_seconds,
            f"publish {message.topic}",
            SpanKind.PRODUCER,
            self._labels,
            {names.MESSAGING_DESTINATION: message.topic, names.MESSAGING_MESSAGE_ID: message.message_id},
            context=None if created is None or _is_traced() else within(created),
            links=links_to([created], most=1),
        )


def _is_traced() -> bool:
    return get_current_span().get_span_context().is_valid


def _system_of(publisher: Publisher) -> str:
    """The broker, by the scheme of its URLs."""
    schemes: tuple[str, ...] = getattr(publisher, "schemes", ())
    return _SYSTEMS.get(schemes[0], schemes[0]) if schemes else names.SCOPE
