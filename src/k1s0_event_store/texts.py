"""The JSON of a batch of events, made once for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from k1s0_event_store.envelope import EventEnvelope, json_texts
from k1s0_event_store.exceptions import InvalidEventError
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits

Texts: TypeAlias = tuple[list[str], list[str]]
"""Payloads and metadata of events, in their order."""


def texts_of(events: Sequence[EventEnvelope], limits: Limits = DEFAULT_LIMITS) -> Texts:
    """Encode what is not text yet; raises InvalidEventError, LimitExceededError."""
    payloads, metadata = [], []
    for place, event in enumerate(events):
        try:
            texts = json_texts(event)
        except ValueError as exc:
            limits.check_nesting(event.payload, event.metadata, index=place)
            raise InvalidEventError(event.stream_id, place, f"payload or metadata {exc}") from exc
        payloads.append(texts[0])
        metadata.append(texts[1])
    if not limits.are_far_from(payloads, metadata):
        limits.check_texts("payload", payloads)
        limits.check_texts("metadata", metadata)
    return payloads, metadata
