"""eventsourcing 9.5.6, PostgreSQL recorder (psycopg3 SYNC, threads). SYNC.
pip install 'eventsourcing[postgres]==9.5.6'
Recorder level: bytes in / bytes out (we use json.dumps/loads as the library's JSONTranscoder does).
`insert_events` has no expected-version argument: the version is in each event, the PK
(originator_id, originator_version) rejects a stale one with IntegrityError."""

import json
import os

from _common import parse_dsn, stream_uuid
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

TOPIC = "bench:Event"
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
    oid = stream_uuid(stream)
    rec.insert_events(
        [
            StoredEvent(oid, start_version + 1 + i, TOPIC, json.dumps(p).encode())
            for i, p in enumerate(payloads)
        ]
    )


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
    datastore.close()
