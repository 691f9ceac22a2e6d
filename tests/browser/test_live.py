"""What happens while a page is open is seen on it."""

from starlette.applications import Starlette
from starlette.routing import Mount

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.web import event_browser
from k1s0_event_store.web.serving import serve

from .conftest import pages_of
from .visits import expect, hrefs, in_a_browser, until_live

pytestmark = in_a_browser

TOUR = StreamId("tour", "t-1")


async def append(dsn, event_type):
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        return await store.append(TOUR, [EventEnvelope(TOUR, event_type, {"by": "bus"})])


async def mark(page):
    """Whether the page was loaded anew shows by what is written on it."""
    await page.evaluate("document.body.dataset.mark = 'not loaded anew'")


async def assert_marked(page):
    await expect(page.locator("body")).to_have_attribute("data-mark", "not loaded anew")


async def test_an_append_is_seen_on_the_open_pages(chromium, event_store_dsn, browse):
    await append(event_store_dsn, "Planned")
    async with pages_of(event_store_dsn) as url:
        page = await browse(url)
        for path in ("/", "/events"):
            await page.goto(path)
            await until_live(page)
            rows = page.locator("tbody[data-tail] tr")
            before = await rows.count()
            await mark(page)
            await append(event_store_dsn, f"Begun{before}")
            await expect(rows.first).to_contain_text(f"Begun{before}")
            await expect(rows.first).to_contain_text("bus")
            await expect(rows).to_have_count(before + 1)
            await assert_marked(page)
        await page.context.close()


async def test_a_stream_says_that_it_has_grown(chromium, event_store_dsn, browse):
    await append(event_store_dsn, "Planned")
    async with pages_of(event_store_dsn) as url:
        page = await browse(url)
        await page.goto("/stream?type=tour&id=t-1")
        await until_live(page)
        await mark(page)
        await append(event_store_dsn, "Begun")
        news = page.get_by_role("status").filter(has_text="Version 2 has come")
        await expect(news).to_be_visible()
        await assert_marked(page)
        await news.get_by_role("link", name="Show it").click()
        await expect(page.get_by_role("article", name="Version 2, Begun")).to_be_visible()
        await page.context.close()


async def test_a_lost_connection_is_told_and_comes_back(chromium, event_store_dsn, browse):
    async with pages_of(event_store_dsn) as url:
        page = await browse(url, expected=["net::ERR_", "[object Event]"])
        await page.goto("/events")
        await until_live(page)
        await mark(page)
    connection = page.locator("#connection")
    await expect(connection).to_contain_text("The connection is lost")
    await append(event_store_dsn, "BegunMeanwhile")
    async with pages_of(event_store_dsn, address=url.removeprefix("http://")):
        await expect(connection).to_have_text("Live")
        await expect(page.locator("tbody[data-tail]")).to_contain_text("BegunMeanwhile")
        await assert_marked(page)
        await page.context.close()


async def test_without_javascript_the_newest_are_those_of_the_load(chromium, event_store_dsn, browse):
    await append(event_store_dsn, "Planned")
    async with pages_of(event_store_dsn) as url:
        page = await browse(url, java_script_enabled=False)
        await page.goto("/")
        assert "Without JavaScript this list does not grow" in await page.content()
        await append(event_store_dsn, "Begun")
        await page.reload()
        await expect(page.locator("tbody[data-tail] tr").first).to_contain_text("Begun")


async def test_mounted_in_an_app_everything_stays_under_its_path(chromium, event_store_dsn, browse):
    await append(event_store_dsn, "Planned")
    app = event_browser(EventStoreConfig(dsn=event_store_dsn))
    host = Starlette(routes=[Mount("/ops", app)])
    async with app.router.lifespan_context(app), serve(host, "127.0.0.1:0") as url:
        page = await browse(f"{url}/ops/")
        await page.goto(f"{url}/ops/")
        await until_live(page)
        assert all(href.startswith(f"{url}/ops/") for href in await hrefs(page))
        await append(event_store_dsn, "Begun")
        await page.get_by_role("link", name="tour t-1").first.click()
        await expect(page.get_by_role("article", name="Version 2, Begun")).to_be_visible()
        await until_live(page)
        await page.context.close()
