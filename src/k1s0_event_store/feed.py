"""The feed: all events of a store in one order, page by page, and places in it to go on from.

Order. Events come by position within what one page sequence sees; what commits later comes later,
also where its position is smaller. Each stream stays in order, and an event never comes before one
that its writer could see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from k1s0_event_store.envelope import EventEnvelope, check_name
from k1s0_event_store.exceptions import InvalidInputError, shown
from k1s0_event_store.garbage import CollectionPaused

FIRST_PAGE: Final = 100
LARGEST_PAGE: Final = 500
"""What fits into a socket's buffer: the server can finish a page while the one before is in use."""
_PAGE_BYTES: Final = 4_000_000
_LONGEST_CURSOR: Final = 100_000

Where = Callable[[EventEnvelope], bool]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the feed: all before it has been read. `str(cursor)` can be stored, `Cursor(text)` goes on.

    Only the store that made it, or a copy of its database, can read it. Raises InvalidInputError.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not 0 < len(self.text) <= _LONGEST_CURSOR:
            raise InvalidInputError(f"a cursor is the text of an earlier one, not {shown(self.text)}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of the feed are wanted: of these types (None: all), of this partition by stream."""

    aggregate_types: tuple[str, ...] | None = None
    event_types: tuple[str, ...] | None = None
    partition: int = 0
    partitions: int = 1

    @classmethod
    def of(cls, aggregate_types: Sequence[str] | None, event_types: Sequence[str] | None) -> Self:
        """A filter from what callers give; raises InvalidInputError."""
        return cls(_names(aggregate_types, "aggregate_types"), _names(event_types, "event_types"))

    def wants_type(self, aggregate_type: str, event_type: str) -> bool:
        """True if events of these types are wanted."""
        return (self.aggregate_types is None or aggregate_type in self.aggregate_types) and (
            self.event_types is None or event_type in self.event_types
        )


EVERYTHING: Final = EventFilter()


def _names(names: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence | set | frozenset):
        raise InvalidInputError(f"{what} must be a list of names, not {shown(names)}")
    return tuple(check_name(name, f"every one of {what}") for name in names)


class FeedPage:
    """Some events of the feed, and how to go on.

    `cursor` stands after the page; `more` says that there is more to read now. A page without
    events can have more: nothing in the part that was looked at was wanted. `end` is the place that
    stands after what was committed when this reading began (None: not known). `events` are made
    when they are first asked for.
    """

    def __init__(
        self,
        cursor: Cursor,
        more: bool,
        make_events: Callable[[], Iterable[EventEnvelope]],
        cursor_at: Callable[[int], Cursor],
        mean_bytes: int = 0,
        end: Cursor | None = None,
    ) -> None:
        self.cursor = cursor
        self.more = more
        self.end = end
        self._make_events = make_events
        self.cursor_at = cursor_at
        self.mean_bytes = mean_bytes

    @cached_property
    def events(self) -> list[EventEnvelope]:
        """The events, by position."""
        with CollectionPaused():
            return list(self._make_events())

    def each(self) -> Iterator[EventEnvelope]:
        """The events one by one, made on the way: for those who keep none."""
        return iter(self._make_events())

    def cursor_after(self, event: EventEnvelope) -> Cursor:
        """The place after one of the page's events."""
        return self.cursor_at(event.position or 0)

    def next_limit(self, largest: int = LARGEST_PAGE) -> int:
        """Events for the next page, so that it stays near 4 MB, judged by this one."""
        return page_size(self.mean_bytes, largest)


def page_size(mean_bytes: int, largest: int = LARGEST_PAGE) -> int:
    """Events per page of about 4 MB."""
    return max(1, min(largest, _PAGE_BYTES // (mean_bytes + 1)))


class _Place:
    """Where a reader of pages stands.

    It knows nothing of the reader: what a generator holds must not hold the generator, or who leaves a
    reading by `break` leaves it to the garbage collector.
    """

    def __init__(self, after: Cursor | None) -> None:
        self.before = after
        self._page: FeedPage | None = None
        self.event: EventEnvelope | None = None

    @property
    def cursor(self) -> Cursor | None:
        """The place after the last event that was given; None: at the beginning."""
        if self._page is None or self.event is None:
            return self.before
        return self._page.cursor_after(self.event)

    def turn_to(self, page: FeedPage) -> None:
        self._page, self.event = page, None

    def finish(self, page: FeedPage) -> None:
        self.before, self.event = page.cursor, None


class AllEvents(AsyncIterator[EventEnvelope]):
    """What `read_all` gives: events one by one, and in `cursor` the place to go on from."""

    def __init__(
        self,
        read: Callable[..., Awaitable[FeedPage]],
        after: Cursor | None = None,
        where: Where | None = None,
        ahead: bool = False,
    ) -> None:
        self._place = _Place(after)
        self._events = _give(_Pages(read, after, ahead), self._place, where)

    @property
    def cursor(self) -> Cursor | None:
        """The place after the last event that was given; None: at the beginning."""
        return self._place.cursor

    def __anext__(self) -> Awaitable[EventEnvelope]:
        return self._events.__anext__()

    async def aclose(self) -> None:
        """Stop reading; nothing of it is left under way."""
        await self._events.aclose()


async def _give(pages: _Pages, place: _Place, where: Where | None) -> AsyncGenerator[EventEnvelope, None]:
    try:
        async for page in pages:
            place.turn_to(page)
            for event in page.each():
                place.event = event
                if where is None or where(event):
                    yield event
            place.finish(page)
    finally:
        await pages.aclose()


class _Pages(AsyncIterator[FeedPage]):
    """The pages after a place. With `ahead`, from the second on, the next is fetched while one is in use.

    No generator: one that the collector finds together with its reader is closed by both of them.
    """

    def __init__(self, read: Callable[..., Awaitable[FeedPage]], after: Cursor | None, ahead: bool) -> None:
        self._read = read
        self._after = after
        self._ahead = ahead
        self._page: FeedPage | None = None
        self._coming: asyncio.Future[FeedPage] | None = None

    async def __anext__(self) -> FeedPage:
        last = self._page
        if last is None:
            self._page = await self._read(self._after, FIRST_PAGE)
            return self._page
        if not last.more:
            raise StopAsyncIteration
        self._page = await (self._coming or self._read_after(last))
        self._coming = None
        if self._ahead and self._page.more:
            self._coming = asyncio.ensure_future(self._read_after(self._page))
            await asyncio.sleep(0)  # lets it send its query
        return self._page

    def _read_after(self, page: FeedPage) -> Awaitable[FeedPage]:
        return self._read(page.cursor, page.next_limit(), until=page.end)

    async def aclose(self) -> None:
        """End what is under way."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)


class SyncAllEvents(Iterator[EventEnvelope]):
    """AllEvents for blocking code."""

    def __init__(
        self,
        read: Callable[..., FeedPage],
        after: Cursor | None = None,
        where: Where | None = None,
    ) -> None:
        self._place = _Place(after)
        self._events = _give_blocking(read, self._place, where)

    @property
    def cursor(self) -> Cursor | None:
        """The place after the last event that was given; None: at the beginning."""
        return self._place.cursor

    def __next__(self) -> EventEnvelope:
        return next(self._events)


def _give_blocking(
    read: Callable[..., FeedPage], place: _Place, where: Where | None
) -> Iterator[EventEnvelope]:
    more, limit, end = True, FIRST_PAGE, None
    while more:
        page = read(place.before, limit, until=end)
        place.turn_to(page)
        for event in page.each():
            place.event = event
            if where is None or where(event):
                yield event
        place.finish(page)
        more, limit, end = page.more, page.next_limit(), page.end


def check_page(after: object, limit: object, until: object) -> None:
    """Check what `read_page` is given; raises InvalidInputError."""
    for cursor in (after, until):
        if cursor is not None:
            check_cursor(cursor)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= 100_000:
        raise InvalidInputError(f"limit must be a number of events from 1 to 100,000, not {shown(limit)}")


def check_cursor(cursor: object) -> None:
    """Check that it is a cursor; raises InvalidInputError."""
    if not isinstance(cursor, Cursor):
        raise InvalidInputError(f"a place in the feed is a Cursor, not {shown(cursor)}")
