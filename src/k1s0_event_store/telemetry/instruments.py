"""The tracer and the instruments: each name is made once, and told of by all that one Telemetry wraps."""

from __future__ import annotations

from importlib.metadata import version

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from k1s0_event_store.telemetry import conventions as names


class Instruments:
    """What spans and metrics are made with; without providers the global ones are used."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        release = version("k1s0-event-store")
        self.tracer = get_tracer(names.SCOPE, release, tracer_provider)
        self.meter = meter = get_meter(names.SCOPE, release, meter_provider)
        self.database_seconds = meter.create_histogram(
            names.DB_OPERATION_DURATION,
            "s",
            "Duration of the calls of event and snapshot stores.",
            explicit_bucket_boundaries_advisory=names.DATABASE_SECONDS,
        )
        self.handler_seconds = meter.create_histogram(
            names.MESSAGING_PROCESS_DURATION,
            "s",
            "Duration of the calls of handlers.",
            explicit_bucket_boundaries_advisory=names.MESSAGING_SECONDS,
        )
        self.publisher_seconds = meter.create_histogram(
            names.MESSAGING_OPERATION_DURATION,
            "s",
            "Duration of publishing one message, to its acknowledgement.",
            explicit_bucket_boundaries_advisory=names.MESSAGING_SECONDS,
        )
        self.appended = meter.create_counter(names.APPENDED, "{event}", "Events appended.")
        self.conflicts = meter.create_counter(
            names.CONFLICTS, "{conflict}", "Appends that found the stream at another version."
        )
        self.sent = meter.create_counter(names.MESSAGING_SENT, "{message}", "Messages given to a broker.")
        self.events = meter.create_counter(
            names.EVENTS, "{event}", "Events that a subscription handled, tried again, or parked."
        )
        self.changes = meter.create_counter(
            names.CHANGES, "{change}", "Partitions that started, ended, wait, stopped, or were lost."
        )
        self.refresh_failures = meter.create_counter(
            names.REFRESH_FAILURES, "{failure}", "Times that the state of the subscriptions was not known."
        )
