"""Planted bugs: stores whose SQL takes less care. The checker must find each of them in a race."""

from dataclasses import dataclass
from time import monotonic_ns

from tests.postgres.racing import mutated
from tests.postgres.test_feed_races import MUTANTS as FEED_MUTANTS

from .history import Page, Reader

ALONE = ("append", "append_joined", "append_one", "append_one_joined")
TOGETHER = ("append_together",)
UNIQUE_VERSIONS = "ALTER TABLE eventstore.events DROP CONSTRAINT uq_events_version"
UNIQUE_IDS = "ALTER TABLE eventstore.events DROP CONSTRAINT uq_events_event_id"
STREAM = "aggregate_type = $1::text AND aggregate_id = $2::text"
HEAD = f"(SELECT version FROM {{streams}} WHERE {STREAM})"


@dataclass(frozen=True)
class Mutant:
    """What is changed in statements (names, old, new) and tables, and the fault that it must show."""

    shows: str
    changes: tuple[tuple[tuple[str, ...], str, str], ...] = ()
    tables: tuple[str, ...] = ()
    reader: type = Reader

    def statements(self, real):
        for names, old, new in self.changes:
            real = mutated(real, names, old, new)
        return real


class PositionReader(Reader):
    """What a feed must not be: the next events are those with a higher position."""

    place = 0

    async def read(self):
        invoked = monotonic_ns()
        async with self.store.bind.connect() as connection:
            rows = (
                await connection.exec_driver_sql(
                    "SELECT position, event_id FROM eventstore.events WHERE position > $1 ORDER BY position",
                    (self.place,),
                )
            ).all()
        self.place = rows[-1][0] if rows else self.place
        ids = tuple(event_id for _, event_id in rows)
        self.history.pages.append(Page(self.name, ids, True, invoked, monotonic_ns()))


APPENDS = {
    "the expected version is not looked at": Mutant(
        "not at the expected version", ((ALONE, "AND version = $9::bigint", "AND $9::bigint >= 0"),)
    ),
    "the version is checked before the lock": Mutant(
        "not at the expected version", ((ALONE, "AND version = $9::bigint", f"AND {HEAD} = $9::bigint"),)
    ),
    "the version is counted up from before the lock": Mutant(
        "not contiguous",
        ((ALONE, "SET version = head.version + $3::bigint", f"SET version = {HEAD} + $3::bigint"),),
        (UNIQUE_VERSIONS,),
    ),
    "a new stream may have events": Mutant(
        "not contiguous", ((ALONE, "WHERE head.version = 0", ""),), (UNIQUE_VERSIONS,)
    ),
    "events are inserted by what is there, and the head moves after them": Mutant(
        "not contiguous",
        ((
            ("append", "append_one"),
            f"""
    UPDATE "eventstore".streams SET version = version + $3::bigint
    WHERE {STREAM} AND version = $9::bigint
      AND true
    RETURNING version
)""",
            f"""
    SELECT max(version) + $3::bigint AS version FROM {{events}} WHERE {STREAM}
    HAVING max(version) = $9::bigint
), after AS (
    UPDATE {{streams}} SET version = moved.version FROM moved WHERE {STREAM}
)""",
        ),),
        (UNIQUE_VERSIONS,),
    ),
    "a batch that is repeated is not recognized": Mutant(
        "stored twice",
        (
            (ALONE, "WHERE event_id =", "WHERE event_id IS NULL AND event_id ="),
            (TOGETHER, "WHERE e.event_id =", "WHERE e.event_id IS NULL AND e.event_id ="),
        ),
        (UNIQUE_IDS,),
    ),
    "coalesced, the expected version is not looked at": Mutant(
        "not at the expected version", ((TOGETHER, "THEN head.version = wanted.expected", "THEN true"),)
    ),
    "coalesced, the version is checked before the lock": Mutant(
        "not at the expected version", ((TOGETHER, "FOR NO KEY UPDATE SKIP LOCKED", ""),)
    ),
    "a dropped event of a batch is not noticed": Mutant(
        "torn",
        (
            (("append",), "version / ((SELECT count(*) FROM inserted) = $3::bigint)::int", "version"),
            (("append",), "ordinality)\n    RETURNING", "ordinality) WHERE ordinality < 3\n    RETURNING"),
        ),
    ),
    "a dropped event is not noticed": Mutant(
        "lost",
        (
            (("append_one",), "version / (SELECT count(*) FROM inserted)", "version"),
            (("append_one",), "FROM moved\n    RETURNING", "FROM moved WHERE version % 3 > 0\n    RETURNING"),
        ),
    ),
}  # fmt: skip

READS = {
    "a version is told from what lies below the oldest transaction": Mutant(
        "against time",
        ((
            ("current_version",),
            'SELECT version FROM "eventstore".streams',
            "SELECT coalesce(max(version), 0) FROM (SELECT * FROM {events}"
            " WHERE tx < pg_snapshot_xmin(pg_current_snapshot())) AS old",
        ),),
    ),
}  # fmt: skip

FEED_SHOWS = {
    "the running transactions of a snapshot are left out": "left out",
    "reading waits for the oldest transaction": "left out",
    "what lies below the oldest transaction is read": "left out",
    "what is late is left out": "left out",
    "everything that is committed is read": "given twice",
    "the walk begins after what was read": "left out",
}
"""Those of tests/postgres/test_feed_races.py that a race shows; others need a page that is cut just so."""

FEED = {
    "a feed by position only": Mutant("left out", reader=PositionReader),
    **{name: Mutant(shows, (FEED_MUTANTS[name][:3],)) for name, shows in FEED_SHOWS.items()},
}

ALL = {**APPENDS, **READS, **FEED}
