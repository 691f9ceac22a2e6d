"""Metadata that flows by itself: who acts, for whom, in which trace, and what caused it.

`with event_metadata(...)` holds for everything that is appended inside, also by tasks that are started
there and in `asyncio.to_thread`; threads of one's own begin without. While a subscription's handler
works on an event, that event is the cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from k1s0_event_store.envelope import EventEnvelope

CORRELATION_ID: Final = "correlation_id"
"""The same in all that came of one request."""
CAUSATION_ID: Final = "causation_id"
"""The event id of what this is a reaction to."""
PERSONAL_KEYS: Final = "personal_keys"
"""Ids of the keys that an event needs; once it is read, those that it was read with."""
INHERITED: Final = (CORRELATION_ID, "actor", "tenant", "trace_id", "traceparent")
"""What an event hands on to those it causes."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class _Flow(NamedTuple):
    """What holds now: the event that is the cause, the values around its handling, and those inside."""

    around: Mapping[str, Any] = _NOTHING
    cause: EventEnvelope | None = None
    inside: Mapping[str, Any] = _NOTHING


_flow: ContextVar[_Flow] = ContextVar("k1s0_event_store.metadata", default=_Flow())  # noqa: B039  # it is immutable


@contextmanager
def event_metadata(**values: Any) -> Iterator[None]:
    """Add `values` to the metadata of the events appended inside; None takes a name away.

    Usual names: correlation_id, causation_id, actor, tenant, trace_id, traceparent. What is given
    with an append wins over them, and the innermost block over those around it.
    """
    flow = _flow.get()
    token = _flow.set(flow._replace(inside={**flow.inside, **values}))
    try:
        yield
    finally:
        _flow.reset(token)


class caused_by:
    """Events appended inside are reactions to `event`: subscriptions say so around their handlers.

    They get its id as `causation_id`, its `correlation_id` (or its id, if it begins the chain), and
    its actor, tenant and trace ids. These win over the blocks around it, too.
    """

    __slots__ = ("_event", "_token")

    def __init__(self, event: EventEnvelope) -> None:
        self._event = event

    def __enter__(self) -> None:
        flow = _flow.get()
        around = {**flow.around, **flow.inside} if flow.inside else flow.around
        self._token = _flow.set(_Flow(around, self._event))

    def __exit__(self, *_exc: object) -> None:
        _flow.reset(self._token)


def current_metadata() -> dict[str, Any]:
    """The metadata that an event appended now would get."""
    around, cause, inside = _flow.get()
    if cause is None and not inside:
        return {}
    handed_on = {} if cause is None else _handed_on(cause)
    return {name: value for name, value in {**around, **handed_on, **inside}.items() if value is not None}


def _handed_on(cause: EventEnvelope) -> dict[str, Any]:
    event_id = str(cause.event_id)
    known = {name: cause.metadata.get(name) for name in INHERITED}
    inherited = {name: value for name, value in known.items() if value is not None}
    return {CORRELATION_ID: event_id, **inherited, CAUSATION_ID: event_id}
