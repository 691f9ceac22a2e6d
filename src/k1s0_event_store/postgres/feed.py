"""The snapshot cursor: reading events in an order that loses none.

Positions are drawn before commit, so "position > last seen" loses events. A cursor is a snapshot A:
everything visible in it has been read. The next batch is what a newer snapshot B sees and A does
not, by position; then A becomes B. Both are true snapshots of one moment, so that the order of each
stream, and of cause and effect, holds across batches. The idea is PgQ's (Skype's queue on PostgreSQL).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter, lt
from typing import Any, Final, Self

from k1s0_event_store.exceptions import ClusterChangedError, InvalidInputError
from k1s0_event_store.feed import Cursor, EventFilter, FeedPage, check_cursor, check_page
from k1s0_event_store.postgres.connection import Rows, Steps
from k1s0_event_store.postgres.operations import feed_envelopes, mean_bytes
from k1s0_event_store.postgres.statements import Query, Statements

_FIRST_XID: Final = 3
_MOST_RUNNING: Final = 5_000
"""On a standby; a cursor names them all."""
_NUMBER: Final = r"\d{1,18}"
_SNAPSHOT: Final = rf"{_NUMBER}:{_NUMBER}:(?:{_NUMBER}(?:,{_NUMBER})*)?"
_CURSOR: Final = re.compile(
    rf"\d{{1,19}} {_SNAPSHOT}(?: {_SNAPSHOT} {_NUMBER} (?:-1|{_NUMBER}) {_NUMBER})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TxSnapshot:
    """A pg_snapshot: transactions below `xmin` are over, from `xmax` on not, between all but `running`."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From PostgreSQL's own text form; raises ValueError."""
        xmin, xmax, running = text.split(":")
        ids = tuple(map(int, running.split(","))) if running else ()
        snapshot = cls(int(xmin), int(xmax), ids)
        ascending = (*ids, snapshot.xmax)
        if not 0 < snapshot.xmin <= ascending[0] or not all(map(lt, ids, ascending[1:])):
            raise ValueError(f"not a snapshot: {text}")
        return snapshot

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, tx: int) -> bool:
        """True if the transaction was over at that moment."""
        return tx < self.xmin or (tx < self.xmax and not self._ran(tx))

    def contains(self, earlier: TxSnapshot) -> bool:
        """True if all that `earlier` sees is seen here."""
        return self.xmax >= earlier.xmax and all(
            tx >= earlier.xmax or earlier._ran(tx) for tx in self.running
        )

    def _ran(self, tx: int) -> bool:
        place = bisect_left(self.running, tx)  # a standby can name thousands
        return self.running[place : place + 1] == (tx,)

    def without(self, tx: int | None) -> Self:
        """This snapshot for a reader inside transaction `tx`, whose own events are not committed."""
        if tx is None or not self.sees(tx):
            return self
        return replace(self, xmin=min(self.xmin, tx), running=tuple(sorted((*self.running, tx))))

    def only(self, over: Collection[int]) -> Self:
        """This snapshot with everything between its ends for running that is not among `over`."""
        known = frozenset(over)
        return replace(self, running=tuple(tx for tx in range(self.xmin, self.xmax) if tx not in known))

    def barrier(self) -> Self:
        """What is over below the oldest running transaction, and no more."""
        return replace(self, xmax=self.xmin, running=())


BEGINNING: Final = TxSnapshot(_FIRST_XID, _FIRST_XID)


@dataclass(frozen=True, slots=True)
class Place:
    """Between two batches: everything that `seen` sees has been read."""

    cluster: int
    seen: TxSnapshot

    def cursor(self) -> Cursor:
        """The text form."""
        return Cursor(f"{self.cluster} {self.seen}")

    def has_read(self, tx: int, position: int) -> bool:
        """True if the event that transaction `tx` wrote at `position` lies before this place."""
        return self.seen.sees(tx)


