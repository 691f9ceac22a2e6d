"""Subscriptions whose handlers are traced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from opentelemetry.trace import SpanContext, SpanKind, get_current_span

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.subscription import Subscription
from k1s0_event_store.telemetry import conventions as names
from k1s0_event_store.telemetry.context import context_of, links_to, within
from k1s0_event_store.telemetry.instruments import Instruments
from k1s0_event_store.telemetry.operation import Attributes, Operation

S = TypeVar("S", bound=Subscription)
Call = Callable[..., Awaitable[object]]

_CONTINUED_FOR: Final = timedelta(hours=1)
"""Older events are linked to: a rebuild would add to traces that nobody looks at any more."""
_MOST_LINKS: Final = 128
"""What the SDK keeps of a span, unless it is told otherwise."""


def traced(subscription: S, instruments: Instruments) -> S:
    """A copy of the subscription whose handler runs in a span, with the context of its events."""
    handler, signals = subscription.handler, _Signals(instruments, subscription)
    call = signals.around_batch(handler.call) if handler.batch else signals.around("handle", handler.call)
    side_effect = handler.side_effect
    if side_effect is not None:
        side_effect = signals.around("side_effect", side_effect)
    copied = copy(subscription)
    copied.handler = replace(handler, call=call, side_effect=side_effect)
    return copied


class _Signals:
    """What is told of one subscription's handler."""

    def __init__(self, instruments: Instruments, subscription: Subscription) -> None:
        self._instruments = instruments
        self._name = subscription.name
        self._labels: Attributes = {
            names.MESSAGING_SYSTEM: names.SCOPE,
            names.MESSAGING_OPERATION_TYPE: "process",
            names.MESSAGING_SUBSCRIPTION: subscription.name,
            names.VERSION: subscription.version,
        }

    def around(self, operation: str, call: Call) -> Call:
        """`call` for one event at a time."""

        async def handle(event: EventEnvelope, *session: Any) -> None:
            with self._of_one(operation, event):
                await call(event, *session)

        return handle

    def around_batch(self, call: Call) -> Call:
        """`call` for many events at a time."""

        async def handle_batch(events: Sequence[EventEnvelope], *session: Any) -> None:
            with self._of_many(events):
                await call(events, *session)

        return handle_batch

    def _of_one(self, operation: str, event: EventEnvelope) -> Operation:
        """A part of the trace of the event, with links to it and to what is under way."""
        created, current = context_of(event.metadata), get_current_span().get_span_context()
        details = {
            names.MESSAGING_MESSAGE_ID: str(event.event_id),
            names.AGGREGATE_TYPE: event.stream_id.aggregate_type,
            names.EVENT_TYPE: event.event_type,
        }
        parent = created if created is not None and _is_recent(event) else None
        return self._operation(operation, details, [created, *([] if parent is None else [current])], parent)

    def _of_many(self, events: Sequence[EventEnvelope]) -> Operation:
        """A trace of its own, or a part of what is under way, with links to the events' traces."""
        contexts = (context_of(event.metadata) for event in events)
        return self._operation("handle", {names.MESSAGING_BATCH_COUNT: len(events)}, contexts)

    def _operation(
        self,
        operation: str,
        details: Attributes,
        contexts: Iterable[SpanContext | None],
        parent: SpanContext | None = None,
    ) -> Operation:
        return Operation(
            self._instruments.tracer,
            self._instruments.handler_seconds,
            f"{operation} {self._name}",
            SpanKind.CONSUMER,
            {**self._labels, names.MESSAGING_OPERATION_NAME: operation},
            details,
            context=None if parent is None else within(parent),
            links=links_to(contexts, _MOST_LINKS),
        )


def _is_recent(event: EventEnvelope) -> bool:
    return event.recorded_at is None or datetime.now(UTC) - event.recorded_at < _CONTINUED_FOR
