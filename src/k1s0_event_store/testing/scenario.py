"""Given events, then rows: the handler of a projection tested without a runner.

async with ProjectionScenario(projection, session) as scenario:
    await scenario.given(order, EventEnvelope(order, "OrderPlaced", {"total": 12}))
    await scenario.then(select(Total.order_id, Total.amount), [("o-1", 12)])
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Self

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.feed import FIRST_PAGE, Cursor
from k1s0_event_store.memory import InMemoryEventStore
from k1s0_event_store.subscription import Subscription

Rows = list[tuple[Any, ...]]


class ProjectionScenario:
    """Gives events to the handler of `subscription` as a runner does, in memory and at once.

    Events get versions and positions, filters and `where` are applied, handlers for many events get
    up to `batch_size` of one `given`, side effects are fired. An error of the handler is raised:
    nothing is retried or parked. `session` is what the handler writes through and `then` reads
    through; it is neither committed nor closed. Without one a projection gets None. `handled` are
    the events that reached the handler.
    """

    def __init__(self, subscription: Subscription, session: Any = None) -> None:
        self.handled: list[EventEnvelope] = []
        self._subscription = subscription
        self._session = session
        self._store = InMemoryEventStore()
        self._cursor: Cursor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._store.close()

    async def given(self, stream_id: StreamId, *events: EventEnvelope) -> None:
        """Append events and have them handled; raises what the handler raises, and InvalidInputError."""
        await self._store.append(stream_id, events)
        wanted = await self._read()
        size = self._subscription.batch_size
        for start in range(0, len(wanted), size):
            await self._handle(wanted[start : start + size])

    async def then(self, query: Any, rows: Iterable[Sequence[Any]]) -> None:
        """Execute `query` and compare its rows; their order matters if the query has an ORDER BY.

        Raises AssertionError with what differs, and ConfigurationError without a session.
        """
        if self._session is None:
            raise ConfigurationError("to look at rows the scenario needs a session; give it one")
        result = self._session.execute(query)
        if inspect.isawaitable(result):
            result = await result
        found, expected = [tuple(row) for row in result], [tuple(row) for row in rows]
        missing, unexpected = _without(expected, found), _without(found, expected)
        is_ordered = "order by" in str(query).lower()
        if missing or unexpected or (is_ordered and found != expected):
            raise AssertionError(self._difference(found, missing, unexpected))

    async def _read(self) -> list[EventEnvelope]:
        """The wanted ones of the events that were appended last."""
        where, more = self._subscription.where, True
        events: list[EventEnvelope] = []
        while more:
            page = await self._store.read_page(self._cursor, FIRST_PAGE, only=self._subscription.only)
            self._cursor, more = page.cursor, page.more
            events += page.events if where is None else filter(where, page.events)
        return events

    async def _handle(self, events: Sequence[EventEnvelope]) -> None:
        handler = self._subscription.handler
        await handler(events, *([self._session] if self._subscription.transactional else []))
        self.handled += events
        await handler.fire(events)

    def _difference(self, found: Rows, missing: Rows, unexpected: Rows) -> str:
        lines = [f"{self._subscription}: other rows than expected after {len(self.handled)} handled events"]
        if missing or unexpected:
            lines += [*_listed("missing:", missing), *_listed("not expected:", unexpected)]
        else:
            lines += _listed("found in this order:", found)
        return "\n".join(lines)


def _without(rows: Rows, others: Rows) -> Rows:
    """`rows`, each of `others` taken away once; rows need not be hashable."""
    left = list(rows)
    for row in others:
        if row in left:
            left.remove(row)
    return left


def _listed(title: str, rows: Rows) -> list[str]:
    return [title, *(f"  {row!r}" for row in rows)] if rows else []
