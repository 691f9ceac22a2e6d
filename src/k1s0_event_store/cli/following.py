"""The feed as it grows: every event once, also across an outage of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.exceptions import StoreUnavailableError
from k1s0_event_store.feed import FIRST_PAGE, Cursor, EventFilter, FeedPage
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.postgres.subscription import PostgresSubscriptionStore
from k1s0_event_store.waiting import wait_for_event

_POLL_SECONDS: Final = 0.5
_OUTAGE_PAUSE: Final = 1.0

Tell = Callable[[str], None]


async def follow(
    store: PostgresEventStore, only: EventFilter, *, from_start: bool, tell: Tell
) -> AsyncGenerator[EventEnvelope, None]:
    """Events from now on, or from the first one, for ever; `tell` is told of outages of the database.

    Looks at the feed when an app notifies of an append, and twice a second.
    """
    now = await store.latest_cursor()
    after, limit, bell = None if from_start else now, FIRST_PAGE, asyncio.Event()
    async with PostgresSubscriptionStore(store.config, bind=store.bind).listen(bell.set):
        while True:
            bell.clear()
            page = await _read(store, after, limit, only, tell)
            for event in page.events:
                yield event
            after, limit = page.cursor, page.next_limit()
            if not page.more:
                await wait_for_event(bell, _POLL_SECONDS)


async def _read(
    store: PostgresEventStore, after: Cursor | None, limit: int, only: EventFilter, tell: Tell
) -> FeedPage:
    """A page; waits for a database that is away, but not for one that refuses this user."""
    is_waiting = False
    while True:
        try:
            page = await store.read_page(after, limit, only=only)
        except StoreUnavailableError as error:
            if not error.retryable:
                raise
            if not is_waiting:
                tell(f"waiting for the database: {error}")
            is_waiting = True
            await asyncio.sleep(_OUTAGE_PAUSE)
        else:
            if is_waiting:
                tell("the database is back")
            return page
