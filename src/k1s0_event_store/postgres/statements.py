"""The SQL, once for every driver. Written with $1-style parameters and {tables} to fill in.

Parameters carry casts, so that each driver sends them as what they are. JSON travels as text in
both directions: the app's own JSON codecs never meddle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in the two parameter styles of the drivers."""

    dollar: str
    pyformat: str


@dataclass(frozen=True, slots=True)
class Query:
    """A statement and its parameters, ready to be executed by anyone."""

    statement: Statement
    args: tuple[Any, ...] = ()

    @property
    def named_args(self) -> dict[str, Any]:
        return {f"p{number}": value for number, value in enumerate(self.args, 1)}


class Command(Query):
    """One that reaches no rows of ours: of no tenant, and some are taken where a transaction has failed."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Query):
    """A COPY into a table inside a transaction: its one row is the number of rows that are there now.

    `data` is read while the server takes it in, once.
    """

    schema: str
    table: str
    columns: Sequence[str]
    data: Iterator[bytes]


def statement(sql: str, **names: str) -> Statement:
    """`sql` with its fragments and {names} filled in. What is PostgreSQL's is looked for in pg_catalog only.

    Names go in last and in one pass: nothing inside a name is ever read as SQL or as a parameter.
    """
    for fragment, text in _FRAGMENTS.items():
        sql = sql.replace(fragment, text)
    for borrowed in (_FUNCTIONS, _TYPES, _RELATIONS):
        sql = borrowed.sub("pg_catalog.", sql)

    def fill(template: str, percent: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: names[found[1]].replace("%", percent), template)

    named = re.sub(r"\$(\d+)", r"%(p\1)s", sql.replace("%", "%%"))
    return Statement(fill(sql, "%"), fill(named, "%%"))


# PostgreSQL prefers the function whose parameters fit best, in whichever schema of the search path it is:
# public.unnest(text[]) to its own, which takes any array. What is exact in pg_catalog is listed all the
# same, so that nobody has to know. `unnest` of several arrays must not be qualified, and needs it not.
_FUNCTIONS: Final = re.compile(
    r"(?<![\w.])(?=(?:abs|age|array_agg|bool_and|bool_or|clock_timestamp|count|current_setting|format_type"
    r"|generate_series|has_\w+_privilege|hashtextextended|lag|left|length|make_interval|max|min|mod|now"
    r"|num_nonnulls|pg_\w+|row_security_active|set_config|strpos|sum|timestamptz_send|to_regnamespace"
    r"|width_bucket)\()"
)
# Types and relations are looked for in pg_temp first: whoever used the session before may have made a domain
# named text there, whose CHECK is code of theirs. These four types are words of the grammar.
_TYPES: Final = re.compile(r"(?<=::)(?!(?:bigint|boolean|int|interval)\b)(?=[a-z])")
_RELATIONS: Final = re.compile(r"(?:(?<=FROM )|(?<=JOIN ))(?=pg_(?!catalog\.)\w+\b(?!\())")


def quote_name(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """`text` as an SQL literal."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# $1 aggregate_type, $2 aggregate_id, $3 number of events, $4 ids, $5 types, $6 payloads, $7 metadata,
# $8 times; one type or metadata is that of all events, for unnest pads with NULL. `moved` locks and checks
# the head row before `inserted` draws the first position: a stream's versions and positions have one
# order, and a loser burns none. Should a trigger or rule ever drop a row, the division by zero undoes
# the whole statement. The arrays stand in sub-selects: a plan for as many elements as there are would look
# better than one for all lengths, and be made anew for each append, which takes as long as the append.
_INSERTED: Final = """,
inserted AS (
    INSERT INTO {events} (aggregate_type, aggregate_id, version, event_id, event_type,
                          payload, metadata, occurred_at)
    SELECT $1::text, $2::text, moved.version - $3::bigint + e.ordinality, e.event_id,
           coalesce(e.event_type, (SELECT ($5::text[])[1])), e.payload::json,
           coalesce(e.metadata::json, (SELECT ($7::text[])[1]::json)), e.occurred_at
    FROM moved, unnest((SELECT $4::uuid[]), (SELECT $5::text[]), (SELECT $6::text[]), (SELECT $7::text[]),
                       (SELECT $8::timestamptz[]))
         WITH ORDINALITY AS e (event_id, event_type, payload, metadata, occurred_at, ordinality)
    RETURNING 1
)
SELECT version / ((SELECT count(*) FROM inserted) = $3::bigint)::int{notified} FROM moved"""

