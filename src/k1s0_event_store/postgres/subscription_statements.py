"""The SQL of subscriptions: leases and checkpoints moved by compare-and-set, parked events."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from k1s0_event_store.postgres.statements import Statement, partition_of, schema_names, statement

# $1 name, $2 version, $3 partition, $4 token: all that a worker does is tied to these.
_HELD: Final = "name = $1::text AND version = $2::bigint AND partition = $3::bigint AND token = $4::bigint"
_ONE: Final = "name = $1::text AND version = $2::bigint"

_COUNT: Final = "SELECT count(*) FROM {subscriptions} WHERE {one}"

# The partial unique index lets one version of a name be live; the loser of a race comes back.
_REGISTER: Final = """
INSERT INTO {subscriptions} (name, version, partition, live)
SELECT $1::text, $2::bigint, n, NOT EXISTS (SELECT FROM {subscriptions} WHERE name = $1::text AND live)
FROM generate_series(0, $3::bigint - 1) AS n
ON CONFLICT DO NOTHING"""

# The heart beats on: all in one, where nothing has to change hands. The last two columns tell: who else
# lives (without newcomers), and how many partitions are free.
_BEAT: Final = """
WITH lives AS (
    INSERT INTO {subscription_workers} (name, version, worker, alive_until)
    VALUES ($1::text, $2::bigint, $3::text, clock_timestamp() + make_interval(secs => $4::float8))
    ON CONFLICT ON CONSTRAINT pk_subscription_workers DO UPDATE SET alive_until = excluded.alive_until
), mine AS (
    UPDATE {subscriptions} SET leased_until = clock_timestamp() + make_interval(secs => $4::float8)
    WHERE {one} AND owner = $3::text
    RETURNING partition, token, cursor, replay_until, live, NOT paused AND NOT stopped AS active
)
SELECT mine.*,
       EXISTS (SELECT FROM {dead_letters} AS d WHERE {one} AND d.partition = mine.partition AND retry),
       (SELECT array_agg(worker) FROM {subscription_workers} WHERE {one} AND alive_until > clock_timestamp()),
       (SELECT count(*) FROM {subscriptions} WHERE {one}),
       (SELECT count(*) FROM {subscriptions}
        WHERE {one} AND owner IS DISTINCT FROM $3::text AND leased_until > clock_timestamp())
FROM mine ORDER BY mine.partition"""

# Locks the partitions, in order, so that beats of several workers come one after the other.
_PARTITIONS: Final = """
SELECT partition, token, cursor, replay_until, live, NOT paused AND NOT stopped, owner,
       coalesce(leased_until > clock_timestamp(), false)
FROM {subscriptions} WHERE {one} ORDER BY partition FOR UPDATE"""

_FORGET_DEAD: Final = "DELETE FROM {subscription_workers} WHERE {one} AND alive_until < clock_timestamp()"

_WORKERS: Final = "SELECT worker FROM {subscription_workers} WHERE {one}"

_FORGET_WORKER: Final = "DELETE FROM {subscription_workers} WHERE {one} AND worker = $3::text"

_TAKE: Final = """
UPDATE {subscriptions} SET owner = $3::text, token = token + 1,
    leased_until = clock_timestamp() + make_interval(secs => $5::float8)
WHERE {one} AND partition = ANY ($4::bigint[])"""

_TO_RETRY_IN: Final = "SELECT DISTINCT partition FROM {dead_letters} WHERE {one} AND retry"

_RELOAD: Final = "SELECT cursor, replay_until FROM {subscriptions} WHERE {held}"

_RELEASE: Final = "UPDATE {subscriptions} SET owner = NULL, leased_until = NULL WHERE {held}"

_RELEASE_ALL: Final = """
UPDATE {subscriptions} SET owner = NULL, leased_until = NULL WHERE {one} AND owner = $3::text"""

# The checkpoint moves from where this worker knows it to be ($5), or not at all: neither an old owner
# nor a commit whose answer was lost can move it twice.
_SAVE: Final = """
UPDATE {subscriptions} SET cursor = $6::text, handled = handled + $7::bigint,
    replay_until = CASE WHEN $8::boolean THEN NULL ELSE replay_until END,
    error = CASE WHEN stopped THEN error END, failed_at = CASE WHEN stopped THEN failed_at END,
    updated_at = now()
