"""What a batch of appends costs: each stream is looked up by its key, however large the tables are."""

from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest

from k1s0_event_store.postgres.models import EVENTS_ID_KEY
from k1s0_event_store.postgres.statements import statements_for

FILL = (
    """
    INSERT INTO eventstore.streams (aggregate_type, aggregate_id, version)
    SELECT 'order', n, 1 FROM generate_series(1, 20000) AS n""",
    """
    INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,
                                   metadata, occurred_at)
    SELECT 'order', n, 1, gen_random_uuid(), 'Counted', '{}', '{}', now()
    FROM generate_series(1, 20000) AS n""",
)
EXPLAIN = "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE together (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
BATCH = 256


def a_batch():
    """A quarter is new, the others are there: any version, STREAM_EXISTS, version 1."""
    expected = [(0, None, -1, 1)[n % 4] for n in range(BATCH)]
    names = [f"new-{n}" if version == 0 else str(1 + n * 10) for n, version in enumerate(expected)]
    appends = ["order"] * BATCH, names, [1] * BATCH, expected
    events = [uuid4() for _ in names], ["Counted"], ["{}"] * BATCH, ["{}"], [datetime.now(UTC)] * BATCH
    return [*appends, list(range(1, BATCH + 1)), *events]


def nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
def test_a_batch_finds_each_stream_by_its_key(event_store_dsn, analyzed):
    with psycopg.connect(event_store_dsn, autocommit=True) as connection:
        for statement in (*FILL, *["ANALYZE"] * analyzed, "SET plan_cache_mode = force_generic_plan"):
            connection.execute(statement)
        connection.execute(f"PREPARE together AS {statements_for('eventstore').append_together.dollar}")
        (plan,) = psycopg.ClientCursor(connection).execute(EXPLAIN, a_batch()).fetchone()[0]
    found = list(nodes(plan["Plan"]))
    assert plan["Plan"]["Actual Rows"] == BATCH
    scans = {node["Node Type"] for node in found if node.get("Relation Name") in ("streams", "events")}
    assert scans <= {"ModifyTable", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    assert {node["Index Name"] for node in found if "Index Name" in node} == {"pk_streams", EVENTS_ID_KEY}
    # The appends of the batch are joined with each other by hash; looking up is the one loop.
    assert [node["Node Type"] for node in found].count("Nested Loop") == 1
    assert [node["Node Type"] for node in found].count("Hash Join") == 2
