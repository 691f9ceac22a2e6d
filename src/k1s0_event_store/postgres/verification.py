"""Verifying a store: is what the tables hold what only appends could have left there?

Every page is one statement, and so one moment: heads and events that are compared were seen together.
Between two pages others may append. That breaks no check: a stream only grows at its end, and its
last event is compared with its head where both are seen. Nothing is written, and no transaction is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.feed import Cursor
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind, Rows
from k1s0_event_store.postgres.feed import Batch, Place, TxSnapshot, parse
from k1s0_event_store.postgres.statements import Query, Statement, quote_text, schema_names, statement

PAGE: Final = 20_000
_LOWEST: Final = -(2**63)
_START: Final = "00000000-0000-0000-0000-000000000000"

# What all walks have in common: the first row tells how much was looked at and where to go on, the
# others are faults. Ties belong to the page that they begin in, so that doubles meet there.

# $1 to $4 the last event of the page before: its stream may go on here. A stream is compared with its
# head in the page that sees its end.
_EVENTS: Final = """
WITH page AS MATERIALIZED (
    SELECT aggregate_type, aggregate_id, version, position FROM {events}
    WHERE (aggregate_type, aggregate_id, version) > ($1::text, $2::text, $3::bigint) {of_type}
    ORDER BY aggregate_type, aggregate_id, version FETCH FIRST ($5::bigint) ROWS WITH TIES
), ending AS (
    SELECT * FROM page ORDER BY aggregate_type DESC, aggregate_id DESC, version DESC LIMIT 1
), looked_at AS (
    SELECT count(*) AS events, count(*) >= $5::bigint AS more FROM page
), steps AS (
    SELECT *, lag(version) OVER stream AS before, lag(position) OVER stream AS position_before,
           lead(version) OVER stream IS NULL AS is_last
    FROM (SELECT *, true AS is_new FROM page
          UNION ALL SELECT $1::text, $2::text, $3::bigint, $4::bigint, false WHERE $3::bigint > 0) AS e
    WINDOW stream AS (PARTITION BY aggregate_type, aggregate_id ORDER BY version, position)
)
SELECT NULL AS fault, events, ending.* FROM looked_at LEFT JOIN ending ON true
UNION ALL
SELECT CASE WHEN version = before THEN 'twice' ELSE 'gap' END,
       coalesce(before, 0), aggregate_type, aggregate_id, version, position
FROM steps WHERE is_new AND version <> coalesce(before, 0) + 1
UNION ALL
SELECT 'order', position_before, aggregate_type, aggregate_id, version, position
FROM steps WHERE is_new AND position <= position_before AND version <> before
UNION ALL
SELECT CASE WHEN head.version IS NULL THEN 'no head' ELSE 'head' END, head.version, s.aggregate_type,
       s.aggregate_id, s.version, s.position
FROM steps AS s CROSS JOIN looked_at LEFT JOIN ending ON true
LEFT JOIN {streams} AS head
       ON head.aggregate_type = s.aggregate_type AND head.aggregate_id = s.aggregate_id
WHERE is_last AND head.version IS DISTINCT FROM s.version
  AND NOT (more AND s.aggregate_type = ending.aggregate_type AND s.aggregate_id = ending.aggregate_id)"""

# Version 0 is the head of a stream that was locked before its first event.
_HEADS: Final = """
WITH page AS MATERIALIZED (
    SELECT aggregate_type, aggregate_id, version FROM {streams}
    WHERE (aggregate_type, aggregate_id) > ($1::text, $2::text) {of_type}
    ORDER BY aggregate_type, aggregate_id LIMIT $3::bigint
)
(SELECT NULL AS fault, (SELECT count(*) FROM page), max(aggregate_type), max(aggregate_id)
 FROM (SELECT * FROM page ORDER BY aggregate_type DESC, aggregate_id DESC LIMIT 1) AS ending)