@dataclass(frozen=True, slots=True)
class Batch:
    """Inside a batch: everything that `seen` sees has been read, of what `to` sees that up to `after`.

    `floor` is below the first event that is not late (0: not known, -1: below all events), `last` is
    the highest position: they say where to look, not what has been read.
    """

    cluster: int
    seen: TxSnapshot
    to: TxSnapshot
    after: int
    floor: int = field(compare=False)
    last: int = field(compare=False)

    def cursor(self) -> Cursor:
        """The text form."""
        return Cursor(f"{self.cluster} {self.seen} {self.to} {self.after} {self.floor} {self.last}")

    def at(self, position: int) -> Cursor:
        """The cursor after the event at `position`."""
        return replace(self, after=position).cursor()

    def has_read(self, tx: int, position: int) -> bool:
        """True if the event that transaction `tx` wrote at `position` lies before this place."""
        return self.seen.sees(tx) or (self.to.sees(tx) and position <= self.after)

    def late(self) -> list[str]:
        """The ids that were running in `seen` and are over in `to`."""
        return [str(tx) for tx in self.seen.running if self.to.sees(tx)]

    def end(self) -> Place:
        """The place after the whole batch."""
        return Place(self.cluster, self.to)


def covers(place: Place | Batch, other: Place | Batch) -> bool:
    """True if all that lies before `other` lies before `place` too."""
    if isinstance(place, Batch) and isinstance(other, Batch) and place.to == other.to:
        return place.seen == other.seen and place.after >= other.after
    return place.seen.contains(other.to if isinstance(other, Batch) else other.seen)


def parse(cursor: Cursor) -> Place | Batch:
    """What a cursor says; raises InvalidInputError."""
    check_cursor(cursor)
    try:
        return _parse(cursor.text)
    except ValueError as exc:
        raise InvalidInputError(f"not a cursor of this store: {cursor.text!r:.200}") from exc


def _parse(text: str) -> Place | Batch:
    if not _CURSOR.fullmatch(text):
        raise ValueError(text)
    cluster, seen, *rest = text.split(" ")
    if not rest:
        return Place(int(cluster), TxSnapshot.parse(seen))
    to, after, floor, last = rest
    return Batch(
        int(cluster), TxSnapshot.parse(seen), TxSnapshot.parse(to), int(after), int(floor), int(last)
    )


def read_page(
    sql: Statements,
    after: Cursor | None,
    limit: int,
    only: EventFilter,
    until: Cursor | None,
    checked: set[int],
) -> Steps[FeedPage]:
    """The next events after `after`, at most `limit`; up to `until` if that is given.

    `checked` are clusters that the database was found to be the primary of: there a batch can go on
    unasked. A standby or a transaction's old snapshot can be behind what was read elsewhere: it waits.
    """
    check_page(after, limit, until)
    start = None if after is None else parse(after)
    end = None if until is None else parse(until)
    if end is not None and start == end:
        return _nothing(end.cursor())
    if not isinstance(start, Batch) or not {place.cluster for place in (start, end or start)} <= checked:
        now = yield from _now(sql, start, end)
        if not now.is_standby:
            checked.add(now.cluster)
        if not isinstance(start, Batch):
            return (yield from _begin(sql, start or Place(now.cluster, BEGINNING), now, limit, only, end))
        if not now.seen.contains(start.to):
            return _nothing(start.cursor())
    batch = start if end is None else _up_to(start, end)
    if batch is None:
        return _nothing(start.cursor())
    return (yield from _go_on(sql, batch, limit, only, end))


def latest_cursor(sql: Statements) -> Steps[Cursor]:
    """The place after everything that is committed now."""
    now = yield from _now(sql, None, None)
    return Place(now.cluster, now.seen).cursor()


def _begin(
    sql: Statements, place: Place, now: _Now, limit: int, only: EventFilter, end: Place | Batch | None
) -> Steps[FeedPage]:
    """The first page of a new batch."""
    batch = _next_batch(place, end, now)
    is_ahead = batch.to.contains(batch.seen) and now.seen.contains(batch.to)
    if batch.to == batch.seen or not is_ahead or not now.is_exact:
        return _nothing(place.cursor())
    end = end or batch.end()
    if batch.seen != BEGINNING and not batch.floor:
        rows = yield from _fresh_rows(sql, batch, limit, only)
        if rows is not None:
            return _page(batch, rows, end, complete=True)
    return (yield from _go_on(sql, batch, limit, only, end))


def _go_on(
    sql: Statements, batch: Batch, limit: int, only: EventFilter, end: Place | Batch | None
) -> Steps[FeedPage]:
    """The next page of a long batch."""
    if batch.seen != BEGINNING and not batch.floor:
        batch = yield from _with_floor(sql, batch)
    begin = min(max(batch.after, batch.floor), batch.last)
    bounds = (batch.after, begin, str(batch.seen), batch.last)
    late = batch.late() if batch.after < begin else []
    rows = yield Query(sql.feed_walk, (*_asked(batch, limit, only, late), *bounds))
    return _page(batch, rows, end, complete=len(rows) < limit or rows[-1][-1] >= batch.last)