# One event, the most frequent append by far: $4 to $8 are its values. No arrays are made, sent and unnested.
_INSERTED_ONE: Final = """,
inserted AS (
    INSERT INTO {events} (aggregate_type, aggregate_id, version, event_id, event_type,
                          payload, metadata, occurred_at)
    SELECT $1::text, $2::text, moved.version, $4::uuid, $5::text, $6::text::json, $7::text::json,
           $8::timestamptz
    FROM moved
    RETURNING 1
)
SELECT version / (SELECT count(*) FROM inserted){notified} FROM moved"""

# For COPY, which comes after it in the same transaction.
_MOVED: Final = """
SELECT version{notified} FROM moved"""

# The ids are looked up first, in the index that the insert is about to touch, where the version does
# not tell a repeated batch from a new one, and where an error would end the caller's transaction. By
# `|| ''` PostgreSQL 18 does not skip through the index on versions instead: it would read the whole stream,
# which it takes for as short as all are on average.
_UNLESS_TAKEN: Final = """NOT EXISTS (
          SELECT FROM {events} WHERE event_id = {ids} AND aggregate_id || '' = $2::text)"""
_IDS: Final = "ANY ((SELECT $4::uuid[])::uuid[])"
_ID: Final = "$4::uuid"

# A stream at exactly {expected}. The UPDATE waits for a running writer and then checks its outcome
# (EvalPlanQual): no separate lock is needed, and a refusal is an answer without a row.
_APPEND_AT: Final = """
WITH moved AS (
    UPDATE {streams} SET version = version + $3::bigint
    WHERE aggregate_type = $1::text AND aggregate_id = $2::text AND version = {expected}::bigint
      AND {unless_taken}
    RETURNING version
){inserted}"""

# A stream without events: no head row yet, or one that lock() left at version 0.
_APPEND_NEW: Final = """
WITH moved AS (
    INSERT INTO {streams} AS head (aggregate_type, aggregate_id, version)
    SELECT $1::text, $2::text, $3::bigint WHERE {unless_taken}
    ON CONFLICT ON CONSTRAINT pk_streams DO UPDATE SET version = excluded.version
        WHERE head.version = 0
    RETURNING version
){inserted}"""

_APPEND_ANY: Final = """
WITH moved AS (
    INSERT INTO {streams} AS head (aggregate_type, aggregate_id, version)
    SELECT $1::text, $2::text, $3::bigint WHERE {unless_taken}
    ON CONFLICT ON CONSTRAINT pk_streams DO UPDATE SET version = head.version + $3::bigint
    RETURNING version
){inserted}"""

_APPEND_EXISTING: Final = """
WITH moved AS (
    UPDATE {streams} SET version = version + $3::bigint
    WHERE aggregate_type = $1::text AND aggregate_id = $2::text AND version > 0
      AND {unless_taken}
    RETURNING version
){inserted}"""

