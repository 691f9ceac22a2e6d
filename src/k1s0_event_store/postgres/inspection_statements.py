"""The SQL of looking: each statement reads what it shows, along an index, however large the tables are."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from k1s0_event_store.postgres.statements import Statement, quote_name, quote_text, schema_names, statement

# $1, $2: after this key; $3 how many are looked at, $4 how many are wanted. What is not wanted, other
# types ($10) too, is skipped inside the limit: the page ends after $3 streams whatever the filter, and
# the planner has nothing to guess.
_STREAMS: Final = """
SELECT aggregate_type, aggregate_id, version, created_at, updated_at FROM (
    SELECT * FROM {streams} WHERE (aggregate_type, aggregate_id) > ($1::text, $2::text)
    ORDER BY aggregate_type, aggregate_id LIMIT $3::bigint
) AS looked_at
WHERE ($10::text IS NULL OR aggregate_type = $10::text) AND version >= $5::bigint
  AND version <= $6::bigint AND strpos(aggregate_id, $7::text) > 0
  AND ($8::timestamptz IS NULL OR updated_at >= $8::timestamptz)
  AND ($9::timestamptz IS NULL OR updated_at < $9::timestamptz)
ORDER BY aggregate_type, aggregate_id LIMIT $4::bigint"""

# The last key that a page has looked at, or none where it came to the end.
_LAST_LOOKED_AT: Final = """
SELECT aggregate_type, aggregate_id FROM {streams}
WHERE (aggregate_type, aggregate_id) > ($1::text, $2::text)
ORDER BY aggregate_type, aggregate_id OFFSET $3::bigint - 1 LIMIT 1"""

_STREAM: Final = """
SELECT aggregate_type, aggregate_id, version, created_at, updated_at FROM {streams}
WHERE aggregate_type = $1::text AND aggregate_id = $2::text AND version > 0"""

# From one type to the next along the key, not through the streams between.
_AGGREGATE_TYPES: Final = """
WITH RECURSIVE types AS (
    (SELECT aggregate_type FROM {streams} ORDER BY aggregate_type LIMIT 1)
    UNION ALL
    SELECT (SELECT s.aggregate_type FROM {streams} AS s WHERE s.aggregate_type > t.aggregate_type
            ORDER BY s.aggregate_type LIMIT 1)
    FROM types AS t WHERE t.aggregate_type IS NOT NULL
)
SELECT aggregate_type FROM types WHERE aggregate_type IS NOT NULL LIMIT $1::bigint"""

# $1 characters of payload and metadata. OFFSET 0: each payload becomes text once, though it is looked
# at twice.
_VIEW: Final = """
SELECT aggregate_type, aggregate_id, version, position, event_id, event_type, occurred_at, recorded_at,
       left(line, $1::int), length(line), left(metadata::text, $1::int),
       metadata ->> 'correlation_id'::text, metadata ->> 'causation_id'::text