WHERE {held} AND cursor IS NOT DISTINCT FROM $5::text
RETURNING 1"""

_HOLD: Final = "SELECT 1 FROM {subscriptions} WHERE {held} FOR UPDATE"

_FAIL: Final = """
UPDATE {subscriptions} SET error = $5::text, failed_at = now(), stopped = stopped OR $6::boolean
WHERE {held}"""

_PARK: Final = """
INSERT INTO {dead_letters} (name, version, partition, aggregate_type, aggregate_id, event_version,
                            event_type, position, error, attempts)
SELECT $1::text, $2::bigint, $3::bigint, e.*, $9::text, $10::bigint
FROM unnest($4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[]) AS e
ON CONFLICT ON CONSTRAINT pk_dead_letters DO UPDATE
SET error = coalesce(excluded.error, dead_letters.error),
    attempts = greatest(excluded.attempts, dead_letters.attempts)"""

_WAIT_AGAIN: Final = """
UPDATE {dead_letters} SET retry = false
WHERE {one} AND retry AND (aggregate_type, aggregate_id) IN (SELECT * FROM unnest($3::text[], $4::text[]))"""

# What an event waited for may have been dropped in the same moment: then nothing holds it any more.
_RETRY_FREED: Final = """
UPDATE {dead_letters} AS d SET retry = true
WHERE {one} AND (aggregate_type, aggregate_id) IN (SELECT * FROM unnest($3::text[], $4::text[]))
  AND NOT EXISTS (SELECT FROM {dead_letters} AS cause
                  WHERE (cause.name, cause.version, cause.aggregate_type, cause.aggregate_id)
                      = (d.name, d.version, d.aggregate_type, d.aggregate_id) AND cause.error IS NOT NULL)"""

_UNPARK: Final = """
DELETE FROM {dead_letters}
WHERE {one} AND aggregate_type = $3::text AND aggregate_id = $4::text AND event_version = $5::bigint"""

_PARKED_STREAMS: Final = """
SELECT DISTINCT aggregate_type, aggregate_id FROM {dead_letters} WHERE {one} AND partition = $3::bigint"""

_LETTER: Final = (
    "name, version, aggregate_type, aggregate_id, event_version, event_type, position, error, attempts,"
    " parked_at"
)

_TO_RETRY: Final = """
SELECT {letter} FROM (
    SELECT *, bool_or(retry) OVER stream AS wanted, min(position) OVER stream AS first
    FROM {dead_letters} WHERE {one} AND partition = $3::bigint
    WINDOW stream AS (PARTITION BY aggregate_type, aggregate_id)
) AS parked WHERE wanted ORDER BY first, aggregate_type, aggregate_id, event_version"""

_PARKED: Final = """
SELECT {letter} FROM {dead_letters} WHERE $1::text IS NULL OR name = $1::text
ORDER BY parked_at, position LIMIT $2::bigint"""

# $3, $4: one stream, or NULL for all.
_OF_STREAM: Final = """
{one} AND ($3::text IS NULL OR (aggregate_type = $3::text AND aggregate_id = $4::text))"""

_RETRY: Final = "UPDATE {dead_letters} SET retry = true WHERE {of_stream} RETURNING 1"

_DROP: Final = "DELETE FROM {dead_letters} WHERE {of_stream} RETURNING 1"

_SET_REPEATS: Final = (
    "UPDATE {subscriptions} SET repeats = $3::boolean WHERE {one} AND repeats <> $3::boolean"
)

# At a reset: parked events come again with the others, unless those are passed by.
_DROP_REPEATED: Final = """
DELETE FROM {dead_letters} WHERE {one}
AND ($3::boolean OR EXISTS (SELECT FROM {subscriptions} WHERE {one} AND repeats))"""

_DROP_ALL: Final = "DELETE FROM {dead_letters} WHERE {one}"

_STATUS: Final = """
SELECT s.name, s.version, s.live, s.partition, s.owner, coalesce(s.leased_until > clock_timestamp(), false),
       s.paused, s.stopped, s.cursor, s.handled, s.replay_until IS NOT NULL, s.error, s.failed_at,
       (SELECT count(*) FROM {dead_letters} AS d WHERE d.name = s.name AND d.version = s.version)