# Appends to different streams: $1 types, $2 ids, $3 numbers of events, $4 expected versions (NULL any, -1
# STREAM_EXISTS); for each event $5 the number of its append, $6 ids, $7 types, $8 payloads, $9 metadata,
# $10 times (one type or metadata is that of all). An append without a row in the answer has stored nothing
# and goes alone. So it does with all others where the statement fails, as for an id that is taken: looked
# for only where the version does not tell a repeated append from a new one.
#
# No append waits for the stream of another. `locked` takes the heads that are free (SKIP LOCKED) and where
# they should be. `created` inserts those that the snapshot does not see, in one order for all, so that two
# such statements cannot wait for each other, and before any lock is held; where another transaction is just
# creating the same stream it waits for it, a tenth of a second (for this transaction only). That is less
# than deadlock_timeout: nobody else's transaction is ended because of this statement.
#
# The plan does not depend on what the planner believes. A lock inside LATERAL and OFFSET 0 keep it from
# making joins of what has to be a look-up by key for each append; ON CONFLICT finds the row by its index.
# The parameters stand in sub-selects, or a plan would be made anew for the length of the arrays.
# Sorting the events also has every head locked before the first position is drawn.
_APPEND_TOGETHER: Final = """
WITH wanted AS MATERIALIZED (
    SELECT *, sum(events) OVER (ORDER BY number) AS last
    FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::int[]), (SELECT $4::bigint[]))
         WITH ORDINALITY AS a (aggregate_type, aggregate_id, events, expected, number)
), created AS (
    INSERT INTO {streams} (aggregate_type, aggregate_id, version)
    SELECT aggregate_type, aggregate_id, events FROM wanted
    WHERE (SELECT set_config('lock_timeout', '100ms', true)) IS NOT NULL
      AND (expected = 0 OR expected IS NULL AND NOT EXISTS (
              SELECT FROM {streams} AS head
              WHERE head.aggregate_type = wanted.aggregate_type AND head.aggregate_id = wanted.aggregate_id
              OFFSET 0))
    ORDER BY aggregate_type COLLATE "C", aggregate_id COLLATE "C"
    ON CONFLICT ON CONSTRAINT pk_streams DO NOTHING
    RETURNING aggregate_type, aggregate_id, version
), locked AS (
    SELECT wanted.aggregate_type, wanted.aggregate_id, wanted.events
    FROM wanted CROSS JOIN LATERAL (
        SELECT FROM {streams} AS head
        WHERE head.aggregate_type = wanted.aggregate_type AND head.aggregate_id = wanted.aggregate_id
          AND CASE WHEN wanted.expected > 0 THEN head.version = wanted.expected
                   ELSE (wanted.expected IS NULL OR head.version > 0) AND NOT EXISTS (
                       SELECT FROM {events} AS e
                       WHERE e.event_id = ANY (($6::uuid[])[wanted.last - wanted.events + 1 : wanted.last])
                         AND e.aggregate_id || '' = wanted.aggregate_id
                       OFFSET 0) END
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS head
    WHERE wanted.expected IS DISTINCT FROM 0 AND (SELECT count(*) FROM created) >= 0
), advanced AS (
    INSERT INTO {streams} AS head (aggregate_type, aggregate_id, version)
    SELECT aggregate_type, aggregate_id, events FROM locked
    ON CONFLICT ON CONSTRAINT pk_streams DO UPDATE SET version = head.version + excluded.version
    RETURNING aggregate_type, aggregate_id, version
), placed AS (
    SELECT wanted.*, moved.version
    FROM (SELECT * FROM created UNION ALL SELECT * FROM advanced) AS moved
    JOIN wanted USING (aggregate_type, aggregate_id)
), inserted AS (
    INSERT INTO {events} (aggregate_type, aggregate_id, version, event_id, event_type,
                          payload, metadata, occurred_at)
    SELECT placed.aggregate_type, placed.aggregate_id, placed.version - placed.last + e.ordinality,
           e.event_id, coalesce(e.event_type, (SELECT ($7::text[])[1])), e.payload::json,
           coalesce(e.metadata::json, (SELECT ($9::text[])[1]::json)), e.occurred_at
    FROM unnest((SELECT $5::int[]), (SELECT $6::uuid[]), (SELECT $7::text[]), (SELECT $8::text[]),
                (SELECT $9::text[]), (SELECT $10::timestamptz[]))
         WITH ORDINALITY AS e (number, event_id, event_type, payload, metadata, occurred_at, ordinality)
    JOIN placed USING (number)
    ORDER BY e.ordinality
    RETURNING 1
)
SELECT number, version / ((SELECT count(*) FROM inserted) = (SELECT sum(events) FROM placed))::int{notified}
FROM placed"""

# After a refusal: where the stream stands, and which of the ids are taken under this aggregate id.
_REFUSED: Final = """
SELECT coalesce((SELECT version FROM {streams}
                 WHERE aggregate_type = $1::text AND aggregate_id = $2::text), 0),
       e.event_id,
       CASE WHEN e.aggregate_type = $1::text THEN e.version END
FROM (VALUES (1)) AS one
LEFT JOIN {events} AS e ON e.event_id = ANY ((SELECT $3::uuid[])::uuid[])
                       AND e.aggregate_id || '' = $2::text"""

_CURRENT_VERSION: Final = """
SELECT version FROM {streams} WHERE aggregate_type = $1::text AND aggregate_id = $2::text"""

_LOCK: Final = """
SELECT version FROM {streams} WHERE aggregate_type = $1::text AND aggregate_id = $2::text FOR UPDATE"""

