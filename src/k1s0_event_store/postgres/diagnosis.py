"""Diagnosing a database: can the store work here, and what holds it back? Nothing is written.

What others run is told by application, user and state. The text of their queries is never read: it
may hold what is in events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib.metadata import version as library_version
from time import perf_counter
from typing import Any, Final

from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import EventStoreError, PermissionDeniedError, SchemaError
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind
from k1s0_event_store.postgres.schema import BASE, VERSION_TABLE, head_revision
from k1s0_event_store.postgres.statements import Query, quote_name, quote_text, schema_names, statement

_OLDEST_SERVER: Final = 15
_NEWEST_SERVER: Final = 18
_SLOW: Final = 0.01
_LONG: Final = 60.0
"""Seconds after which an open transaction is told of."""
_FAR_BEHIND: Final = 10.0
_FEW_CONNECTIONS: Final = 0.1
_MANY_DEAD: Final = 10_000
_FEW_IDS: Final = 1_000_000_000
_NO_IDS: Final = 1_600_000_000


class Severity(StrEnum):
    """How bad a finding is: with a problem the store does not work, or will not for long."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it (empty: nothing)."""

    check: str
    severity: Severity
    text: str
    advice: str = ""


_PING: Final = "SELECT 1"

_SERVER: Final = """
SELECT current_setting('server_version_num')::bigint / 10000, current_setting('server_version'),
       pg_is_in_recovery()"""

_DURABILITY: Final = """
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name"""

_CONNECTIONS: Final = """
SELECT (SELECT sum(numbackends)::bigint FROM pg_stat_database),
       current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
       - coalesce(current_setting('reserved_connections', true), '0')::bigint"""

_REVISION: Final = "SELECT version_num::text FROM {version_table}"

_RIGHTS: Final = """
SELECT current_user::text, has_schema_privilege(to_regnamespace({schema_text}), 'USAGE'), bool_and(reads),
       bool_and(appends), bool_and(keeps), bool_and(projects)
FROM (
    SELECT CASE WHEN name IN ('streams', 'events', 'snapshots', 'cluster')
           THEN has_table_privilege(at, 'SELECT') END AS reads,
           CASE name WHEN 'events' THEN has_column_privilege(at, 'payload', 'INSERT')
                WHEN 'streams' THEN has_column_privilege(at, 'version', 'INSERT')
                                    AND has_column_privilege(at, 'version', 'UPDATE') END AS appends,
           CASE WHEN name = 'snapshots' THEN every_right END AS keeps,
           CASE WHEN name IN ('subscriptions', 'subscription_workers', 'dead_letters')
           THEN every_right END AS projects
    FROM (SELECT relname AS name, c.oid AS at,
                 (SELECT bool_and(has_table_privilege(c.oid, needed))
                  FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS needed) AS every_right
          FROM pg_class AS c WHERE relnamespace = to_regnamespace({schema_text}) AND relkind IN ('r', 'p')
         ) AS our
) AS rights"""

_CLUSTER: Final = """
SELECT system_identifier, (SELECT array_agg(system_identifier) FROM {cluster}) FROM pg_control_system()"""

# Without the right to see the sessions of other roles, only their number is known.
_MAY_LOOK: Final = """
SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), current_user::text"""

_OPEN: Final = """
SELECT pid, usename::text, application_name, state, wait_event, backend_xid IS NOT NULL,
       extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL OR state LIKE 'idle in transaction%')
  AND xact_start < clock_timestamp() - make_interval(secs => $1::float8)
ORDER BY xact_start LIMIT 10"""

_PREPARED: Final = """
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts
WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => $1::float8)
ORDER BY prepared LIMIT 10"""

_STANDBYS: Final = """
SELECT application_name, state, coalesce(extract(epoch FROM replay_lag), 0)::float8
FROM pg_stat_replication WHERE state <> 'backup' ORDER BY application_name"""

_SLOTS: Final = """
SELECT slot_name::text, coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
       THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
FROM pg_replication_slots WHERE NOT active ORDER BY slot_name"""