def _up_to(batch: Batch, end: Place | Batch) -> Batch | None:
    """What of `batch` lies before `end` (None: nothing); raises InvalidInputError."""
    if end.seen.contains(batch.to):
        return batch
    last, target = (batch.last, end.seen) if isinstance(end, Place) else (end.after, end.to)
    if batch.seen.contains(target):
        return None
    # Inside the batch: only a place that splits it in two can be stopped at.
    splits = isinstance(end, Place) and end.seen.contains(batch.seen)
    if not batch.to.contains(target) or not (splits or end.seen == batch.seen):
        raise InvalidInputError("`until` is not on the way from `after`: they are from different readings")
    return replace(batch, to=target, last=min(batch.last, last)) if batch.after < last else None


@dataclass(frozen=True, slots=True)
class _Now:
    """The cluster, what is over in it now, and the last position of that."""

    cluster: int
    seen: TxSnapshot
    last: int
    is_standby: bool
    is_exact: bool


def _now(sql: Statements, start: Place | Batch | None, end: Place | Batch | None) -> Steps[_Now]:
    """Look at the server; raises ClusterChangedError."""
    ((snapshot, own, is_standby, cluster, remembered, last, writers),) = yield Query(sql.feed_now)
    for known in (remembered, *(place.cluster for place in (start, end) if place is not None)):
        if known != cluster:
            raise ClusterChangedError(cluster, known)
    seen = TxSnapshot.parse(snapshot).without(own)
    # The snapshot of a standby lists no running transactions although there are some: all are taken
    # for running whose events are not seen. A cut below the oldest would not keep streams in order.
    is_exact = not is_standby or seen.xmax - seen.xmin - len(writers) <= _MOST_RUNNING
    if is_standby:
        seen = seen.only(writers) if is_exact else seen.barrier()
    return _Now(cluster, seen, last, is_standby, is_exact)


def _next_batch(place: Place, end: Place | Batch | None, now: _Now) -> Batch:
    """The batch that begins at `place`: to now, or first to what `end` has read whole, then to `end`."""
    if end is None:
        return Batch(place.cluster, place.seen, now.seen, 0, 0, now.last)
    if isinstance(end, Batch) and place.seen.contains(end.seen):
        floor = end.floor if place.seen == end.seen else 0
        return Batch(place.cluster, place.seen, end.to, 0, floor, end.after)
    return Batch(place.cluster, place.seen, end.seen, 0, 0, now.last)


def _fresh_rows(sql: Statements, batch: Batch, limit: int, only: EventFilter) -> Steps[Rows | None]:
    """The rows of the whole batch, if they are no more than a page."""
    bounds = (0, batch.last, str(batch.seen.xmax), str(batch.to.xmax))
    rows = yield Query(sql.feed_fresh, (*_asked(batch, limit + 1, only, batch.late()), *bounds))
    if len(rows) > limit:
        return None
    return sorted((row for row in rows if row[-1] <= batch.last), key=itemgetter(-1))


def _with_floor(sql: Statements, batch: Batch) -> Steps[Batch]:
    """`batch` with the position that its walk begins at."""
    ((first,),) = yield Query(sql.feed_floor, (str(batch.seen.xmax), str(batch.to.xmax)))
    return replace(batch, floor=batch.last if first is None else first - 1 or -1)


def _asked(batch: Batch, limit: int, only: EventFilter, late: list[str]) -> tuple[Any, ...]:
    """The parameters that both page statements begin with."""
    types = (_array(only.aggregate_types), _array(only.event_types))
    return (*types, only.partitions, only.partition, limit, str(batch.to), late)


def _array(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _nothing(cursor: Cursor) -> FeedPage:
    return FeedPage(cursor, False, list, lambda _position: cursor)


def _page(batch: Batch, rows: Rows, end: Place | Batch | None, complete: bool) -> FeedPage:
    """A page of `rows`, by position; `complete`: the batch ends with it."""
    following: Place | Batch = batch.end() if complete else replace(batch, after=rows[-1][-1])
    stops = complete and isinstance(end, Batch) and batch.to == end.to
    if end is not None and (stops or following == end):
        following = end
    return FeedPage(
        following.cursor(),
        following != end,
        partial(feed_envelopes, rows),
        batch.at,
        mean_bytes(rows),
        None if end is None else end.cursor(),
    )