# A stream without a head row gets one at version 0 to be locked; readers take it for missing. The
# update that changes nothing locks the row of whoever was faster.
_LOCK_NEW: Final = """
INSERT INTO {streams} AS head (aggregate_type, aggregate_id, version) VALUES ($1::text, $2::text, 0)
ON CONFLICT ON CONSTRAINT pk_streams DO UPDATE SET version = head.version
RETURNING version"""

# Times travel in PostgreSQL's binary form, as it is in memory. Making datetimes of them takes both drivers
# longer than all the rest of a row, and few are ever looked at.
_COLUMNS: Final = """event_type, payload::text, metadata::text, event_id,
       timestamptz_send(occurred_at), version, timestamptz_send(recorded_at), position"""

_READ: Final = """
SELECT {columns} FROM {events}
WHERE aggregate_type = $1::text AND aggregate_id = $2::text
  AND version >= $3::bigint AND version <= $4::bigint
ORDER BY version {direction} LIMIT $5::bigint"""

# What one moment sees. The last position is taken in the same snapshot: no event it sees is beyond.
# The writers are those seen above the oldest running transaction; asked for on a standby only.
_FEED_NOW: Final = """
SELECT pg_current_snapshot()::text, pg_current_xact_id_if_assigned()::text::bigint, pg_is_in_recovery(),
       (SELECT system_identifier FROM pg_control_system()), (SELECT system_identifier FROM {cluster}),
       (SELECT coalesce(max(position), 0) FROM {events}),
       CASE WHEN pg_is_in_recovery() THEN (
           SELECT coalesce(array_agg(DISTINCT tx::text::bigint), '{}') FROM {events}
           WHERE tx >= pg_snapshot_xmin(pg_current_snapshot())
             AND tx < pg_snapshot_xmax(pg_current_snapshot())) END"""

# A page of the feed: what is visible in snapshot B ($6) and not in A, by position. $1 aggregate types,
# $2 event types, $3 number of partitions, $4 partition, $5 limit. Visibility and filters are an answer
# here, not a condition: the planner would guess how many rows they leave and may sort the rest of the
# table for every page; and so the page knows how far it has looked. The sub-selects parse a snapshot
# once, not per row, and those around limits and bounds keep the planner from planning for the values at
# hand, which takes longer than a page. JSON that nobody wants stays where it is. The partition is
# PostgreSQL's own hash of text, which hash-partitioned tables rely on to stay the same.
_FEED: Final = """
SELECT wanted, aggregate_type, aggregate_id, event_type, CASE WHEN wanted THEN payload::text ELSE '' END,
       CASE WHEN wanted THEN metadata::text ELSE '' END, event_id,
       timestamptz_send(occurred_at), version, timestamptz_send(recorded_at), position
FROM (
    SELECT *, is_new AND pg_visible_in_snapshot(tx, (SELECT $6::text::pg_snapshot))
           AND ($1::text[] IS NULL OR aggregate_type = ANY ($1::text[]))
           AND ($2::text[] IS NULL OR event_type = ANY ($2::text[]))
           AND ($3::bigint = 1 OR {partition_of} = $4::bigint) AS wanted
    FROM ({rows}) AS e
) AS e"""


def partition_of(event: str, partitions: str) -> str:
    """The partition of a stream, in SQL; `event` is what its columns are prefixed with."""
    hashed = f"hashtextextended({event}aggregate_id, hashtextextended({event}aggregate_type, 0))"
    return f"abs(mod({hashed}, {partitions}))"


# The ids that were under way in A and have finished in B ($7): each is a walk of its own on
# (tx, position) from $8 to $9, ended by the limit. The end stands outside: without statistics the
# planner would take the range for a few rows and sort all of a large transaction for every page.
_LATE: Final = """
    SELECT e.*, true FROM pg_catalog.unnest((SELECT $7::text[])) AS late (tx)
    CROSS JOIN LATERAL (SELECT * FROM {events} AS e
                        WHERE e.tx = late.tx::xid8 AND e.position > (SELECT $8::bigint)
                        ORDER BY e.position LIMIT (SELECT $5::bigint)) AS e
    WHERE e.position <= (SELECT $9::bigint)"""

# Little to read, the normal case: from A's xmax ($10) to B's ($11) along (tx, position). One query with
# OR over this and the late ones would walk the whole table.
_FRESH: Final = """
    (SELECT *, true AS is_new FROM {events}
     WHERE tx >= (SELECT $10::text::xid8) AND tx < (SELECT $11::text::xid8)
     ORDER BY tx, position LIMIT (SELECT $5::bigint))
    UNION ALL ({late})"""

