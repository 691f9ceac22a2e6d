"""Metrics of a process of the command line, where the extra for them is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k1s0_event_store.telemetry.prometheus import PrometheusTelemetry


def prometheus_telemetry() -> PrometheusTelemetry | None:
    """What /metrics shows; None where the extra `otel` is not installed."""
    try:
        from k1s0_event_store.telemetry.prometheus import PrometheusTelemetry
    except ImportError:
        return None
    return PrometheusTelemetry()
