"""What was written to break pages is shown on them, as text."""

import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore

from . import hostility
from .hostility import PAGES
from .visits import NARROW, WIDE, expect, hrefs, in_a_browser, too_wide, until_live

pytestmark = in_a_browser

MOST_ELEMENTS = 5_000


async def assert_harmless(page):
    """Nothing ran, and no element came out of any text."""
    assert await page.evaluate("window.pwned") is None
    own = await page.evaluate("[...document.scripts].map(script => new URL(script.src).pathname)")
    assert all(path.startswith("/static/") for path in own)
    assert await page.locator("img, iframe, object, embed, b[hx-get], svg[onload], [onerror]").count() == 0
    assert all(link.startswith("http://127.0.0.1:") for link in await hrefs(page))


async def test_nothing_of_it_runs_and_pages_stay_small_and_narrow(hostile, browse):
    page = await browse(hostile.url)
    for pattern in PAGES.values():
        answer = await page.goto(hostile.path(pattern))
        assert (pattern, answer.status) == (pattern, 200)
        await until_live(page)
        await assert_harmless(page)
        assert await page.locator("*").count() < MOST_ELEMENTS
        for size in (WIDE, NARROW):
            await page.set_viewport_size(size)
            assert (pattern, await too_wide(page)) == (pattern, [])


async def test_it_is_shown_as_it_is(hostile, browse):
    page = await browse(hostile.url)
    await page.goto(hostile.path("/events/{markup}"))
    await expect(page.get_by_role("heading", level=1)).to_have_text(hostility.EVERYTHING)
    payload = page.locator("pre[aria-label^=Payload]")
    for text in (hostility.SCRIPT, hostility.IMAGE, hostility.ADDRESS, hostility.HTMX):
        await expect(payload).to_contain_text(text.replace('"', '\\"'))
    metadata = page.locator("pre[aria-label^=Metadata]")
    await expect(metadata).to_contain_text(hostility.EVERYTHING.replace('"', '\\"'))
    await page.goto(PAGES["subscription"])
    await expect(page.get_by_role("heading", level=1)).to_contain_text(hostility.NAME)
    await expect(page.get_by_role("region", name="Parked events")).to_contain_text(hostility.CLOSING)


async def test_what_is_asked_for_comes_back_as_text(hostile, browse):
    page = await browse(hostile.url, expected=["responded with a status of"])
    await page.goto("/")
    await page.get_by_role("searchbox", name="Go to").fill(hostility.EVERYTHING)
    await page.get_by_role("button", name="Go").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(hostility.EVERYTHING)
    await assert_harmless(page)
    await page.goto("/streams")
    await page.get_by_label("Id contains").fill(hostility.CLOSING)
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_label("Id contains")).to_have_value(hostility.CLOSING)
    await assert_harmless(page)


async def test_it_does_not_run_where_it_comes_in_live(hostile, browse):
    page = await browse(hostile.url)
    await page.goto("/")
    await until_live(page)
    arrival = EventEnvelope(
        hostility.MARKUP, hostility.CLOSING + hostility.HTMX, {hostility.IMAGE: hostility.SCRIPT}
    )
    async with PostgresEventStore(EventStoreConfig(dsn=hostile.dsn)) as store:
        await store.append(hostility.MARKUP, [arrival])
    await expect(page.locator("tbody[data-tail]").get_by_text(hostility.HTMX).first).to_be_visible()
    await assert_harmless(page)


@pytest.mark.parametrize("name", ["big", "deep"])
async def test_a_large_payload_scrolls_in_its_box(hostile, browse, name):
    page = await browse(hostile.url)
    for size in (WIDE, NARROW):
        await page.set_viewport_size(size)
        await page.goto(hostile.path(f"/events/{{{name}}}"))
        box = page.locator("pre[aria-label^=Payload]")
        assert (await box.bounding_box())["height"] < 500
        assert await box.evaluate(
            "box => box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight"
        )
        assert await too_wide(page) == []


async def test_the_whole_of_a_large_payload_can_be_kept_as_a_file(hostile, browse):
    page = await browse(hostile.url)
    await page.goto(hostile.path("/events/{big}"))
    async with page.expect_download() as download:
        await page.get_by_role("link", name="whole text").first.click()
    path = await (await download.value).path()
    assert path.stat().st_size > hostility.MEGABYTE - 10
