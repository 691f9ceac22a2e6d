"""Rebasing: after a restore into another cluster, transaction ids and cursors mean something again.

`events.tx` and the cursors hold ids of transactions; a dump carries them to a cluster that has drawn
its own. What matters of them is only which event lies before which cursor. So all events that lie
before the same cursors get one new id, below all ids that the new cluster will draw, and each cursor
becomes the snapshot that sees the ids of the events before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Final

import sqlalchemy as sa

from k1s0_event_store.config import DEFAULT_SCHEMA, check_schema
from k1s0_event_store.exceptions import CorruptDataError, EventStoreError, InvalidInputError, SchemaError
from k1s0_event_store.feed import Cursor
from k1s0_event_store.postgres.connection import Steps, joined_sync_runner, run_sync
from k1s0_event_store.postgres.feed import BEGINNING, Batch, Place, TxSnapshot, parse
from k1s0_event_store.postgres.guards import changing_events, seeing_all
from k1s0_event_store.postgres.schema import take_lock
from k1s0_event_store.postgres.statements import Query, schema_names, statement

_FIRST_ID: Final = BEGINNING.xmax

_CLUSTERS: Final = """
SELECT system_identifier, (SELECT array_agg(system_identifier) FROM {cluster}) FROM pg_control_system()"""

# In the order in which appends and subscriptions take their locks; plain reads go on.
_LOCK: Final = "LOCK TABLE {subscriptions}, {streams}, {events}, {cluster} IN EXCLUSIVE MODE"

_OLDEST_RUNNING: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

_CHECKPOINTS: Final = """
SELECT cursor FROM {subscriptions} WHERE cursor IS NOT NULL
UNION SELECT replay_until FROM {subscriptions} WHERE replay_until IS NOT NULL"""

# From $1[n] up to $1[n + 1] an old id becomes $2[n]. The sub-selects parse the arrays once, not per row.
_RENUMBER: Final = """
WITH renumbered AS (
    UPDATE {events}
    SET tx = (SELECT $2::text[]::xid8[])[width_bucket(tx, (SELECT $1::text[]::xid8[]))]
    RETURNING 1
)
SELECT count(*) FROM renumbered"""

# A process that held a partition before the dump knows an older token.
_MOVE_CHECKPOINTS: Final = """
UPDATE {subscriptions} AS s
SET cursor = (SELECT new FROM unnest($1::text[], $2::text[]) AS moved (old, new) WHERE old = s.cursor),
    replay_until = (SELECT new FROM unnest($1::text[], $2::text[]) AS moved (old, new)
                    WHERE old = s.replay_until),
    owner = NULL, leased_until = NULL, token = token + 1
