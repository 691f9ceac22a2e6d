"""Reading the chain: is it unbroken, and what are the links of the events up to a position?

The links are made anew in Python from what the tables hold: no function of the server is asked for them.
Every page is one statement; writers may go on, they only add to the ends of streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic
from typing import Any, Final

from k1s0_event_store.chain import BEGINNING, Content, Stretch, Summary, link
from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import ConfigurationError, EventStoreError
from k1s0_event_store.feed import FIRST_PAGE, page_size
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind, Rows
from k1s0_event_store.postgres.errors import ReadOnlyError
from k1s0_event_store.postgres.schema import CHAIN, layers
from k1s0_event_store.postgres.statements import Query, schema_names, statement
from k1s0_event_store.postgres.verification import Fault, Looked, Watch

PAGE: Final = 5_000
LINKS_PAGE: Final = 20_000
_POLL: Final = 0.1
"""Seconds between two looks at who is still running."""
_EPOCH: Final = 946_684_800_000_000
"""Microseconds from 1970 to 2000, which PostgreSQL counts from."""
_LOWEST: Final = -(2**63)

# With ties: where the unique key is gone, events of the same version belong to one page.
_EVENTS: Final = """
SELECT aggregate_type, aggregate_id, version, event_id::text, event_type, timestamptz_send(occurred_at),
       timestamptz_send(recorded_at), payload::text, metadata::text, chain
