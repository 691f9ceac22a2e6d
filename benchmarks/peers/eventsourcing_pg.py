"""eventsourcing 9.5.6, PostgreSQL recorder (psycopg3 SYNC, threads). SYNC.
pip install 'eventsourcing[postgres]==9.5.6'
Recorder level: bytes in / bytes out (we use json as the library's JSONTranscoder does).
`insert_events` has no expected-version argument: the version is in each event, the PK
(originator_id, originator_version) rejects a stale one with IntegrityError."""

import json
import os
from collections.abc import Iterator
from itertools import islice

from _common import parse_dsn, stream_uuid
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

TOPIC = "bench:Event"
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
CALL = 50  # streams of 20 events each
FILL = (
    """
    INSERT INTO bench_events (originator_id, originator_version, topic, state)
    SELECT md5('filled-' || stream)::uuid, version, 'bench:Event', convert_to(%(payload)s, 'UTF8')
    FROM generate_series(1, %(each)s) AS version, generate_series(1, %(streams)s) AS stream""",
)
datastore = rec = None


def setup(dsn: str, pool_size: int = 10) -> None:
    global datastore, rec
    p = parse_dsn(dsn)
    datastore = PostgresDatastore(
        dbname=p["dbname"],
        host=p["host"],
        port=p["port"],
        user=p["user"],
        password=p["password"],
        pool_size=pool_size,
        enable_db_functions=os.environ.get("ES_DB_FUNCTIONS") == "1",
    )
    with datastore.transaction(commit=True) as c:
        c.execute("DROP TABLE IF EXISTS public.bench_events")
    rec = PostgresApplicationRecorder(datastore, events_table_name="bench_events")
    rec.create_table()


def append(stream: str, start_version: int, payloads: list[dict]) -> None:
    rec.insert_events(stored_events(stream, start_version, payloads))


def stored_events(stream: str, start_version: int, payloads: list[dict]) -> list[StoredEvent]:
    oid = stream_uuid(stream)
    return [
        StoredEvent(oid, start_version + 1 + i, TOPIC, encode(p).encode()) for i, p in enumerate(payloads)
    ]


def import_many(streams: list[str], payloads: list[dict]) -> None:
    """Its recorder takes the events of many streams in one call."""
    for events in calls(streams, payloads):
        rec.insert_events(events)


def calls(streams: list[str], payloads: list[dict]) -> Iterator[list[StoredEvent]]:
    for first in range(0, len(streams), CALL):
        names = streams[first : first + CALL]
        yield [event for name in names for event in stored_events(name, 0, payloads)]


def load(stream: str) -> list[dict]:
    return [json.loads(e.state) for e in rec.select_events(stream_uuid(stream))]


def read_all(page: int = 1000) -> list[dict]:
    return list(_payloads(page))


def pass_by(limit: int) -> int:
    """Look at so many payloads and keep none; their number."""
    return sum(map(bool, islice(_payloads(1000), limit)))


def _payloads(page: int) -> Iterator[dict]:
    start = None
    while True:
        ns = rec.select_notifications(start, page, inclusive_of_start=False)
        yield from (json.loads(n.state) for n in ns)
        if len(ns) < page:
            return
        start = ns[-1].id


def close() -> None:
    datastore.close()