UNION ALL
SELECT 'no events', version, aggregate_type, aggregate_id FROM page AS head
WHERE version > 0 AND NOT EXISTS (
    SELECT FROM {events} AS e
    WHERE e.aggregate_type = head.aggregate_type AND e.aggregate_id = head.aggregate_id)"""

_IDS: Final = """
WITH page AS MATERIALIZED (
    SELECT event_id, aggregate_id FROM {events} WHERE event_id > $1::text::uuid
    ORDER BY event_id FETCH FIRST ($2::bigint) ROWS WITH TIES
)
(SELECT NULL AS fault, (SELECT count(*) FROM page),
        (SELECT event_id::text FROM page ORDER BY event_id DESC LIMIT 1), NULL, NULL, NULL::bigint)
UNION ALL
(SELECT DISTINCT ON (event_id, aggregate_id)
        'id', times, event_id::text, aggregate_type, aggregate_id, version
 FROM {events} JOIN (SELECT event_id, aggregate_id, count(*) AS times FROM page GROUP BY 1, 2
                     HAVING count(*) > 1) AS twice
      USING (event_id, aggregate_id)
 WHERE true {of_type} ORDER BY event_id, aggregate_id, aggregate_type, version)"""

# No unique key guards the positions: only the sequence does.
_POSITIONS: Final = """
WITH page AS MATERIALIZED (
    SELECT position FROM {events} WHERE position > $1::bigint
    ORDER BY position FETCH FIRST ($2::bigint) ROWS WITH TIES
)
(SELECT NULL AS fault, count(*), max(position), NULL, NULL, NULL::bigint FROM page)
UNION ALL
(SELECT DISTINCT ON (position) 'position', times, position, aggregate_type, aggregate_id, version
 FROM {events} JOIN (SELECT position, count(*) AS times FROM page GROUP BY 1 HAVING count(*) > 1) AS twice
      USING (position)
 WHERE true {of_type} ORDER BY position, aggregate_type, aggregate_id, version)"""

_SNAPSHOTS: Final = """
WITH page AS MATERIALIZED (
    SELECT aggregate_type, aggregate_id, version FROM {snapshots}
    WHERE (aggregate_type, aggregate_id, version) > ($1::text, $2::text, $3::bigint) {of_type}
    ORDER BY aggregate_type, aggregate_id, version LIMIT $4::bigint
)
(SELECT NULL AS fault, (SELECT count(*) FROM page), max(aggregate_type), max(aggregate_id), max(version)
 FROM (SELECT * FROM page ORDER BY aggregate_type DESC, aggregate_id DESC, version DESC LIMIT 1) AS ending)
UNION ALL
SELECT 'snapshot', coalesce(head.version, 0), s.aggregate_type, s.aggregate_id, s.version
FROM page AS s LEFT JOIN {streams} AS head USING (aggregate_type, aggregate_id)
WHERE s.version > coalesce(head.version, 0)"""

_PARKED: Final = """
WITH page AS MATERIALIZED (
    SELECT * FROM {dead_letters}
    WHERE (name, version, aggregate_type, aggregate_id, event_version)
        > ($1::text, $2::bigint, $3::text, $4::text, $5::bigint) {of_type}
    ORDER BY name, version, aggregate_type, aggregate_id, event_version LIMIT $6::bigint
), ending AS (
    SELECT * FROM page
    ORDER BY name DESC, version DESC, aggregate_type DESC, aggregate_id DESC, event_version DESC LIMIT 1
)
SELECT NULL AS fault, looked_at, name, version, aggregate_type, aggregate_id, event_version
FROM (SELECT count(*) AS looked_at FROM page) AS counted LEFT JOIN ending ON true
UNION ALL
SELECT 'parked', NULL, d.name, d.version, d.aggregate_type, d.aggregate_id, d.event_version
FROM page AS d
WHERE NOT EXISTS (SELECT FROM {events} AS e
                  WHERE (e.aggregate_type, e.aggregate_id, e.version, e.event_type, e.position)
                      = (d.aggregate_type, d.aggregate_id, d.event_version, d.event_type, d.position))