_REPLAYED: Final = """
SELECT CASE WHEN pg_is_in_recovery() AND pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn()
       THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END"""

_DEAD_ROWS: Final = """
SELECT relname::text, n_dead_tup, n_live_tup, greatest(last_vacuum, last_autovacuum) FROM pg_stat_user_tables
WHERE schemaname = $1::text AND n_dead_tup > $2::bigint AND n_dead_tup > n_live_tup / 2 ORDER BY relname"""

_IDS: Final = """
SELECT age(datfrozenxid)::bigint, current_setting('autovacuum')
FROM pg_database WHERE datname = current_database()"""


class PostgresDoctor(AsyncClient, AsyncClosing):
    """Looks at a database as the role of the store does, and says what is wrong and what to do.

    Made as a PostgresEventStore is: from a configuration, or on an engine of the app's as `bind`.
    """

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        schema = self.config.schema
        self._names = schema_names(schema) | {
            "version_table": f"{quote_name(schema)}.{VERSION_TABLE}",
            "schema_text": quote_text(quote_name(schema)),
        }

    async def findings(self) -> AsyncIterator[Finding]:
        """One or more for each check; where the server cannot be reached only this one."""
        reached = await self._connection()
        yield reached
        if reached.severity is Severity.PROBLEM:
            return
        for name, check in self._checks().items():
            try:
                for finding in await check(name):
                    yield finding
            except PermissionDeniedError as exc:
                yield Finding(name, Severity.WARNING, f"this role may not look at it: {exc}", _MONITOR)
            except SchemaError:
                yield Finding(name, Severity.PROBLEM, "the tables are not as expected", _MIGRATE)

    def _checks(self) -> dict[str, Callable[[str], Awaitable[list[Finding]]]]:
        return {
            "server": self._server,
            "durability": self._durability,
            "connections": self._connections,
            "schema": self._schema,
            "rights": self._rights,
            "cluster": self._cluster,
            "open transactions": self._open_transactions,
            "prepared transactions": self._prepared_transactions,
            "replication": self._replication,
            "replication slots": self._replication_slots,
            "dead rows": self._dead_rows,
            "transaction ids": self._transaction_ids,
        }

    async def _fetch(self, sql: str, *args: Any) -> Sequence[Sequence[Any]]:
        return await self._runner.fetch(Query(statement(sql, **self._names), args))

    async def _connection(self) -> Finding:
        try:
            await self._fetch(_PING)
            started = perf_counter()
            await self._fetch(_PING)
        except EventStoreError as exc:
            return Finding("connection", Severity.PROBLEM, str(exc), _CONNECT)
        seconds = perf_counter() - started
        text = f"{self.config.masked_dsn or 'the engine'}: a round trip takes {seconds * 1000:.1f} ms"
        if seconds < _SLOW:
            return Finding("connection", Severity.OK, text)
        return Finding(
            "connection", Severity.WARNING, text, "an append is a round trip: move closer to the server"
        )

    async def _server(self, check: str) -> list[Finding]:
        ((major, version, is_standby),) = await self._fetch(_SERVER)
        place = "a standby: it can be read, but not appended to" if is_standby else "a primary"
        text = f"PostgreSQL {version}, {place}; library {library_version('k1s0-event-store')}"
        if major < _OLDEST_SERVER:
            return [Finding(check, Severity.PROBLEM, text, f"version {_OLDEST_SERVER} or later is needed")]
        if major > _NEWEST_SERVER:
            advice = f"the library is tested up to version {_NEWEST_SERVER}: look for a newer one of it"
            return [Finding(check, Severity.WARNING, text, advice)]
        if is_standby:
            return [Finding(check, Severity.WARNING, text, "writers and subscriptions need the primary")]
        return [Finding(check, Severity.OK, text)]

    async def _durability(self, check: str) -> list[Finding]:
        off = [name for name, _ in await self._fetch(_DURABILITY)]
        return _or_ok(check, "what was committed survives a crash", map(_not_durable, off))

    async def _connections(self, check: str) -> list[Finding]:
        ((used, most),) = await self._fetch(_CONNECTIONS)
        text = f"{used:,} of {most:,} connections are in use"
        if most - used > most * _FEW_CONNECTIONS:
            return [Finding(check, Severity.OK, text)]
        advice = "make pools smaller, put a pooler in between, or raise max_connections"
        return [Finding(check, Severity.WARNING, text, advice)]

    async def _schema(self, check: str) -> list[Finding]:
        revision = await self._revision()
        try:
            await self.validate()
        except SchemaError as exc:
            return [Finding(check, Severity.PROBLEM, f"{revision}: {'; '.join(exc.problems)}", _MIGRATE)]
        if revision in {f"revision {head_revision()}", _UNKNOWN}:
            return [Finding(check, Severity.OK, f"{revision}: the tables are as expected")]
        text = f"{revision}, but this version of the library expects {head_revision()}"
        return [Finding(check, Severity.PROBLEM, text, _MIGRATE)]

    async def _revision(self) -> str:
        """Where the tables are; the documented rights do not reach to this table."""
        try:
            rows = await self._fetch(_REVISION)
        except PermissionDeniedError:
            return _UNKNOWN
        except SchemaError:
            rows = ()
        return f"revision {rows[0][0] if rows else BASE}"

    async def _rights(self, check: str) -> list[Finding]:
        ((role, uses, *rights),) = await self._fetch(_RIGHTS)
        if uses is None:
            return [Finding(check, Severity.PROBLEM, f"there is no schema {self.config.schema}", _MIGRATE)]
        names = ("read", "append", "save snapshots", "run subscriptions")
        may = [name for name, has_it in zip(names, rights, strict=True) if uses and has_it]
        lacks = [name for name in names if name not in may]
        text = f"role {role} may {', '.join(may) or 'do nothing'}"
        if lacks:
            text += f"; it may not {', '.join(lacks)}"
        severity = Severity.OK if "read" in may else Severity.PROBLEM
        return [Finding(check, severity, text, _GRANT if lacks else "")]

    async def _cluster(self, check: str) -> list[Finding]:
        ((cluster, known),) = await self._fetch(_CLUSTER)
        if known == [cluster]:
            return [Finding(check, Severity.OK, "the events were written in this cluster, or rebased to it")]
        text = f"the feed belongs to cluster {', '.join(map(str, known or ['?']))}, but this is {cluster}"
        return [Finding(check, Severity.PROBLEM, text, "stop all writers, then: k1s0-event-store db rebase")]

    async def _open_transactions(self, check: str) -> list[Finding]:
        unseen = await self._unseen(check)
        rows = await self._fetch(_OPEN, _LONG)
        return unseen or _or_ok(check, f"none is open for more than {_age(_LONG)}", map(_open_too_long, rows))

    async def _unseen(self, check: str) -> list[Finding]:
        """A warning where other roles' sessions are hidden from this one."""
        ((may_look, role),) = await self._fetch(_MAY_LOOK)
        advice = f"GRANT pg_monitor TO {quote_name(role)}, or ask as another role"
        hidden = Finding(check, Severity.WARNING, f"role {role} cannot see what others do", advice)
        return [] if may_look else [hidden]

    async def _prepared_transactions(self, check: str) -> list[Finding]:
        rows = await self._fetch(_PREPARED, _LONG)
        return _or_ok(check, f"none waits for more than {_age(_LONG)}", map(_prepared_too_long, rows))

    async def _replication(self, check: str) -> list[Finding]:
        unseen = await self._unseen(check)
        ((replayed,),) = await self._fetch(_REPLAYED)
        behind = [] if replayed is None else [("this standby", "receiving", replayed)]
        standbys = [*behind, *(await self._fetch(_STANDBYS))]
        late = [row for row in standbys if row[2] > _FAR_BEHIND]
        return unseen or _or_ok(check, f"of {len(standbys)} standbys none is far behind", map(_behind, late))

    async def _replication_slots(self, check: str) -> list[Finding]:
        return _or_ok(check, "none is unused", map(_unused, await self._fetch(_SLOTS)))

    async def _dead_rows(self, check: str) -> list[Finding]:
        rows = await self._fetch(_DEAD_ROWS, self.config.schema, _MANY_DEAD)
        return _or_ok(check, "vacuum keeps up", map(_not_vacuumed, rows))

    async def _transaction_ids(self, check: str) -> list[Finding]:
        ((age, autovacuum),) = await self._fetch(_IDS)
        text = f"the oldest that is in use is {age:,} transactions old"
        if autovacuum != "on":
            return [Finding(check, Severity.WARNING, "autovacuum is off", "set autovacuum = on")]
        if age < _FEW_IDS:
            return [Finding(check, Severity.OK, text)]
        severity = Severity.PROBLEM if age >= _NO_IDS else Severity.WARNING
        advice = "the server stops at 2,000,000,000: end what holds vacuum back, then VACUUM FREEZE"
        return [Finding(check, severity, text, advice)]


