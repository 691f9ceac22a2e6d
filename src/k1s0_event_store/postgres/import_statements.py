"""The SQL of imports: heads first, then the events by COPY."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from k1s0_event_store.postgres.binary_copy import EVENT_COLUMNS
from k1s0_event_store.postgres.statements import Command, Statement, quote_text, schema_names, statement

# $1 aggregate types, $2 aggregate ids, $3 numbers of events, $4 versions that the streams then have to
# have. Every head is locked and moved before the first position is drawn, as in an append. The order is
# the same in every session, whatever its collation: two imports of the same streams wait for each other
# and never in a circle. The answer is how many streams are now where they should be: the caller takes
# all back unless it is every one.
_MOVE_HEADS: Final = """
WITH run AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
             AS r (aggregate_type, aggregate_id, events, last)
), moved AS (
    INSERT INTO {streams} AS head (aggregate_type, aggregate_id, version)
    SELECT aggregate_type, aggregate_id, events FROM run
    ORDER BY aggregate_type COLLATE "C", aggregate_id COLLATE "C"
    ON CONFLICT ON CONSTRAINT pk_streams DO UPDATE SET version = head.version + excluded.version
    RETURNING aggregate_type, aggregate_id, version
)
SELECT count(*){notified} FROM moved JOIN run USING (aggregate_type, aggregate_id)
WHERE moved.version = run.last"""

# What stands in streams $1, $2 from versions $3 to $4: a row for each event and one for a stream without
# any. OFFSET 0 makes it a walk along the key for each stream: to join, the planner may read all events.
_STORED: Final = """
SELECT run.number, coalesce((SELECT version FROM {streams} AS head
                             WHERE head.aggregate_type = run.aggregate_type
                               AND head.aggregate_id = run.aggregate_id), 0), e.event_id, e.event_type
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
     WITH ORDINALITY AS run (aggregate_type, aggregate_id, first, last, number)
LEFT JOIN LATERAL (
    SELECT version, event_id, event_type FROM {events}
    WHERE aggregate_type = run.aggregate_type AND aggregate_id = run.aggregate_id
      AND version >= run.first AND version <= run.last OFFSET 0
) AS e ON true
ORDER BY run.number, e.version"""

# Which of the ids $4 are taken under the aggregate ids $2, as places in the arrays. What stands where it
# belongs ($1, $3) was imported by somebody else meanwhile, and takes nothing away.
_TAKEN: Final = """
SELECT given.place FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[])
     WITH ORDINALITY AS given (aggregate_type, aggregate_id, version, event_id, place)
CROSS JOIN LATERAL (
    SELECT aggregate_type, version FROM {events}
    WHERE event_id = given.event_id AND aggregate_id = given.aggregate_id OFFSET 0
) AS e
WHERE (e.aggregate_type, e.version) <> (given.aggregate_type, given.version)
ORDER BY given.place"""

# A part of the events, where PostgreSQL takes no COPY: $1 to $8 are their columns.
_INSERT_EVENTS: Final = """
WITH inserted AS (
    INSERT INTO {events} ({copied})
    SELECT aggregate_type, aggregate_id, version, event_id, event_type, payload::json, metadata::json,
           occurred_at
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                $8::timestamptz[]) AS e ({copied})
    RETURNING 1
)
SELECT count(*) FROM inserted"""

SAVEPOINT: Final = Command(statement("SAVEPOINT k1s0_event_store_import"))
ROLLBACK_TO_SAVEPOINT: Final = Command(statement("ROLLBACK TO SAVEPOINT k1s0_event_store_import"))
RELEASE_SAVEPOINT: Final = Command(statement("RELEASE SAVEPOINT k1s0_event_store_import"))


class ImportStatements:
    """The statements for one schema; `copies`: the events go in by COPY."""

    def __init__(self, schema: str, notify: bool, copies: bool) -> None:
        names = schema_names(schema)
        names["notified"] = f", pg_notify({quote_text(schema)}, '')" if notify else ""
        self.schema = schema
        self.copies = copies
        self.move_heads: Statement = statement(_MOVE_HEADS, **names)
        self.stored = statement(_STORED, **names)
        self.taken = statement(_TAKEN, **names)
        self.insert_events = statement(_INSERT_EVENTS, **names, copied=", ".join(EVENT_COLUMNS))


@lru_cache(maxsize=64)
def import_statements_for(schema: str, notify: bool = False, copies: bool = True) -> ImportStatements:
    """The statements of `schema`, made once; with `notify`, imports wake up who listens to it."""
    return ImportStatements(schema, notify, copies)
