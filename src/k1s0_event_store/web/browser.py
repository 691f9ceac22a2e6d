"""What the pages of one stream browser share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

from starlette.applications import Starlette
from starlette.requests import Request

from k1s0_event_store.exceptions import SubscriptionNotFoundError
from k1s0_event_store.inspection import Interval
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.subscription import SubscriptionStatus, SubscriptionStore
from k1s0_event_store.web.access import Access
from k1s0_event_store.web.lag import LagHistory
from k1s0_event_store.web.live import Live
from k1s0_event_store.web.recent import Recent
from k1s0_event_store.web.sessions import Sessions
from k1s0_event_store.web.states import AggregateStates

SAMPLE_SECONDS: Final = 5.0
_TYPES_SECONDS: Final = 30.0


class Span(NamedTuple):
    """A stretch of time as intervals."""

    step: timedelta
    steps: int
    label: str
    each: str


SPANS: Final = {
    "day": Span(timedelta(hours=1), 24, "24 hours", "hour"),
    "hour": Span(timedelta(minutes=1), 60, "60 minutes", "minute"),
    "month": Span(timedelta(days=1), 30, "30 days", "day"),
}


class Browser:
    """The store, as it is shown, and who may see and do what."""

    def __init__(
        self,
        inspector: PostgresInspector,
        subscriptions: SubscriptionStore,
        states: AggregateStates,
        access: Access,
        sessions: Sessions,
        allow_actions: bool,
    ) -> None:
        self.inspector = inspector
        self.subscriptions = subscriptions
        self.states = states
        self.access = access
        self.sessions = sessions
        self.allow_actions = allow_actions
        self.lag = LagHistory()
        self.statuses = Recent(self._statuses, SAMPLE_SECONDS / 2)
        self.types = Recent(inspector.types, _TYPES_SECONDS)
        self.aggregate_types = Recent(inspector.aggregate_types, _TYPES_SECONDS)
        self.activity = {
            name: Recent(self._activity_of(span), SAMPLE_SECONDS / 2) for name, span in SPANS.items()
        }
        self.live = Live(inspector, self.statuses.get, sample_every=SAMPLE_SECONDS)

    async def close(self) -> None:
        """End what is live, and close the engine, unless it is the app's."""
        await self.live.close()
        await self.inspector.close()

    async def status(self, name: str, version: int) -> SubscriptionStatus:
        """One version of a subscription; raises SubscriptionNotFoundError."""
        for status in await self.statuses.get():
            if (status.name, status.version) == (name, version):
                return status
        raise SubscriptionNotFoundError(name, version)

    async def _statuses(self) -> Sequence[SubscriptionStatus]:
        statuses = await self.subscriptions.statuses()
        self.lag.add(statuses)
        return statuses

    def _activity_of(self, span: Span) -> Callable[[], Awaitable[Sequence[Interval]]]:
        async def ask() -> Sequence[Interval]:
            now = datetime.now(UTC)
            begun = now - (now - datetime.min.replace(tzinfo=UTC)) % span.step
            return await self.inspector.activity(begun - span.step * (span.steps - 1), span.step, span.steps)

        return ask


def browser_of(request: Request) -> Browser:
    """The browser that a request came to."""
    return browser_in(request.app)


def browser_in(app: Starlette) -> Browser:
    """The browser that an app shows."""
    return cast("Browser", app.state.browser)