_UNKNOWN: Final = "a revision that this role may not read"
_CONNECT: Final = "is the server running, and are host, port, user, password and database right?"
_MIGRATE: Final = "k1s0-event-store db upgrade, or your own migrations"
_MONITOR: Final = "grant pg_monitor to it, or ask as another role"
_GRANT: Final = "where it should: `k1s0-event-store db grant` gives it what it needs"


def _or_ok(check: str, text: str, found: Iterator[tuple[str, str]]) -> list[Finding]:
    """A warning for each that was found, or that all is well."""
    warnings = [Finding(check, Severity.WARNING, *words) for words in found]
    return warnings or [Finding(check, Severity.OK, text)]


def _age(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _not_durable(setting: str) -> tuple[str, str]:
    if setting == "synchronous_commit":
        lost = "the last events that were answered can be lost when the server crashes"
        return f"{setting} is off: {lost}", f"set {setting} = on"
    return f"{setting} is off: a power cut can destroy the database", f"set {setting} = on"


def _open_too_long(row: Sequence[Any]) -> tuple[str, str]:
    pid, user, application, state, waits_for, writes, seconds = row
    doing = f"{state}, waits for {waits_for}" if state == "active" and waits_for else state
    holds = (
        "its events are not in the feed until it ends, and readers on a standby wait for it"
        if writes
        else "it keeps vacuum from cleaning up"
    )
    who = f"process {pid} (application {application!r}, user {user}, {doing})"
    return (
        f"{who} has had a transaction open for {_age(seconds)}: {holds}",
        f"end it where it comes from, or: SELECT pg_terminate_backend({pid})",
    )


def _prepared_too_long(row: Sequence[Any]) -> tuple[str, str]:
    gid, owner, seconds = row
    return (
        f"{gid!r} of {owner} has been prepared for {_age(seconds)}: its events are not in the feed, it keeps "
        "its locks, and vacuum from cleaning up",
        "COMMIT PREPARED or ROLLBACK PREPARED, as whoever coordinates it says",
    )


def _behind(row: Sequence[Any]) -> tuple[str, str]:
    name, state, seconds = row
    return f"{name} ({state}) is {_age(seconds)} behind", "readers there see events so late"


def _unused(row: Sequence[Any]) -> tuple[str, str]:
    name, status, kept = row
    lost = ", what it needs is lost already" if status == "lost" else ""
    return (
        f"slot {name} is not in use and keeps {kept / (1 << 20):,.0f} MB of WAL{lost}: the disk can fill up",
        f"start its consumer, or: SELECT pg_drop_replication_slot({name!r})",
    )


def _not_vacuumed(row: Sequence[Any]) -> tuple[str, str]:
    table, dead, live, vacuumed = row
    when = "never" if vacuumed is None else f"on {vacuumed:%Y-%m-%d %H:%M}"
    return (
        f"{table} has {dead:,} dead rows beside {live:,}, last vacuumed {when}",
        "end what holds vacuum back (open transactions, slots), then VACUUM; look at autovacuum",
    )