RETURNING num_nonnulls(cursor, replay_until)"""

_FORGET_CLUSTERS: Final = "DELETE FROM {cluster}"
_REMEMBER_CLUSTER: Final = "INSERT INTO {cluster} (system_identifier) VALUES ($1::bigint)"


@dataclass(frozen=True, slots=True)
class Rebased:
    """What `rebase` has done: the events and stored cursors that it changed, the given cursors translated.

    Nothing was done where `origin`, the cluster that the ids were drawn in, is this `cluster`.
    """

    origin: int
    cluster: int
    events: int
    checkpoints: int
    cursors: list[Cursor]


def rebase(
    connection: sa.Connection, schema: str = DEFAULT_SCHEMA, cursors: Sequence[Cursor] = ()
) -> Rebased:
    """Make the feed and its cursors good for this cluster; async: `await connection.run_sync(rebase, ...)`.

    In the transaction of `connection`, with the rights of the owner, before anything is appended after
    the restore. `cursors` are those that are kept elsewhere: store what comes back for them, in their
    order. Does nothing where the events were written in this cluster. Raises InvalidInputError for
    a cursor of another cluster.
    """
    runner = joined_sync_runner(connection, check_schema(schema))
    take_lock(connection, schema)
    return run_sync(runner, _Rebasing(schema).steps(cursors))


class _Rebasing:
    """The steps, for one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._names = schema_names(schema)

    def steps(self, cursors: Sequence[Cursor]) -> Steps[Rebased]:
        """All of it."""
        origin, cluster = yield from self._clusters()
        given = [_place(cursor, origin) for cursor in cursors]
        if origin == cluster:
            return Rebased(origin, cluster, 0, 0, list(cursors))
        yield self._query(_LOCK)
        secured = ("events", "subscriptions")
        return (yield from seeing_all(self._schema, secured, self._rebase(origin, cluster, given)))

    def _rebase(self, origin: int, cluster: int, given: list[Place | Batch]) -> Steps[Rebased]:
        stored = yield from self._stored_places(origin)
        renumbering = renumber(snapshots_of([*stored.values(), *given]))
        yield from self._check_room(renumbering)
        events = yield from changing_events(self._schema, self._renumber_events(renumbering))
        moved = {text: renumbering.move(place, cluster) for text, place in stored.items()}
        checkpoints = yield self._query(_MOVE_CHECKPOINTS, [*moved], [str(new) for new in moved.values()])
        yield self._query(_FORGET_CLUSTERS)
        yield self._query(_REMEMBER_CLUSTER, cluster)
        translated = [renumbering.move(place, cluster) for place in given]
        return Rebased(origin, cluster, events, sum(count for (count,) in checkpoints), translated)

    def _query(self, sql: str, *args: object) -> Query:
        return Query(statement(sql, **self._names), args)

    def _clusters(self) -> Steps[tuple[int, int]]:
        """Where the ids were drawn, and where we are; raises SchemaError.

        Data restored into tables that were made here brings a second row.
        """
        ((cluster, remembered),) = yield self._query(_CLUSTERS)
        others = set(remembered or ()) - {cluster}
        if not remembered or len(others) > 1:
            raise SchemaError(self._schema, (f"table cluster has {len(remembered or ())} rows, not one",))
        return (others.pop() if others else cluster), cluster

    def _stored_places(self, origin: int) -> Steps[dict[str, Place | Batch]]:
        """The cursors of subscriptions; raises CorruptDataError."""
        rows = yield self._query(_CHECKPOINTS)
        try:
            return {text: _place(Cursor(text), origin) for (text,) in rows}
        except InvalidInputError as exc:
            raise CorruptDataError(f"table subscriptions cannot be rebased: {exc}") from exc

    def _check_room(self, renumbering: Renumbering) -> Steps[None]:
        ((oldest_running,),) = yield self._query(_OLDEST_RUNNING)
        if renumbering.end > oldest_running:
            raise EventStoreError(
                f"the feed needs the transaction ids below {renumbering.end}, but this cluster is at "
                f"{oldest_running}: end open transactions, run `SELECT pg_current_xact_id()` "
                f"{renumbering.end - oldest_running} times, and rebase again"
            )

    def _renumber_events(self, renumbering: Renumbering) -> Steps[int]:
        bounds, ids = ([str(number) for number in ids] for ids in (renumbering.bounds, renumbering.ids))
        ((count,),) = yield self._query(_RENUMBER, bounds, ids)
        return int(count)


def _place(cursor: Cursor, origin: int) -> Place | Batch:
    place = parse(cursor)
    if place.cluster != origin:
        raise InvalidInputError(
            f"the cursor {cursor.text!r:.200} is of cluster {place.cluster}, the feed of {origin}"
        )
    return place


def snapshots_of(places: Iterable[Place | Batch]) -> list[TxSnapshot]:
    """The snapshots that cursors are made of, each once."""
    found: dict[TxSnapshot, None] = {}
    for place in places:
        found[place.seen] = None
        if isinstance(place, Batch):
            found[place.to] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Renumbering:
    """New ids for old ones: an old id from `bounds[n]` up to the next bound becomes `ids[n]`."""

    bounds: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def end(self) -> int:
        """Above all new ids."""
        return max(self.ids) + 1

    def snapshot(self, old: TxSnapshot) -> TxSnapshot:
        """What sees the new ids of all that `old`, one of the snapshots numbered by, has seen."""
        seen = set(compress(self.ids, map(old.sees, self.bounds)))
        xmax = max(seen, default=_FIRST_ID - 1) + 1
        unseen = tuple(new for new in range(_FIRST_ID, xmax) if new not in seen)
        return TxSnapshot(unseen[0] if unseen else xmax, xmax, unseen)

    def move(self, place: Place | Batch, cluster: int) -> Cursor:
        """The same place in the renumbered feed of `cluster`."""
        seen = self.snapshot(place.seen)
        if isinstance(place, Place):
            return Place(cluster, seen).cursor()
        # What was late before is no longer: the floor would be above it.
        return replace(place, cluster=cluster, seen=seen, to=self.snapshot(place.to), floor=0).cursor()


def renumber(snapshots: Sequence[TxSnapshot]) -> Renumbering:
    """One new id for all that the same of `snapshots` see; what more of them see has the lower id.

    Snapshots of one server contain each other and become a mere upper bound; one of a standby may
    not, and keeps a list of what it does not see.
    """
    edges = {edge for s in snapshots for tx in s.running for edge in (tx, tx + 1)}
    bounds = sorted({_FIRST_ID, *edges, *(edge for s in snapshots for edge in (s.xmin, s.xmax))})
    seen_by = list(zip(*(map(s.sees, bounds) for s in snapshots), strict=True)) or [()] * len(bounds)
    ids = {who: number for number, who in enumerate(sorted(set(seen_by), reverse=True), _FIRST_ID)}
    return Renumbering(tuple(bounds), tuple(ids[who] for who in seen_by))