FROM {subscriptions} AS s WHERE $1::text IS NULL OR s.name = $1::text
ORDER BY s.name, s.version, s.partition"""

# How much is left, counted up to $1, and the age of the oldest of it. Three forms, by the cursor.
_BEHIND: Final = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(recorded_at)), 0)::float8
FROM ({rows} LIMIT $1::bigint) AS e"""
_BEHIND_ALL: Final = "SELECT recorded_at FROM {events} ORDER BY position"
_BEHIND_PLACE: Final = """
(SELECT recorded_at FROM {events} WHERE tx >= $2::text::xid8 ORDER BY tx, position LIMIT $1::bigint)
UNION ALL
(SELECT e.recorded_at FROM pg_catalog.unnest($3::text[]) AS late (tx)
 JOIN {events} AS e ON e.tx = late.tx::xid8 LIMIT $1::bigint)"""
_BEHIND_BATCH: Final = """
SELECT recorded_at FROM {events}
WHERE position > $2::bigint AND NOT pg_visible_in_snapshot(tx, (SELECT $3::text::pg_snapshot))
ORDER BY position"""

_LIVE: Final = "SELECT DISTINCT version FROM {subscriptions} WHERE name = $1::text AND live"

# The new token fences the owner out: nothing moves from here on.
_PAUSE: Final = "UPDATE {subscriptions} SET paused = true, token = token + 1 WHERE {one} RETURNING 1"

_IS_PAUSED: Final = "SELECT coalesce(bool_or(paused), false) FROM {subscriptions} WHERE {one}"

_UNPAUSE: Final = "UPDATE {subscriptions} SET paused = false WHERE {one} RETURNING 1"

_OTHERS: Final = "SELECT count(*) FROM {subscriptions} WHERE name = $1::text AND version <> $2::bigint"

_RESUME: Final = """
UPDATE {subscriptions} SET paused = false, stopped = false, error = NULL, failed_at = NULL
WHERE {one} RETURNING 1"""

_RESET: Final = """
UPDATE {subscriptions} SET cursor = $4::text, replay_until = $5::text, token = token + 1,
    stopped = false, error = NULL, failed_at = NULL, updated_at = now()
WHERE {one} AND partition = $3::bigint"""

# Fenced out, so that it fires no side effect after the next version begins with them.
_NOT_LIVE: Final = "UPDATE {subscriptions} SET live = false, token = token + 1 WHERE {one}"

_MAKE_LIVE: Final = """
UPDATE {subscriptions} SET live = true, replay_until = $4::text, token = token + 1, paused = false
WHERE {one} AND partition = $3::bigint"""

_REMOVE: Final = "DELETE FROM {subscriptions} WHERE {one}"

