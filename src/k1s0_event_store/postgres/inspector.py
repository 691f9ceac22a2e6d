"""Looking at a store as an operator does: bounded questions, none of which counts a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, pairwise
from typing import Any, Final
from uuid import UUID

from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.inspection import (
    ALL_STREAMS,
    Arrivals,
    EventView,
    Interval,
    Relatives,
    SnapshotHead,
    StreamFilter,
    StreamHead,
    StreamPage,
    TableSize,
    TypeShare,
    TypeShares,
)
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind, Rows
from k1s0_event_store.postgres.inspection_statements import CORRELATION_INDEXED, inspection_statements_for
from k1s0_event_store.postgres.statements import TABLES, Query, Statement

WHOLE: Final = 262_144
"""Characters of payload that one event is shown with."""
LINE: Final = 200
"""Characters of payload that an event of a list is shown with."""

_LAST: Final = 2**63 - 1
_AROUND: Final = 10_000
"""Events before and after one in which others of its correlation are looked for."""
_WITHOUT_EVENTS: Final = 4
"""So many times more streams are looked at than wanted: lock() leaves some that have no events."""
_NEWEST: Final = 1_000
_COUNTED: Final = 5_000
_EVENTS_PER_BLOCK: Final = 20
"""Before the server has counted."""


class PostgresInspector(AsyncClient, AsyncClosing):
    """What the stream browser and the command line show of a store on PostgreSQL. It writes nothing.

    Made as a PostgresEventStore is: from a configuration, or on an engine of the app's as `bind`.
    Every question reads about as much as it shows, however large the store is. `cut` is how many
    characters of payload and metadata an event is shown with, at most.
    """

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        self._looks = inspection_statements_for(self.config.schema)

    async def streams(
        self,
        wanted: StreamFilter = ALL_STREAMS,
        after: StreamId | None = None,
        *,
        limit: int = 50,
        look_at: int = 20_000,
    ) -> StreamPage:
        """Streams by key, after `after`; at most `look_at` are looked at for one page."""
        _check_counts(limit=limit, look_at=look_at)
        if not wanted.leaves_out:
            look_at = min(look_at, _WITHOUT_EVENTS * limit)
        key = _key_after(after, wanted.aggregate_type)
        rows = await self._ask(
            self._looks.streams,
            *key,
            look_at,
            limit + 1,
            max(1, wanted.min_events or 1),
            _LAST if wanted.max_events is None else wanted.max_events,
            wanted.contains,
            wanted.changed_since,
            wanted.changed_before,
            wanted.aggregate_type,
        )
        heads = [_head(row) for row in rows[:limit]]
        if len(rows) > limit:
            return StreamPage(heads, heads[-1].stream_id)
        ends = await self._ask(self._looks.last_looked_at, *key, look_at)
        is_over = not ends or wanted.aggregate_type not in (None, ends[0][0])
        return StreamPage(heads, None if is_over else StreamId(*ends[0]))

    async def stream(self, stream_id: StreamId) -> StreamHead | None:
        """The head of one stream; None: it has no events."""
        rows = await self._ask(self._looks.stream, stream_id.aggregate_type, stream_id.aggregate_id)
        return _head(rows[0]) if rows else None

    async def aggregate_types(self, limit: int = 1_000) -> Sequence[str]:
        """Names of aggregate types, sorted."""
        _check_counts(limit=limit)
        return [name for (name,) in await self._ask(self._looks.aggregate_types, limit)]

    async def events(
        self,
        stream_id: StreamId,
        from_version: int = 1,
        to_version: int | None = None,
        *,
        limit: int = 50,
        backwards: bool = False,
        cut: int = LINE,
    ) -> Sequence[EventView]:
        """Events of one stream."""
        _check_counts(limit=limit, cut=cut)
        span = from_version, _LAST if to_version is None else to_version, limit
        rows = await self._ask(
            self._looks.backwards if backwards else self._looks.forwards,
            cut,
            stream_id.aggregate_type,
            stream_id.aggregate_id,
            *span,
        )
        return _views(rows)

    async def latest(
        self, limit: int = 50, before: int | None = None, *, cut: int = LINE
    ) -> Sequence[EventView]:
        """The newest events of all streams, newest first; older than position `before`."""
        _check_counts(limit=limit, cut=cut)
        place = _LAST if before is None else before
        return _views(await self._ask(self._looks.latest, cut, place, limit))

    async def find(self, event_id: UUID, *, cut: int = WHOLE) -> Sequence[EventView]:
        """Events with this id: one, unless streams of several aggregate ids share it."""
        _check_counts(cut=cut)
        return _views(await self._ask(self._looks.by_id, cut, event_id))

    async def at(self, position: int, *, cut: int = WHOLE) -> EventView | None:
        """The event at a position."""
        _check_counts(cut=cut)
        views = _views(await self._ask(self._looks.at, cut, position))
        return views[0] if views else None

    async def relatives(self, event: EventView, *, limit: int = 200) -> Relatives:
        """What belongs to the same correlation as `event`, itself included, and all that led to it.

        With an index on `metadata ->> 'correlation_id'` the whole table is searched, else the 10,000
        positions before and after the event, and those after the first cause.
        """
        _check_counts(limit=limit)
        ancestors = _views(await self._ask(self._looks.ancestors, LINE, event.position))
        first = min((view.position for view in ancestors), default=event.position)
        correlation = event.correlation_id or str(event.event_id)
        rest, complete = await self._correlated(correlation, event.position, first, limit)
        views = [*ancestors, *rest, *await self._itself_and_first(event, correlation)]
        found = {view.position: view for view in views}
        return Relatives([found[position] for position in sorted(found)], complete)

    async def _correlated(
        self, correlation: str, position: int, first: int, limit: int
    ) -> tuple[Sequence[EventView], bool]:
        """Events of a correlation, and whether these are all."""
        ((indexed, last),) = await self._ask(self._looks.search_space, CORRELATION_INDEXED)
        # Row-level security uses no index on an expression of JSON: a function might tell what it hides.
        if indexed and self.config.tenant is None:
            rows = await self._ask(self._looks.correlated, LINE, correlation, limit)
            return _views(rows), len(rows) < limit
        windows = _windows(position, first)
        look = partial(self._ask, self._looks.correlated_around, LINE, correlation, limit)
        pages = [await look(*window) for window in windows]
        low, high = windows[-1]
        complete = low <= 1 and high >= last and all(len(rows) < limit for rows in pages)
        return _views(chain.from_iterable(pages)), complete

    async def _itself_and_first(self, event: EventView, correlation: str) -> Sequence[EventView]:
        """A chain's first event has no correlation id: it gives its own to the others."""
        itself = _views(await self._ask(self._looks.at, LINE, event.position))
        try:
            first = UUID(correlation)
        except ValueError:
            return itself
        return [*itself, *_views(await self._ask(self._looks.by_id, LINE, first))]

    async def types(self, look_at: int = 20_000) -> TypeShares:
        """Event types and about how many events each has, from about `look_at` events."""
        _check_counts(look_at=look_at)
        ((blocks, counted, counted_blocks),) = await self._ask(self._looks.event_blocks)
        density = counted / counted_blocks if counted > 0 and counted_blocks else _EVENTS_PER_BLOCK
        share = min(1.0, look_at / max(1.0, blocks * density))
        rows = await self._ask(self._looks.types, share * 100, _NEWEST)
        shares = [
            TypeShare(aggregate_type, event_type, round(sampled / share) or newest, last_seen.astimezone(UTC))
            for aggregate_type, event_type, sampled, newest, last_seen in rows
        ]
        shares.sort(key=lambda one: (-one.events, one.aggregate_type, one.event_type))
        return TypeShares(shares, sum(row[2] for row in rows), share == 1)

    async def activity(self, since: datetime, step: timedelta, steps: int) -> Sequence[Interval]:
        """How many events were recorded in each of `steps` intervals from `since` on.

        Told by positions, of which an append that failed late may have used up some.
        """
        _check_counts(steps=steps)
        rows = await self._ask(self._looks.activity, since, step, steps)
        return [
            Interval(begins.astimezone(UTC), max(0, following - first))
            for (begins, first), (_, following) in pairwise(rows)
        ]

    async def sizes(self) -> Sequence[TableSize]:
        """All tables of the store, the largest first."""
        return [TableSize(*row) for row in await self._ask(self._looks.sizes, list(TABLES))]

    async def snapshots(self, stream_id: StreamId) -> Sequence[SnapshotHead]:
        """Snapshots of a stream, newest first."""
        rows = await self._ask(self._looks.snapshots, stream_id.aggregate_type, stream_id.aggregate_id)
        return [
            SnapshotHead(version, schema_version, taken_at.astimezone(UTC), length)
            for version, schema_version, taken_at, length in rows
        ]

    async def arrivals(self, seen: str | None = None, *, limit: int = 50, cut: int = LINE) -> Arrivals:
        """What was committed since `seen`; without it nothing, but the place to begin at."""
        _check_counts(limit=limit, cut=cut)
        if seen is None:
            return Arrivals((), 0, (await self._ask(self._looks.now))[0][0])
        rows = await self._ask(self._looks.arrived, cut, seen, _COUNTED, limit)
        arrived, now = rows[0][:2]
        views = _views(row[2:] for row in rows if arrived)
        return Arrivals(views, arrived - len(views), now)

    async def _ask(self, statement: Statement, *args: Any) -> Rows:
        return await self._runner.fetch(Query(statement, args))


