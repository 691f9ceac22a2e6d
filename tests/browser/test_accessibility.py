"""axe-core finds nothing on any page, light and dark, wide and narrow."""

import pytest

from . import hostility, scenes
from .conftest import pages_of
from .visits import NARROW, WIDE, expect, in_a_browser

pytestmark = in_a_browser

FORMS = [(WIDE, "light"), (NARROW, "dark")]
"""Widths change no colours, and schemes nothing else."""

OF_FLIGHTS = [
    "overview",
    "streams found",
    "stream as it was",
    "events of a type",
    "event",
    "types",
    "subscriptions",
    "subscription",
]
OF_HOSTILE = ["stream: markup", "event: markup", "subscription", "confirmation"]


_RUN = """async () => {
  const {violations} = await axe.run({resultTypes: ["violations"]});
  const shown = ({nodes}) => nodes.map((node) => node.html.slice(0, 120)).join(" ");
  return violations.map((one) => `${one.impact}: ${one.id}: ${shown(one)}`);
}"""


async def violations(page):
    from axe_playwright_python.base import AXE_SCRIPT

    await page.evaluate(AXE_SCRIPT)
    found = []
    for size, scheme in FORMS:
        await page.set_viewport_size(size)
        await page.emulate_media(color_scheme=scheme)
        found += [(size["width"], scheme, violation) for violation in await page.evaluate(_RUN)]
    return found


@pytest.mark.parametrize("name", OF_FLIGHTS)
async def test_pages_of_flights(flights, browse, name):
    page = await browse(flights.url)
    await page.goto(flights.path(scenes.PAGES[name]))
    assert await violations(page) == []


@pytest.mark.parametrize("name", OF_HOSTILE)
async def test_pages_of_hostile_events(hostile, browse, name):
    page = await browse(hostile.url)
    await page.goto(hostile.path(hostility.PAGES[name]))
    assert await violations(page) == []


async def test_pages_of_an_empty_store_and_of_errors(chromium, event_store_dsn, browse):
    async with pages_of(event_store_dsn) as url:
        page = await browse(url, expected=["responded with a status of"])
        for path in ("/", "/streams", "/subscriptions", "/nowhere"):
            await page.goto(path)
            assert (path, await violations(page)) == (path, [])
        await page.context.close()


async def test_the_login(chromium, event_store_dsn, browse):
    async with pages_of(event_store_dsn, token=scenes.TOKEN) as url:
        page = await browse(url)
        await page.goto("/")
        await expect(page.get_by_label("Token")).to_be_visible()
        assert await violations(page) == []