# How many partitions there are; where an event ($3, $4, $5) stands, and how far the partition of its
# stream is: all NULL while there is no such event.
_REACHED: Final = """
SELECT n.partitions, e.tx::text, e.position, e.cursor, e.is_parked
FROM (
    SELECT count(*) AS partitions, min(s.version) AS version FROM {subscriptions} AS s
    WHERE s.name = $1::text AND CASE WHEN $2::bigint IS NULL THEN s.live ELSE s.version = $2::bigint END
) AS n
LEFT JOIN LATERAL (
    SELECT e.tx, e.position, s.cursor,
           EXISTS (SELECT FROM {dead_letters} AS d WHERE d.name = s.name AND d.version = s.version
                   AND (d.aggregate_type, d.aggregate_id, d.event_version)
                     = (e.aggregate_type, e.aggregate_id, e.version)) AS is_parked
    FROM {events} AS e
    JOIN {subscriptions} AS s ON s.name = $1::text AND s.version = n.version
                              AND s.partition = {partition_of_event}
    WHERE e.aggregate_type = $3::text AND e.aggregate_id = $4::text AND e.version = $5::bigint
) AS e ON true"""


_FRAGMENTS: Final = {
    "{of_stream}": _OF_STREAM,
    "{one}": _ONE,
    "{held}": _HELD,
    "{letter}": _LETTER,
    "{partition_of_event}": partition_of("e.", "nullif(n.partitions, 0)"),
}


def _made(sql: str, names: dict[str, str]) -> Statement:
    for fragment, text in _FRAGMENTS.items():
        sql = sql.replace(fragment, text)
    return statement(sql, **names)


class SubscriptionStatements:
    """All statements of subscriptions for one schema."""

    def __init__(self, schema: str) -> None:
        names = schema_names(schema)
        self.count = _made(_COUNT, names)
        self.register = _made(_REGISTER, names)
        self.beat = _made(_BEAT, names)
        self.partitions = _made(_PARTITIONS, names)
        self.forget_dead = _made(_FORGET_DEAD, names)
        self.workers = _made(_WORKERS, names)
        self.forget_worker = _made(_FORGET_WORKER, names)
        self.take = _made(_TAKE, names)
        self.to_retry_in = _made(_TO_RETRY_IN, names)
        self.reload = _made(_RELOAD, names)
        self.release = _made(_RELEASE, names)
        self.release_all = _made(_RELEASE_ALL, names)
        self.save = _made(_SAVE, names)
        self.hold = _made(_HOLD, names)
        self.fail = _made(_FAIL, names)
        self.park = _made(_PARK, names)
        self.wait_again = _made(_WAIT_AGAIN, names)
        self.retry_freed = _made(_RETRY_FREED, names)
        self.unpark = _made(_UNPARK, names)
        self.parked_streams = _made(_PARKED_STREAMS, names)
        self.to_retry = _made(_TO_RETRY, names)
        self.parked = _made(_PARKED, names)
        self.retry = _made(_RETRY, names)
        self.drop = _made(_DROP, names)
        self.set_repeats = _made(_SET_REPEATS, names)
        self.drop_repeated = _made(_DROP_REPEATED, names)
        self.drop_all = _made(_DROP_ALL, names)
        self.status = _made(_STATUS, names)
        self.live = _made(_LIVE, names)
        self.pause = _made(_PAUSE, names)
        self.is_paused = _made(_IS_PAUSED, names)
        self.unpause = _made(_UNPAUSE, names)
        self.others = _made(_OTHERS, names)
        self.resume = _made(_RESUME, names)
        self.reset = _made(_RESET, names)
        self.not_live = _made(_NOT_LIVE, names)
        self.make_live = _made(_MAKE_LIVE, names)
        self.remove = _made(_REMOVE, names)
        self.reached = _made(_REACHED, names)
        self.behind_all = _made(_BEHIND.replace("{rows}", _BEHIND_ALL), names)
        self.behind_place = _made(_BEHIND.replace("{rows}", _BEHIND_PLACE), names)
        self.behind_batch = _made(_BEHIND.replace("{rows}", _BEHIND_BATCH), names)


@lru_cache(maxsize=64)
def subscription_statements_for(schema: str) -> SubscriptionStatements:
    """The statements of `schema`, made once."""
    return SubscriptionStatements(schema)