def _key_after(after: StreamId | None, aggregate_type: str | None) -> tuple[str, str]:
    if aggregate_type is None:
        return ("", "") if after is None else (after.aggregate_type, after.aggregate_id)
    if after is not None and after.aggregate_type != aggregate_type:
        raise InvalidInputError(f"no streams of the type {aggregate_type!r} come after {after}")
    return aggregate_type, "" if after is None else after.aggregate_id


def _windows(position: int, first: int) -> list[tuple[int, int]]:
    """Positions among which the rest of a correlation is looked for; the last ones are around `position`."""
    around = position - _AROUND, position + _AROUND
    return [around] if first >= around[0] else [(first, first + _AROUND), around]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInputError(f"{name} must be a whole number of at least 1, not {count!r}")


def _head(row: Sequence[Any]) -> StreamHead:
    aggregate_type, aggregate_id, version, created_at, updated_at = row
    stream_id = StreamId(aggregate_type, aggregate_id)
    return StreamHead(stream_id, version, created_at.astimezone(UTC), updated_at.astimezone(UTC))


def _views(rows: Iterable[Sequence[Any]]) -> list[EventView]:
    return [_view(*row) for row in rows]


def _view(
    aggregate_type: str,
    aggregate_id: str,
    version: int,
    position: int,
    event_id: UUID,
    event_type: str,
    occurred_at: datetime,
    recorded_at: datetime,
    *shown: Any,
) -> EventView:
    return EventView(
        StreamId(aggregate_type, aggregate_id),
        version,
        position,
        event_id,
        event_type,
        occurred_at.astimezone(UTC),
        recorded_at.astimezone(UTC),
        *shown,
    )
