"""The pictures of docs/browser.md: `python -m tests.browser.screenshots`, from the top of the repository."""

import asyncio
import tempfile
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from playwright.async_api import async_playwright

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.web import event_browser
from k1s0_event_store.web.lag import MOST_SAMPLES, Lag
from k1s0_event_store.web.serving import serve_browser

from . import scenes
from .visits import ARGUMENTS, CHROMIUM, until_live

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
BUSIEST = "/stream?type=aircraft&id=N730MQ&version=150"
PAGES = {
    "overview": ("/", 900),
    "stream": (BUSIEST, 1000),
    "event": ("/events/{confirmed}", 1100),
    "subscriptions": ("/subscriptions", 420),
}

# As if it had come in over a day: the demo takes seconds.
_OVER_A_DAY = """
SET session_replication_role = replica;
WITH part AS (
    SELECT position, position::float / (SELECT max(position) FROM events) AS done FROM events
)
UPDATE events SET recorded_at = now() - interval '24 h' * (1 - done + 0.04 * sin(4 * pi() * done))
FROM part WHERE part.position = events.position;
UPDATE events SET occurred_at = least(occurred_at, recorded_at);
UPDATE streams SET created_at = times.first, updated_at = times.last FROM (
    SELECT aggregate_type, aggregate_id, min(recorded_at) AS first, max(recorded_at) AS last
    FROM events GROUP BY 1, 2
) AS times
WHERE (streams.aggregate_type, streams.aggregate_id) = (times.aggregate_type, times.aggregate_id);
ANALYZE events;
"""
_STEPS = 60
LAG = {
    "airport-delays": [9 + 40 * (step % 7) * (step % 3) for step in range(_STEPS)],
    "monthly-reports": [80_501 * step // _STEPS for step in range(_STEPS)],
    "shipping": [9 + max(0, 6_000 - 12 * (step - 25) ** 2) for step in range(_STEPS)],
}
"""Of each subscription, every half minute."""


def remember_lag(history):
    """As if somebody had looked all the time."""
    now = datetime.now(UTC)
    for name, counts in LAG.items():
        times = (now - timedelta(seconds=30 * (_STEPS - step)) for step in range(_STEPS))
        samples = (Lag(time, events, 0.0) for time, events in zip(times, counts, strict=True))
        history._samples[name, 1] = deque(samples, maxlen=MOST_SAMPLES)


async def main(folder):
    with running_server(folder / "data") as dsn:
        positions = await scenes.fill(dsn, None)
        with psycopg.connect(dsn, options=f"-c search_path={DEFAULT_SCHEMA}", autocommit=True) as connection:
            connection.execute(_OVER_A_DAY)
        app = event_browser(EventStoreConfig(dsn=dsn), aggregates=scenes.aircraft, allow_actions=True)
        remember_lag(app.state.browser.lag)
        async with serve_browser(app, "127.0.0.1:0") as url:
            await take_all(scenes.Site(url, dsn, positions))


async def take_all(site):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            for name, (path, height) in PAGES.items():
                context = await browser.new_context(
                    viewport={"width": 1200, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                page = await context.new_page()
                await page.goto(site.url + site.path(path))
                await until_live(page)
                await page.screenshot(path=PICTURES / f"browser-{name}-{scheme}.png")
                await context.close()
        await browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="k1s0-") as folder:
        asyncio.run(main(Path(folder)))
