"""A browser for all tests, the demo's flights as they are shown in it, and pages that are watched."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.testing.plugin import cloned_database
from k1s0_event_store.web import event_browser
from k1s0_event_store.web.serving import serve_browser

from ..required import skip_without
from . import hostility, scenes
from .visits import ARGUMENTS, CHROMIUM, WIDE, Watch, expect


@pytest.fixture(scope="session")
def browser_installed():
    if CHROMIUM is None:
        skip_without("browser", "no chromium on this machine (Debian: apt-get install chromium)")
    if expect is None:
        skip_without("browser", "no Playwright for Python in this environment (pip install playwright)")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium(browser_installed):
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=120_000)
        yield browser
        await browser.close()


@asynccontextmanager
async def pages_of(dsn, address="127.0.0.1:0", **options):
    """The URL of the pages of a database, for as long as the block lasts."""
    app = event_browser(EventStoreConfig(dsn=dsn), **options)
    async with serve_browser(app, address) as url:
        yield url


@pytest.fixture(scope="session")
def flights_dsn(event_store_server, event_store_template):
    with cloned_database(event_store_server, event_store_template) as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def flights(chromium, flights_dsn):
    """Pages of the demo's flights, and of an order with what it caused. They only look."""
    positions = await scenes.fill(flights_dsn)
    async with pages_of(flights_dsn, aggregates=scenes.aircraft) as url:
        yield scenes.Site(url, flights_dsn, positions)


@pytest.fixture(scope="session")
def hostile_dsn(event_store_server, event_store_template):
    with cloned_database(event_store_server, event_store_template) as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hostile(chromium, hostile_dsn):
    """Pages of events that were written to break them, with actions allowed."""
    positions = await hostility.fill(hostile_dsn)
    async with pages_of(hostile_dsn, allow_actions=True) as url:
        yield scenes.Site(url, hostile_dsn, positions)


@pytest_asyncio.fixture(loop_scope="session")
async def browse(chromium):
    """`await browse(url, **options)`: a new page in a context of its own. It fails the test if something
    is wrong with it that nobody sees: errors (but for those that are `expected`, by a part of their text),
    what the policy forbids, requests to elsewhere."""
    watches = []
    async with AsyncExitStack() as stack:

        async def begin(url, *, expected=(), **options):
            options = {"viewport": WIDE, "reduced_motion": "reduce", "base_url": url, **options}
            context = await chromium.new_context(**options)
            stack.push_async_callback(context.close)
            context.set_default_timeout(30_000)
            watches.append(Watch(url, expected))
            await watches[-1].begin(context)
            return await context.new_page()

        yield begin
    assert [problem for watch in watches for problem in watch.problems] == []