# Much to read: a walk along the positions from $9 to the last one in B ($11). What lies below $9 is
# late. The planner cannot sort for "not visible in A" ($10), as it does for a comparison with A's xmax.
_WALK: Final = """
    (SELECT *, NOT pg_visible_in_snapshot(tx, (SELECT $10::text::pg_snapshot)) AS is_new
     FROM {events} WHERE position > (SELECT $9::bigint) AND position <= (SELECT $11::bigint)
     ORDER BY position LIMIT (SELECT $5::bigint))
    UNION ALL ({late}) ORDER BY position LIMIT (SELECT $5::bigint)"""

# Where the walk begins. OFFSET 0 keeps the planner from looking for the minimum along the positions.
_FLOOR: Final = """
SELECT min(position) FROM (
    SELECT position FROM {events} WHERE tx >= $1::text::xid8 AND tx < $2::text::xid8 OFFSET 0
) AS fresh"""

# `kept` counts the new row in, which the DELETE itself cannot see yet.
_SAVE_SNAPSHOT: Final = """
WITH saved AS (
    INSERT INTO {snapshots} (aggregate_type, aggregate_id, version, schema_version, state)
    VALUES ($1::text, $2::text, $3::bigint, $4::bigint, $5::text::json)
    ON CONFLICT ON CONSTRAINT pk_snapshots DO UPDATE
    SET state = excluded.state, schema_version = excluded.schema_version, taken_at = excluded.taken_at
), kept AS (
    SELECT version FROM (
        SELECT version FROM {snapshots} WHERE aggregate_type = $1::text AND aggregate_id = $2::text
        UNION SELECT $3::bigint
    ) AS v ORDER BY version DESC LIMIT $6::bigint
)
DELETE FROM {snapshots}
WHERE aggregate_type = $1::text AND aggregate_id = $2::text
  AND version < (SELECT min(version) FROM kept) AND version <> $3::bigint"""

_LOAD_SNAPSHOT: Final = """
SELECT version, state::text, timestamptz_send(taken_at), schema_version FROM {snapshots}
WHERE aggregate_type = $1::text AND aggregate_id = $2::text AND version <= $3::bigint
  AND ($4::bigint IS NULL OR schema_version = $4::bigint)
ORDER BY version DESC LIMIT 1"""

# A snapshot (first, without an event type) and the events from it on, or from the beginning, in one
# round trip. $3 the highest version, $4 the schema version (NULL: any), $5 the most events.
_READ_SINCE_SNAPSHOT: Final = """
WITH newest AS (
    SELECT version, state, taken_at, schema_version FROM {snapshots}
    WHERE aggregate_type = $1::text AND aggregate_id = $2::text AND version <= $3::bigint
      AND ($4::bigint IS NULL OR schema_version = $4::bigint)
    ORDER BY version DESC LIMIT 1
)
(SELECT NULL AS event_type, state::text, NULL AS metadata, NULL::uuid AS event_id,
        timestamptz_send(taken_at), version, NULL::bytea AS recorded_at, schema_version::bigint
 FROM newest)
UNION ALL
(SELECT {columns} FROM {events}
 WHERE aggregate_type = $1::text AND aggregate_id = $2::text
   AND version >= coalesce((SELECT version FROM newest), 0) AND version <= $3::bigint
 ORDER BY version LIMIT $5::bigint)"""

_FRAGMENTS: Final = {
    "{columns}": _COLUMNS,
    "{late}": _LATE,
    "{partition_of}": partition_of("", "$3::bigint"),
}

TABLES: Final = (
    "streams", "events", "snapshots", "cluster", "subscriptions", "subscription_workers", "dead_letters",
    "personal_keys", "inbox",
)  # fmt: skip

SAVEPOINT: Final = Command(statement("SAVEPOINT k1s0_event_store_lock"))
ROLLBACK_TO_SAVEPOINT: Final = Command(statement("ROLLBACK TO SAVEPOINT k1s0_event_store_lock"))
RELEASE_SAVEPOINT: Final = Command(statement("RELEASE SAVEPOINT k1s0_event_store_lock"))
LOCK_TIMEOUT: Final = statement("SELECT current_setting('lock_timeout')")
# set_config(..., true) is SET LOCAL with a parameter: nothing is left behind in a pooled session.
SET_LOCK_TIMEOUT: Final = statement("SELECT set_config('lock_timeout', $1::text, true)")
TENANT_SETTING: Final = "k1s0_event_store.tenant"
# With the question whether it makes any difference: a superuser would see the rows of all tenants.
_ENTER: Final = statement("SELECT set_config($1::text, $2::text, true), row_security_active($3::text)")


