"""eventsourcing-sqlalchemy 1.0.1 (SYNC SQLAlchemy ORM; pins sqlalchemy<2.1). SYNC.
pip install eventsourcing-sqlalchemy==1.0.1 psycopg
`insert_events(..., session=Session)` can join the caller's (sync) Session transaction."""

import json

from _common import parse_dsn, stream_uuid
from eventsourcing_pg import FILL, calls, stored_events
from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore
from eventsourcing_sqlalchemy.recorders import SQLAlchemyApplicationRecorder
from sqlalchemy import text

__all__ = ["FILL", "append", "import_many", "load", "read_all", "setup"]

ds = rec = None


def setup(dsn: str, pool_size: int = 10) -> None:
    global ds, rec
    p = parse_dsn(dsn)
    ds = SQLAlchemyDatastore(
        url=f"postgresql+psycopg://{p['user']}@/{p['dbname']}?host={p['host']}&port={p['port']}",
        pool_size=pool_size,
        max_overflow=0,
    )
    rec = SQLAlchemyApplicationRecorder(ds, events_table_name="bench_events")
    with ds.engine.begin() as c:
        c.execute(text("DROP TABLE IF EXISTS bench_events"))
    rec.create_table()


def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    rec.insert_events(stored_events(stream, start_version, payloads))


def import_many(streams: list[str], payloads: list[dict]) -> None:
    """Its recorder takes the events of many streams in one call."""
    for events in calls(streams, payloads):
        rec.insert_events(events)


def load(stream: str) -> list[dict]:
    return [json.loads(e.state) for e in rec.select_events(stream_uuid(stream))]


def read_all(page: int = 1000) -> list[dict]:
    out, start = [], None
    while True:
        ns = rec.select_notifications(start, page, inclusive_of_start=False)
        out += [json.loads(n.state) for n in ns]
        if len(ns) < page:
            return out
        start = ns[-1].id


def close() -> None:
    ds.engine.dispose()
