"""Each page on the flights of the demo: it is whole, it says what it is, its links lead somewhere."""

import html
import re
from collections import defaultdict

from .scenes import PAGES
from .visits import NARROW, WIDE, expect, in_a_browser, too_wide, until_live

pytestmark = in_a_browser

ERRORS = {
    "unknown path": ("/nowhere", 404),
    "unknown stream": ("/stream?type=aircraft&id=none", 404),
    "unknown event": ("/events/999999999", 404),
    "unknown subscription": ("/subscription?name=none&version=1", 404),
    "nothing called so": ("/go?to=nothing", 404),
    "not a number": ("/streams?min=many", 400),
    "actions are not allowed": ("/subscription/action?do=pause&name=shipping&version=1", 403),
}
MOST_LINKS = 60


async def heading_and_title(page):
    assert await page.locator("h1").count() == 1
    assert (await page.locator("h1").inner_text()).strip()
    title = await page.title()
    assert title.endswith(" · Event store")
    return title


async def test_each_page_has_a_title_of_its_own_and_fits_a_narrow_screen(flights, browse):
    page = await browse(flights.url)
    paths_by_title = defaultdict(set)
    for pattern in PAGES.values():
        answer = await page.goto(flights.path(pattern))
        assert (pattern, answer.status) == (pattern, 200)
        paths_by_title[await heading_and_title(page)].add(pattern.partition("?")[0])
        await until_live(page)
        await page.set_viewport_size(NARROW)
        assert (pattern, await too_wide(page)) == (pattern, [])
        await page.set_viewport_size(WIDE)
    assert {title: paths for title, paths in paths_by_title.items() if len(paths) > 1} == {}


async def test_errors_are_pages_too(flights, browse):
    page = await browse(flights.url, expected=["responded with a status of"])
    for path, status in ERRORS.values():
        answer = await page.goto(path)
        assert (path, answer.status) == (path, status)
        await heading_and_title(page)


async def test_all_links_lead_to_pages(flights, browse):
    request = (await browse(flights.url)).request
    links = set()
    for pattern in PAGES.values():
        text = await (await request.get(flights.path(pattern))).text()
        links |= {html.unescape(link) for link in re.findall('href="([^"#]+)', text)}
    assert len(links) > 100
    # As many as there is time for; of all sorts, since neighbours in the order of paths are alike.
    for link in sorted(links)[:: len(links) // MOST_LINKS + 1]:
        answer = await request.get(link)
        assert (link, answer.status) == (link, 200)


async def test_everything_can_be_reached_without_javascript(flights, browse):
    page = await browse(flights.url, java_script_enabled=False)
    for pattern in PAGES.values():
        answer = await page.goto(flights.path(pattern))
        assert (pattern, answer.status) == (pattern, 200)
        await heading_and_title(page)


async def test_forms_work_without_javascript(flights, browse):
    page = await browse(flights.url, java_script_enabled=False)
    await page.goto("/streams")
    await page.get_by_label("Aggregate type").select_option("aircraft")
    await page.get_by_label("Id contains").fill("730MQ")
    await page.get_by_role("button", name="Search").click()
    await page.get_by_role("link", name="N730MQ").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("N730MQ")
    await page.get_by_role("slider").fill("3")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_role("heading", name="State at version 3")).to_be_visible()
    await expect(page.get_by_role("article", name="Version 3,")).to_be_visible()
    await expect(page.get_by_role("article", name="Version 4,")).to_have_count(0)


async def test_what_is_typed_into_the_search_is_found(flights, browse):
    page = await browse(flights.url)
    await page.goto("/")
    box = page.get_by_role("searchbox", name="Go to")
    for typed, heading in [
        ("order o-1001", "o-1001"),
        ("aircraft-N730MQ", "N730MQ"),
        (str(flights.positions["confirmed"]), "OrderConfirmed"),
    ]:
        await box.fill(typed)
        await box.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text(heading)


async def test_the_slider_shows_a_version_without_loading_the_page_anew(flights, browse):
    page = await browse(flights.url)
    await page.goto("/stream?type=aircraft&id=N730MQ")
    await until_live(page)
    await page.evaluate("document.body.dataset.mark = 'same page'")
    await page.get_by_role("slider").fill("7")
    await expect(page.get_by_role("heading", name="State at version 7")).to_be_visible()
    await expect(page.get_by_role("heading", name="Events up to version 7")).to_be_visible()
    assert await page.locator("body").get_attribute("data-mark") == "same page"
    assert "version=7" in page.url
    await page.reload()
    await expect(page.get_by_role("heading", name="State at version 7")).to_be_visible()


async def test_the_graph_leads_from_an_event_to_its_effects_and_causes(flights, browse):
    page = await browse(flights.url)
    await page.goto(flights.path("/events/{confirmed}"))
    graph = page.locator("svg.graph")
    assert await graph.locator("a").count() == 9
    await expect(graph.locator("a[aria-current]")).to_contain_text("OrderConfirmed")
    await graph.locator(".name", has_text="ParcelSent").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("ParcelSent")
    await page.get_by_text("As a list").click()
    await page.locator(".tree").get_by_role("link", name="OrderPlaced").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("OrderPlaced")