FROM ({rows}) AS e CROSS JOIN LATERAL (SELECT e.payload::text AS line OFFSET 0) AS p
ORDER BY {order}"""

_OF_STREAM: Final = """
    SELECT * FROM {events} WHERE aggregate_type = $2::text AND aggregate_id = $3::text
    AND version >= $4::bigint AND version <= $5::bigint ORDER BY version {direction} LIMIT $6::bigint"""
_LATEST: Final = "SELECT * FROM {events} WHERE position < $2::bigint ORDER BY position DESC LIMIT $3::bigint"
_BY_ID: Final = "SELECT * FROM {events} WHERE event_id = $2::uuid LIMIT 100"
_AT: Final = "SELECT * FROM {events} WHERE position = $2::bigint"

# From an event ($2) to its cause and on to the first one, by the key on event ids. Metadata is the
# app's: what is no id causes nothing. The number of steps ends a circle.
_ANCESTORS: Final = """
    WITH RECURSIVE ancestors AS (
        SELECT e.*, 0 AS depth FROM {events} AS e WHERE position = $2::bigint
        UNION ALL
        SELECT cause.* FROM ancestors AS a CROSS JOIN LATERAL (
            SELECT e.*, a.depth + 1 FROM {events} AS e
            WHERE e.event_id = CASE WHEN a.metadata ->> 'causation_id'::text ~ {uuid}
                               THEN (a.metadata ->> 'causation_id'::text)::uuid END
            LIMIT 1
        ) AS cause WHERE a.depth < 100
    ) SELECT * FROM ancestors WHERE depth > 0"""

# The rest of a correlation ($2): along an index on it, where the app made one. OFFSET 0 keeps the
# planner from walking along the positions until enough are found.
_CORRELATED: Final = """
    SELECT * FROM (SELECT * FROM {events} WHERE metadata ->> 'correlation_id'::text = $2::text OFFSET 0) AS e
    ORDER BY position LIMIT $3::bigint"""

# Else among the events from one position ($4) to another ($5).
_CORRELATED_AROUND: Final = """
    SELECT * FROM (SELECT * FROM {events} WHERE position >= $4::bigint AND position <= $5::bigint
                   OFFSET 0) AS e
    WHERE metadata ->> 'correlation_id'::text = $2::text ORDER BY position LIMIT $3::bigint"""

CORRELATION_INDEXED: Final = "(metadata ->> 'correlation_id'::text)"

# Is there an index on $1, and where do the positions end?
_SEARCH_SPACE: Final = """
SELECT EXISTS (
    SELECT FROM pg_index WHERE indrelid = {events_name}::regclass AND indisvalid
    AND pg_get_indexdef(indexrelid, 1, true) = $1::text
), coalesce((SELECT position FROM {events} ORDER BY position DESC LIMIT 1), 0)"""

_EVENT_BLOCKS: Final = """
SELECT pg_relation_size(oid) / current_setting('block_size')::bigint, reltuples, relpages
FROM pg_class WHERE oid = {events_name}::regclass"""

# $1 per cent of the table's blocks, the same ones each time; $2 of the newest events, so that a type
# that is new is seen. Counted apart: the second ones do not tell how frequent a type is.
_TYPES: Final = """
SELECT aggregate_type, event_type, sum(sampled)::bigint, sum(newest)::bigint, max(last_seen) FROM (
    SELECT aggregate_type, event_type, count(*) AS sampled, 0 AS newest, max(recorded_at) AS last_seen
    FROM {events} TABLESAMPLE SYSTEM ($1::float8) REPEATABLE (0) GROUP BY 1, 2
    UNION ALL
    SELECT aggregate_type, event_type, 0, count(*), max(recorded_at)
    FROM (SELECT * FROM {events} ORDER BY position DESC LIMIT $2::bigint) AS e GROUP BY 1, 2
) AS seen GROUP BY 1, 2"""

# The first position recorded at or after each of $3 + 1 moments, $2 apart from $1 on: bisection along
# the positions, all moments side by side, a look at one event per step.
_ACTIVITY: Final = """
WITH RECURSIVE search AS (
    SELECT $1::timestamptz + number::float8 * $2::interval AS moment, ends.low, ends.high
    FROM generate_series(0, $3::int) AS number,
         (SELECT coalesce((SELECT position FROM {events} ORDER BY position LIMIT 1), 0) AS low,
                 coalesce((SELECT position FROM {events} ORDER BY position DESC LIMIT 1) + 1, 0) AS high
         ) AS ends
    UNION ALL
    SELECT s.moment, CASE WHEN probe.recorded_at < s.moment THEN probe.position + 1 ELSE s.low END,
           CASE WHEN probe.recorded_at < s.moment THEN s.high ELSE (s.low + s.high) / 2 END
    FROM search AS s CROSS JOIN LATERAL (
        SELECT e.position, e.recorded_at FROM {events} AS e
        WHERE e.position >= (s.low + s.high) / 2 ORDER BY e.position LIMIT 1
    ) AS probe WHERE s.low < s.high
)
SELECT moment, min(low) FROM search WHERE low >= high GROUP BY moment ORDER BY moment"""

_SIZES: Final = """
SELECT relname::text, nullif(reltuples, -1)::bigint, pg_table_size(oid), pg_indexes_size(oid)
FROM pg_class WHERE relnamespace = {schema_name}::regnamespace AND relname = ANY ($1::text[])
ORDER BY pg_total_relation_size(oid) DESC, relname"""

_SNAPSHOTS: Final = """
SELECT version, schema_version, taken_at, length(state::text) FROM {snapshots}
WHERE aggregate_type = $1::text AND aggregate_id = $2::text ORDER BY version DESC"""

_NOW: Final = "SELECT pg_current_snapshot()::text"

# What the snapshot $2 did not see, the newest by (tx, position): $3 of them, of which $4 are shown.
_ARRIVED: Final = """
WITH arrived AS (
    SELECT * FROM {events} WHERE tx >= pg_snapshot_xmin($2::text::pg_snapshot)
    AND NOT pg_visible_in_snapshot(tx, $2::text::pg_snapshot)
    ORDER BY tx DESC, position DESC LIMIT $3::bigint
)
SELECT (SELECT count(*) FROM arrived), pg_current_snapshot()::text, view.* FROM (VALUES (1)) AS one
LEFT JOIN ({view}) AS view ON true"""
_NEWEST: Final = "SELECT * FROM arrived ORDER BY position DESC LIMIT $4::bigint"
_UUID: Final = "'^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$'"


class InspectionStatements:
    """All statements of looking, for one schema."""

    def __init__(self, schema: str) -> None:
        self._names = schema_names(schema)
        self._names |= {
            "events_name": quote_text(self._names["events"]),
            "schema_name": quote_text(quote_name(schema)),
            "uuid": _UUID,
        }
        self.stream = self._made(_STREAM)
        self.streams = self._made(_STREAMS)
        self.last_looked_at = self._made(_LAST_LOOKED_AT)
        self.aggregate_types = self._made(_AGGREGATE_TYPES)
        self.forwards = self._view(_OF_STREAM, "version ASC", direction="ASC")
        self.backwards = self._view(_OF_STREAM, "version DESC", direction="DESC")
        self.latest = self._view(_LATEST, "position DESC")
        self.by_id = self._view(_BY_ID, "position")
        self.at = self._view(_AT, "position")
        self.ancestors = self._view(_ANCESTORS, "position")
        self.correlated = self._view(_CORRELATED, "position")
        self.correlated_around = self._view(_CORRELATED_AROUND, "position")
        self.search_space = self._made(_SEARCH_SPACE)
        self.event_blocks = self._made(_EVENT_BLOCKS)
        self.types = self._made(_TYPES)
        self.activity = self._made(_ACTIVITY)
        self.sizes = self._made(_SIZES)
        self.snapshots = self._made(_SNAPSHOTS)
        self.now = self._made(_NOW)
        self.arrived = self._made(_ARRIVED, view=self._view_sql(_NEWEST, "position"))

    def _view(self, rows: str, order: str, **names: str) -> Statement:
        return self._made(self._view_sql(rows, order), **names)

    def _view_sql(self, rows: str, order: str) -> str:
        return _VIEW.replace("{rows}", rows).replace("{order}", order)

    def _made(self, sql: str, **fragments: str) -> Statement:
        for name, fragment in fragments.items():
            sql = sql.replace(f"{{{name}}}", fragment)
        return statement(sql, **self._names)


@lru_cache(maxsize=64)
def inspection_statements_for(schema: str) -> InspectionStatements:
    """The statements of `schema`, made once."""
    return InspectionStatements(schema)