FROM {events}
WHERE (aggregate_type, aggregate_id, version) > ($1::text, $2::text, $3::bigint) {of_type}
ORDER BY aggregate_type, aggregate_id, version FETCH FIRST ($4::bigint) ROWS WITH TIES"""

_LINKS: Final = """
SELECT position, coalesce(chain, '') FROM {events} WHERE position > $1::bigint AND position <= $2::bigint
ORDER BY position FETCH FIRST ($3::bigint) ROWS WITH TIES"""

# Whoever has drawn a lower position has a lower transaction id: an append moves a head first, which needs
# one, and draws then; this id is drawn after the moment in which the position is looked for. The xmax of
# that moment would not do: it is the id after the last one that is over, and lower ones are not all that run.
_NEWEST: Final = """
SELECT coalesce(max(position), 0),
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_xact_id()::text::bigint END
FROM {events}"""
_OLDEST_RUNNING: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

_COMPARE: Final = "somebody has written past the library: restore a backup, and compare this event with it"


class PostgresChain(AsyncClient, AsyncClosing):
    """The chain of a store on PostgreSQL: looked through for breaks, and summed up for signed heads.

    Made as a PostgresEventStore is: from a configuration, or on an engine of the app's as `bind`.
    """

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        names = schema_names(self.config.schema)
        self._all = statement(_EVENTS.replace("{of_type}", ""), **names)
        self._of_type = statement(_EVENTS.replace("{of_type}", "AND aggregate_type = $5::text"), **names)
        self._links = statement(_LINKS, **names)
        self._newest = statement(_NEWEST, **names)

    async def check(self) -> None:
        """Raise ConfigurationError where the events are not chained."""
        if CHAIN not in await self._run(layers(self.config.schema)):
            raise ConfigurationError(
                f'the events in schema "{self.config.schema}" are not chained: k1s0-event-store chain add'
            )

    async def faults(
        self,
        aggregate_type: str | None = None,
        *,
        page: int = PAGE,
        watch: Watch = lambda looked: None,
    ) -> AsyncIterator[Fault]:
        """The first broken link of each stream; of one aggregate type, if one is given.

        At most `page` events are looked at in one statement; `watch` is told after each. Raises
        EventStoreError, ConfigurationError where the events are not chained.
        """
        await self.check()
        follower, looked_at = _Follower(), 0
        async for rows in self._pages_of_events(aggregate_type, page):
            for fault in follower.faults(rows):
                yield fault
            looked_at += len(rows)
            watch(Looked("links", looked_at))

    async def _pages_of_events(self, aggregate_type: str | None, largest: int) -> AsyncIterator[Rows]:
        sql = self._all if aggregate_type is None else self._of_type
        of_type = () if aggregate_type is None else (aggregate_type,)
        after: tuple[object, ...] = (aggregate_type or "", "", 0)
        limit = min(FIRST_PAGE, largest)
        while True:
            rows = await self._runner.fetch(Query(sql, (*after, limit, *of_type)))
            yield rows
            if len(rows) < limit:
                return
            after = tuple(rows[-1][:3])
            limit = page_size(sum(len(row[7]) + len(row[8]) for row in rows) // len(rows), largest)

    async def settled(self, wait: float) -> int:
        """The newest position (0: there is none), as soon as no event can come at or below it any more.

        Waits for the transactions that were running when it was looked for, in any database of the cluster
        and with or without events of ours. Raises EventStoreError where one runs for longer than `wait`
        seconds.
        """
        await self.check()
        ((newest, asked),) = await self._runner.fetch(Query(self._newest))
        if asked is None:
            raise ReadOnlyError("a standby does not know who is writing: sign on the primary", "25006")
        end = monotonic() + wait
        while (await self._oldest_running()) < asked:
            if monotonic() > end:
                raise EventStoreError(
                    f"a transaction that was open {wait:g} s ago is still open, and may have events below "
                    f"position {newest}: end it (k1s0-event-store doctor shows open transactions), "
                    "or wait longer; nothing was signed"
                )
            await asyncio.sleep(_POLL)
        return int(newest)

    async def _oldest_running(self) -> int:
        ((oldest,),) = await self._runner.fetch(Query(statement(_OLDEST_RUNNING)))
        return int(oldest)

    async def stretch(self, after: int | None, to: int, *, page: int = LINKS_PAGE) -> Stretch:
        """The events after a position (None: from the first on) and up to another one, by their links.

        What stands at the same position, which should not be, is sorted by its links.
        """
        place, summary, count = _LOWEST if after is None else after, Summary(), page
        while count >= page:
            rows = await self._runner.fetch(Query(self._links, (place, to, page)))
            links = sorted((row[0], bytes(row[1])) for row in rows)
            summary.add(each for _, each in links)
            count, place = len(links), links[-1][0] if links else place
        return summary.stretch()


class _Follower:
    """Follows one stream after the other along its links."""

    def __init__(self) -> None:
        self._stream: tuple[str, str] | None = None
        self._version = 0
        self._link = BEGINNING
        self._is_broken = False

    def faults(self, rows: Rows) -> Iterator[Fault]:
        """The first fault of each stream in `rows`, which go on where those before ended."""
        for aggregate_type, aggregate_id, version, *rest in rows:
            if (aggregate_type, aggregate_id) != self._stream:
                self._stream, self._version = (aggregate_type, aggregate_id), 0
                self._link, self._is_broken = BEGINNING, False
            if self._is_broken:
                continue
            problem = self._follow(Content(aggregate_type, aggregate_id, version, *_read(rest)), rest[-1])
            if problem is not None:
                self._is_broken = True
                yield Fault(problem, _COMPARE, aggregate_type, aggregate_id, version)

    def _follow(self, content: Content, stored: bytes | None) -> str | None:
        if content.version != self._version + 1:
            return f"the chain is broken: version {self._version + 1} should stand here"
        self._version, self._link = content.version, link(self._link, content)
        if stored is None or bytes(stored) != self._link:
            return "the chain is broken: this event, its link or the event before it was changed"
        return None


def _read(columns: Sequence[Any]) -> tuple[str, str, int, int, str, str]:
    event_id, event_type, occurred_at, recorded_at, payload, metadata, _ = columns
    return event_id, event_type, _since_1970(occurred_at), _since_1970(recorded_at), payload, metadata


def _since_1970(sent: bytes) -> int:
    return int.from_bytes(sent, "big", signed=True) + _EPOCH
