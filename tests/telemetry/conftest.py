"""A Telemetry whose spans and metrics stay in memory."""

from dataclasses import dataclass

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from k1s0_event_store.telemetry import Telemetry


@dataclass
class Collected:
    """A Telemetry, and what it has told."""

    telemetry: Telemetry
    tracer_provider: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self):
        """The finished spans, in the order of their beginning."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, name):
        """The finished spans of a name."""
        return [span for span in self.spans if span.name == name]

    def points(self, name):
        """The data points of a metric."""
        found = self.reader.get_metrics_data()
        resources = () if found is None else found.resource_metrics
        metrics = [m for resource in resources for scope in resource.scope_metrics for m in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def values(self, name, *attributes):
        """The values of a metric by some of its attributes."""
        return {
            tuple(point.attributes.get(one) for one in attributes): getattr(point, "value", None)
            for point in self.points(name)
        }


def collecting():
    """A Telemetry with everything in memory."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    return Collected(Telemetry(tracer_provider, meter_provider), tracer_provider, exporter, reader)


@pytest.fixture
def collected():
    return collecting()


@pytest.fixture
def telemetry(collected):
    return collected.telemetry
