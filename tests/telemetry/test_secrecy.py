"""What is never told, searched for in all that is told; and what logs say for machines."""

import json
import logging

from k1s0_event_store import StreamId

from .exercise import SECRET, exercise

STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def fields_of(record):
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


async def test_no_payload_metadata_id_or_text_of_an_error_is_in_a_span_or_a_metric(collected, event_store):
    await exercise(collected.telemetry, event_store)
    await collected.telemetry.refresh()
    spans = "".join(span.to_json() for span in collected.spans)
    metrics = collected.reader.get_metrics_data().to_json()
    assert len(collected.spans) > 20
    assert "HandlerError" in spans
    assert "HandlerError" in metrics
    assert SECRET not in spans
    assert SECRET not in metrics


async def test_logs_carry_fields_without_payload(collected, event_store, caplog):
    caplog.set_level(logging.DEBUG, "k1s0_event_store")
    storage = await exercise(collected.telemetry, event_store)
    events = await event_store.load(StreamId("order", f"o-{SECRET}"))
    errors = [fields_of(record) for record in caplog.records if record.levelno == logging.ERROR]
    records = {(fields["subscription"], fields["aggregate_type"]): fields for fields in errors}
    assert records["mail", "order"] == {
        "subscription": "mail",
        "subscription_version": 1,
        "partition": 0,
        "aggregate_type": "order",
        "event_type": "Counted",
        "event_id": str(events[1].event_id),
        "event_version": 2,
        "position": events[1].position,
    }
    assert records["relay", "$outbox"]["event_type"] == "$message"
    ours = [record for record in caplog.records if record.name == "k1s0_event_store.subscriptions"]
    assert all({"subscription", "subscription_version"} <= fields_of(record).keys() for record in ours)
    assert SECRET not in json.dumps([fields_of(record) for record in caplog.records])
    await storage.close()
