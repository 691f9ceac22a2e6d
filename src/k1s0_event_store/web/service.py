"""A SubscriptionRunner as a service: probes and scrapes are answered until a signal ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from k1s0_event_store.process import until_signalled
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.subscription_health import SubscriptionHealth
from k1s0_event_store.web.health import Metrics, health_app
from k1s0_event_store.web.serving import serve


async def run_service(
    runner: SubscriptionRunner, address: str, *, metrics: Metrics | None = None, alarm_after: float = 60.0
) -> int:
    """Run until SIGTERM or SIGINT comes; returns the exit code for the process.

    Meanwhile /health, /live and, with `metrics`, /metrics are served at HOST:PORT (:PORT: this machine
    only). /health fails if one of the subscriptions does: see SubscriptionHealth. Raises
    ConfigurationError.
    """
    checks = [
        SubscriptionHealth(runner.storage, one.name, one.version, alarm_after=alarm_after)
        for one in runner.subscriptions
    ]
    async with serve(health_app(partial(_health_of_all, checks), metrics), address):
        return await until_signalled(runner, runner.run())


async def _health_of_all(checks: Sequence[SubscriptionHealth]) -> dict[str, Any]:
    answers = await asyncio.gather(*(check() for check in checks))
    failing = next((answer for answer in answers if answer["status"] != "ok"), None)
    if failing is None:
        return {"status": "ok", "reason": None, "subscriptions": answers}
    reason = f"{failing['name']}: {failing['reason']}"
    return {"status": "failing", "reason": reason, "subscriptions": answers}