UNION ALL
SELECT 'parked by nobody', NULL, d.name, d.version, d.aggregate_type, d.aggregate_id, d.event_version
FROM page AS d
WHERE NOT EXISTS (SELECT FROM {subscriptions} AS s
                  WHERE (s.name, s.version, s.partition) = (d.name, d.version, d.partition))"""

# The moment that sees a checkpoint sees all that the checkpoint has seen. A standby does not know who
# is running: there it is not compared.
_CHECKPOINTS: Final = """
SELECT name, version, partition, cursor, replay_until, live, (owner IS NULL) <> (leased_until IS NULL),
       coalesce(leased_until > clock_timestamp() + interval '1 day', false), system_identifier,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_snapshot()::text END
FROM {subscriptions} CROSS JOIN pg_control_system() ORDER BY name, version, partition"""

# The sequence is read after the moment of the statement: it may be ahead, never behind.
_SEQUENCE: Final = """
SELECT coalesce((SELECT max(position) FROM {events}), 0), has_sequence_privilege(name, 'SELECT'),
       CASE WHEN has_sequence_privilege(name, 'SELECT') THEN coalesce(pg_sequence_last_value(name), 0) END
FROM (SELECT pg_get_serial_sequence({events_text}, 'position')::regclass AS name) AS sequence
WHERE name IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that appends cannot have left there: what, where, and what to do about it."""

    problem: str
    advice: str
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    version: int | None = None
    subscription: str | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """So many rows were looked at for a check."""

    check: str
    rows: int


Watch = Callable[[Looked], object]


@dataclass(frozen=True, slots=True)
class _Walk:
    """A check that goes through a table by its key."""

    check: str
    statement: Statement
    start: tuple[Any, ...]
    fault: Callable[[Sequence[Any]], Fault]


class PostgresVerifier(AsyncClient, AsyncClosing):
    """Finds what is wrong with the contents of a store on PostgreSQL. It writes nothing.

    Made as a PostgresEventStore is: from a configuration, or on an engine of the app's as `bind`.
    """

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        self._names = schema_names(self.config.schema)

    async def faults(
        self,
        aggregate_type: str | None = None,
        *,
        page: int = PAGE,
        watch: Watch = lambda looked: None,
    ) -> AsyncIterator[Fault]:
        """All faults; of one aggregate type, and of what belongs to none, if one is given.

        `page` rows are looked at in one statement; `watch` is told after each. Raises EventStoreError.
        """
        for walk in self._walks(aggregate_type):
            async for fault in self._found(walk, page, aggregate_type, watch):
                yield fault
        for fault in [*(await self._checkpoints(watch)), *(await self._sequence(watch))]:
            yield fault

    async def may_read_sequence(self) -> bool:
        """False: the role may not look at the sequence of the positions, so that it is not checked."""
        rows = await self._rows(_SEQUENCE)
        return all(may for _, may, _ in rows)

    def _walks(self, aggregate_type: str | None) -> Iterator[_Walk]:
        # A bound of its own, and not "is null or": the range has to be seen by the planner.
        def walk(sql: str, parameters: int) -> Statement:
            of_type = "" if aggregate_type is None else f"AND aggregate_type = ${parameters + 1}::text"
            return statement(sql.replace("{of_type}", of_type), **self._names)

        first = aggregate_type or ""
        yield _Walk("events", walk(_EVENTS, 5), (first, "", 0, 0), _event_fault)
        yield _Walk("streams", walk(_HEADS, 3), (first, ""), _head_fault)
        yield _Walk("event ids", walk(_IDS, 2), (_START,), _id_fault)
        yield _Walk("positions", walk(_POSITIONS, 2), (_LOWEST,), _position_fault)
        yield _Walk("snapshots", walk(_SNAPSHOTS, 4), (first, "", 0), _snapshot_fault)
        yield _Walk("parked events", walk(_PARKED, 6), ("", 0, "", "", 0), _parked_fault)

    async def _found(
        self, walk: _Walk, page: int, aggregate_type: str | None, watch: Watch
    ) -> AsyncIterator[Fault]:
        after, looked_at, count = walk.start, 0, page
        of_type = () if aggregate_type is None else (aggregate_type,)
        while count >= page:
            rows = await self._runner.fetch(Query(walk.statement, (*after, page, *of_type)))
            for row in rows:
                if row[0] is not None:
                    yield walk.fault(row)
            ((_, count, *key),) = [row for row in rows if row[0] is None]
            after = tuple(key[: len(walk.start)])
            looked_at += count
            watch(Looked(walk.check, looked_at))

    async def _rows(self, sql: str) -> Rows:
        events = quote_text(self._names["events"])
        return await self._runner.fetch(Query(statement(sql, **self._names, events_text=events)))

    async def _checkpoints(self, watch: Watch) -> list[Fault]:
        rows = await self._rows(_CHECKPOINTS)
        watch(Looked("checkpoints", len(rows)))
        faults = [fault for row in rows for fault in _checkpoint_faults(row)]
        for (name, version), partitions in groupby(rows, itemgetter(0, 1)):
            faults += _partition_faults(name, version, [row[2] for row in partitions])
        for name, versions in groupby(rows, itemgetter(0)):
            faults += _live_faults(name, [(row[1], row[5]) for row in versions])
        return faults

    async def _sequence(self, watch: Watch) -> list[Fault]:
        rows = await self._rows(_SEQUENCE)
        watch(Looked("sequences", len(rows)))
        return [
            Fault(
                f"the sequence of the positions is at {drawn}, but there are events up to {newest}",
                f"stop all writers, and set the sequence to {newest} with setval: new events would come at "
                "positions that readers of the feed have passed",
            )
            for newest, may_look, drawn in rows
            if may_look and drawn < newest
        ]


_RESTORE: Final = "somebody has written past the library: restore a backup"
_ORDER: Final = "readers of the feed get the two in the wrong order: restore a backup"
_TWICE: Final = "readers of the feed may lose one of them: restore a backup, and look at the sequence"
_SET_HEAD: Final = "restore a backup; if no event was lost, set the version in streams to"
_REBASE: Final = "after a restore into another cluster: k1s0-event-store db rebase"


def _event_fault(row: Sequence[Any]) -> Fault:
    kind, other, aggregate_type, aggregate_id, version, position = row
    if kind == "gap":
        gap = f"{other + 1}" if version == other + 2 else f"{other + 1} to {version - 1}"
        return Fault(f"version {gap} missing", _RESTORE, aggregate_type, aggregate_id, other + 1)
    problem, advice = {
        "twice": (f"there are several events of version {version}", _RESTORE),
        "order": (f"position {position} is not above {other}, that of the version before", _ORDER),
        "no head": (f"there are {version} versions, but no row in streams", f"{_RESTORE}, or add the row"),
        "head": (f"the head says {other}, the last event is version {version}", f"{_SET_HEAD} {version}"),
    }[kind]
    return Fault(problem, advice, aggregate_type, aggregate_id, version)


def _head_fault(row: Sequence[Any]) -> Fault:
    _, version, aggregate_type, aggregate_id = row
    problem = f"the head says {version}, but there are no events"
    return Fault(problem, f"{_SET_HEAD} 0", aggregate_type, aggregate_id, version)


def _snapshot_fault(row: Sequence[Any]) -> Fault:
    _, head, aggregate_type, aggregate_id, version = row
    problem = f"a snapshot is of version {version}, but the stream ends at {head}"
    advice = "delete its row in snapshots, a new one is made from the events; find out who lost events"
    return Fault(problem, advice, aggregate_type, aggregate_id, version)


def _id_fault(row: Sequence[Any]) -> Fault:
    _, count, event_id, aggregate_type, aggregate_id, version = row
    return Fault(
        f"event id {event_id} stands {count} times under this aggregate id",
        f"{_RESTORE}; `k1s0-event-store db validate` tells whether the unique key is there",
        aggregate_type,
        aggregate_id,
        version,
    )


def _position_fault(row: Sequence[Any]) -> Fault:
    _, count, position, aggregate_type, aggregate_id, version = row
    problem = f"{count} events are at position {position}, this is one of them"
    return Fault(problem, _TWICE, aggregate_type, aggregate_id, version)


def _parked_fault(row: Sequence[Any]) -> Fault:
    kind, _, name, number, aggregate_type, aggregate_id, version = row
    problem, advice = {
        "parked": ("a parked event does not exist like this", f"drop it: {_command('drop', name, number)}"),
        "parked by nobody": (
            "an event is parked for a partition that does not exist",
            "run this version again, or delete the row in dead_letters",
        ),
    }[kind]
    return Fault(problem, advice, aggregate_type, aggregate_id, version, f"{name} version {number}")


def _command(action: str, name: str, version: int) -> str:
    return f"k1s0-event-store subscriptions {action} {name} --version {version}"


def _checkpoint_faults(row: Sequence[Any]) -> Iterator[Fault]:
    name, version, partition, cursor, replay_until, _, half_leased, leased_long, cluster, snapshot = row
    subscription = f"{name} version {version} partition {partition}"
    now = None if snapshot is None else TxSnapshot.parse(snapshot)
    for text in (cursor, replay_until):
        problem = None if text is None else _cursor_problem(text, cluster, now)
        if problem is not None:
            advice = f"{problem[1]}: {_command('reset', name, version)}" if problem[1] else _REBASE
            yield Fault(problem[0], advice, subscription=subscription)
    if half_leased:
        advice = f"let another process take it: {_command('pause', name, version)}, then resume"
        yield Fault("its lease has an owner or an end, but not both", advice, subscription=subscription)
    if leased_long:
        yield Fault(
            "it is leased for more than a day: nobody else can take it when its owner dies",
            "look at the clock of the server; the owner's next beat gives it a new end, or stop it",
            subscription=subscription,
        )


def _cursor_problem(text: str, cluster: int, now: TxSnapshot | None) -> tuple[str, str] | None:
    """What is wrong with a cursor, and why to reset it; an empty reason: rebase instead."""
    try:
        place = parse(Cursor(text))
    except InvalidInputError:
        return f"the cursor cannot be read: {text:.100}", "it handles all events again after"
    if place.cluster != cluster:
        return f"the cursor is of cluster {place.cluster}, but this is {cluster}", ""
    if now is not None and not _is_reached(place, now):
        return (
            "the cursor is beyond everything that is committed",
            "events were lost, rebuild what it has made",
        )
    return None


def _is_reached(place: Place | Batch, now: TxSnapshot) -> bool:
    return now.contains(place.to if isinstance(place, Batch) else place.seen)


def _partition_faults(name: str, version: int, partitions: Sequence[int]) -> Iterator[Fault]:
    missing = sorted({*range(max(partitions))} - {*partitions})
    if missing:
        yield Fault(
            f"partitions are missing: {', '.join(map(str, missing))}; nobody handles their events",
            f"restore a backup, or begin anew: k1s0-event-store subscriptions remove {name} {version}",
            subscription=f"{name} version {version}",
        )


def _live_faults(name: str, versions: Sequence[tuple[int, bool]]) -> Iterator[Fault]:
    live = {version for version, is_live in versions if is_live}
    if len(live) == 1 and all(is_live for version, is_live in versions if version in live):
        return
    yield Fault(
        "it has no version that is live in all of its partitions: not all side effects are fired",
        f"choose one: k1s0-event-store subscriptions switch {name} {max(version for version, _ in versions)}",
        subscription=name,
    )