_ENTRY: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config({setting}, {tenant}, true);
SELECT 1 / row_security_active({events})::int"""


def schema_names(schema: str) -> dict[str, str]:
    """What to fill in for {tables}: their names, quoted, in `schema`."""
    return {table: f"{quote_name(schema)}.{table}" for table in TABLES}


def entering(tenant: str, schema: str) -> Query:
    """Makes the rest of the transaction that of `tenant`; False comes back where that hides no rows."""
    return Query(_ENTER, (TENANT_SETTING, tenant, schema_names(schema)["events"]))


@lru_cache(maxsize=1024)
def entry(tenant: str, schema: str) -> str:
    """A transaction that begins so is that of `tenant`; it divides by zero where that hides no rows.

    Several statements in one message, which therefore has no parameters.
    """
    names = {
        "setting": quote_text(TENANT_SETTING),
        "tenant": quote_text(tenant),
        "events": quote_text(schema_names(schema)["events"]),
    }
    return statement(_ENTRY, **names).dollar


@dataclass(frozen=True, slots=True)
class Appends:
    """One kind of append, for every version that can be expected of the stream."""

    at: Statement
    new: Statement
    any: Statement
    existing: Statement

    @classmethod
    def of(cls, names: dict[str, str], inserted: str, *, ids: str = _IDS, looks_up: bool = True) -> Self:
        """With `inserted` behind the moved head. Not `looks_up`: only where the version does not tell."""
        taken = _UNLESS_TAKEN.replace("{ids}", ids)
        expected = "$5" if inserted is _MOVED else "$9"
        texts = {
            "at": (_APPEND_AT.replace("{expected}", expected), looks_up),
            "new": (_APPEND_NEW, looks_up),
            "any": (_APPEND_ANY, True),
            "existing": (_APPEND_EXISTING, True),
        }
        return cls(**{
            name: statement(
                text.replace("{unless_taken}", taken if looks else "true").replace("{inserted}", inserted),
                **names,
            )
            for name, (text, looks) in texts.items()
        })  # fmt: skip


class Statements:
    """All statements for one schema; `copies`: large appends go in by COPY."""

    def __init__(self, schema: str, notify: bool, copies: bool) -> None:
        self.schema = schema
        self.copies = copies
        names = schema_names(schema)
        names["notified"] = f", pg_notify({quote_text(schema)}, '')" if notify else ""
        self.append = Appends.of(names, _INSERTED, looks_up=False)
        self.append_joined = Appends.of(names, _INSERTED)
        self.append_one = Appends.of(names, _INSERTED_ONE, ids=_ID, looks_up=False)
        self.append_one_joined = Appends.of(names, _INSERTED_ONE, ids=_ID)
        self.move = Appends.of(names, _MOVED)
        self.append_together = statement(_APPEND_TOGETHER, **names)
        self.refused = statement(_REFUSED, **names)
        self.current_version = statement(_CURRENT_VERSION, **names)
        self.lock = statement(_LOCK, **names)
        self.lock_new = statement(_LOCK_NEW, **names)
        self.read = statement(_READ, **names, direction="ASC")
        self.read_backwards = statement(_READ, **names, direction="DESC")
        self.feed_now = statement(_FEED_NOW, **names)
        self.feed_fresh = statement(_FEED.replace("{rows}", _FRESH), **names)
        self.feed_walk = statement(_FEED.replace("{rows}", _WALK), **names)
        self.feed_floor = statement(_FLOOR, **names)
        self.save_snapshot = statement(_SAVE_SNAPSHOT, **names)
        self.load_snapshot = statement(_LOAD_SNAPSHOT, **names)
        self.read_since_snapshot = statement(_READ_SINCE_SNAPSHOT, **names)


@lru_cache(maxsize=64)
def statements_for(schema: str, notify: bool = False, copies: bool = True) -> Statements:
    """The statements of `schema`, made once; with `notify`, appends wake up who listens to it."""
    return Statements(schema, notify, copies)
