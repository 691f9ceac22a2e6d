"""Over HTTP (extra `web`): the stream browser, health and metrics. No other room knows the web framework."""

from k1s0_event_store.web.app import event_browser
from k1s0_event_store.web.health import health_routes, metrics_route
from k1s0_event_store.web.service import run_service

__all__ = ["event_browser", "health_routes", "metrics_route", "run_service"]
