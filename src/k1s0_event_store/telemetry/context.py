"""Trace contexts in the metadata of events and the headers of messages, as W3C traceparent and tracestate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from k1s0_event_store.envelope import EventEnvelope, changed
from k1s0_event_store.message import Message

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_W3C: Final = TraceContextTextMapPropagator()


def carrier_of(span: Span) -> dict[str, str]:
    """What tells others of `span`; nothing where nobody traces."""
    carrier: dict[str, str] = {}
    if span.get_span_context().is_valid:
        _W3C.inject(carrier, set_span_in_context(span))
    return carrier


def context_of(carrier: Mapping[str, Any]) -> SpanContext | None:
    """The context in metadata or headers; None if there is none that can be read."""
    texts = {name: carrier.get(name) for name in (TRACEPARENT, TRACESTATE)}
    found = {name: text for name, text in texts.items() if isinstance(text, str)}
    if TRACEPARENT not in found:
        return None
    context = get_current_span(_W3C.extract(found, Context())).get_span_context()
    return context if context.is_valid else None


def within(context: SpanContext) -> Context:
    """The current context, with the span of `context` as the parent of what begins."""
    return set_span_in_context(NonRecordingSpan(context))


def links_to(contexts: Iterable[SpanContext | None], most: int) -> list[Link]:
    """A link to each of the contexts, at most so many."""
    found: dict[tuple[int, int], Link] = {}
    for context in contexts:
        if context is not None and context.is_valid:
            found.setdefault((context.trace_id, context.span_id), Link(context))
            if len(found) == most:
                break
    return list(found.values())


def with_carrier(given: Mapping[str, Any], carrier: Mapping[str, str]) -> Mapping[str, Any]:
    """`given`, and the carrier; a context of another trace stays as it is.

    One of the same trace was handed on to it: by the event that is its cause, or by the caller.
    """
    known, new = given.get(TRACEPARENT), carrier.get(TRACEPARENT)
    if new is None or known == new or (known is not None and _trace_of(known) != _trace_of(new)):
        return given
    return {**given, **carrier}


def _trace_of(traceparent: object) -> str:
    return traceparent[:35] if isinstance(traceparent, str) else ""


def carrying(message: Message, span: Span) -> Message:
    """`message` with the context of `span` in its headers."""
    headers = with_carrier(message.headers, carrier_of(span))
    return message if headers is message.headers else replace(message, headers=headers)


def carried(events: object, carrier: Mapping[str, str]) -> Sequence[EventEnvelope]:
    """Copies of `events` with the carrier in their metadata; what cannot be appended is left to the store."""
    untouched = not carrier and isinstance(events, Sequence)
    if untouched or isinstance(events, EventEnvelope) or not isinstance(events, Iterable):
        return cast("Sequence[EventEnvelope]", events)
    return [_carried(event, carrier) if isinstance(event, EventEnvelope) else event for event in events]


def _carried(event: EventEnvelope, carrier: Mapping[str, str]) -> EventEnvelope:
    metadata = with_carrier(event.metadata, carrier)
    return event if metadata is event.metadata else changed(event, metadata=metadata)
