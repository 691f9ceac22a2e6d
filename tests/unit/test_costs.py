"""What an event costs in pure Python: function calls, which are the same on every machine, not seconds."""

import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest

from k1s0_event_store import EventEnvelope, StreamId
from k1s0_event_store.batch import encode_batch
from k1s0_event_store.envelope import unread_envelope
from k1s0_event_store.postgres.binary_copy import batch_rows, event_rows
from k1s0_event_store.postgres.operations import envelopes, feed_envelopes
from k1s0_event_store.runs import runs_of
from k1s0_event_store.texts import texts_of
from k1s0_event_store.transfer.lines import event_line, footer_line, header_line, read_events

ORDER = StreamId("order", "o-1")
EVENTS = 1_000
PAYLOAD = {"order_id": "o-123", "items": [{"sku": "A", "qty": 1}], "total": 123.45}
ID = UUID("018f3a2e-0000-7000-8000-000000000001")
TEXT = '{"order_id":"o-123"}'
ROW = ("Placed", TEXT, "{}", ID, bytes(8), 1, bytes(8), 1)
FEED_ROW = (True, "order", "o-1", *ROW)


@contextmanager
def counted():
    """The calls of Python functions in the block, by name."""
    calls = Counter()

    def note(frame, event, _argument):
        if event == "call":
            calls[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def new_events():
    return [EventEnvelope(ORDER, "Placed", PAYLOAD) for _ in range(EVENTS)]


def imported():
    at = datetime.now(UTC)
    return [unread_envelope(ORDER, "Placed", TEXT, "{}", ID, at, version) for version in range(1, EVENTS + 1)]


def exported():
    return [header_line({}), *map(event_line, imported()), footer_line(EVENTS)]


def read(events):
    return [(event.event_type, event.version, event.payload) for event in events]


MADE, STORED, GIVEN, LINES = new_events(), envelopes(ORDER, [ROW] * EVENTS), imported(), exported()
BATCH = encode_batch(ORDER, MADE)
PATHS = {
    "a new event": (4, new_events),
    "its check and its JSON": (3, lambda: encode_batch(ORDER, MADE)),
    "its row for COPY": (3, lambda: list(batch_rows(ORDER, BATCH, 1))),
    "an envelope of what was read": (2, lambda: envelopes(ORDER, [ROW] * EVENTS)),
    "an envelope of the feed": (2, lambda: list(feed_envelopes([FEED_ROW] * EVENTS))),
    "the same and its payload": (3, lambda: read(envelopes(ORDER, [ROW] * EVENTS))),
    "its payload, later": (0, lambda: read(STORED)),
    "a line of a file": (19, lambda: list(read_events(LINES))),
    "an imported event and its row": (4, lambda: list(event_rows(GIVEN, texts_of(GIVEN), runs_of(GIVEN)))),
}


@pytest.mark.parametrize("path", PATHS)
def test_an_event_takes_no_more_calls_than_it_did(path):
    most, work = PATHS[path]
    work()  # what is kept for the next time is made now
    with counted() as calls:
        work()
    per_event = sum(calls.values()) / EVENTS
    assert per_event < most + 0.1, calls.most_common(20)
