"""Metrics in Prometheus' text format, for an endpoint of the process itself."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from k1s0_event_store.telemetry.telemetry import Telemetry


class PrometheusTelemetry(Telemetry):
    """A Telemetry with metrics of its own: `render` gives them as Prometheus wants them.

    `meter_provider` is the provider, for metrics of yours beside ours.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry)
        self.meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        super().__init__(tracer_provider, self.meter_provider)

    async def render(self) -> tuple[bytes, str]:
        """The text and its content type, after all stores that are watched were asked."""
        await self.refresh()
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
