"""What is told of the operations of a store: the same for async and blocking ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from k1s0_event_store.batch import check_stream_id
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import ConcurrencyError
from k1s0_event_store.telemetry import conventions as names
from k1s0_event_store.telemetry.context import carried, carrier_of
from k1s0_event_store.telemetry.instruments import Instruments
from k1s0_event_store.telemetry.operation import Attributes, DetachedOperation, Operation, type_of


class StoreSignals:
    """Of one store: `database` are the attributes of where it is."""

    def __init__(self, instruments: Instruments, database: Attributes) -> None:
        self._instruments = instruments
        self._database = database

    def operation(self, name: str, stream_id: StreamId, *, detached: bool = False) -> Operation:
        """A call that concerns one stream, `detached` where its answer is an iterator.

        Raises InvalidInputError.
        """
        aggregate_type = check_stream_id(stream_id).aggregate_type
        summary = f"{name} {aggregate_type}"
        labels = {
            **self._database,
            names.DB_OPERATION_NAME: name,
            names.AGGREGATE_TYPE: aggregate_type,
        }
        return (DetachedOperation if detached else Operation)(
            self._instruments.tracer,
            self._instruments.database_seconds,
            summary,
            SpanKind.CLIENT,
            labels,
            {names.DB_QUERY_SUMMARY: summary},
            answers=(ConcurrencyError,),
        )

    @contextmanager
    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope]
    ) -> Iterator[Sequence[EventEnvelope]]:
        """A call of `append`: what to append, with the context of the span in the metadata."""
        with self.operation("append", stream_id) as span:
            events = carried(events, carrier_of(span))
            labels = {**self._database, names.AGGREGATE_TYPE: stream_id.aggregate_type}
            try:
                yield events
            except ConcurrencyError:
                span.set_attribute(names.CONFLICT, True)
                self._instruments.conflicts.add(1, labels)
                raise
            span.set_attribute(names.EVENT_COUNT, len(events))
            self._instruments.appended.add(len(events), labels)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A call that concerns no single stream: timed, but no span. Pollers of the feed make many."""
        labels: dict[str, AttributeValue] = {**self._database, names.DB_OPERATION_NAME: name}
        started = perf_counter()
        try:
            yield
        except BaseException as error:
            labels[names.ERROR_TYPE] = type_of(error)
            raise
        finally:
            self._instruments.database_seconds.record(perf_counter() - started, labels)
