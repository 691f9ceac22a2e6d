"""With the keyboard alone: everything can be reached, is seen to be reached, and can be left."""

import pytest

from . import scenes
from .conftest import pages_of
from .scenes import PAGES
from .visits import expect, in_a_browser, until_live

pytestmark = in_a_browser

MOST_STOPS = 400

_FOCUS = """() => {
  const one = document.activeElement;
  const circle = one.closest("svg") && one.querySelector("circle");
  const style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  return {
    what: one.outerHTML.slice(0, 150),
    isBody: one === document.body,
    isSkip: one.matches(".skip"),
    isMarked: circle
      ? parseFloat(getComputedStyle(circle).strokeWidth) > 3
      : style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    isInSight: box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight,
  };
}"""


async def tab(page):
    """One step; what has the focus then must be in sight and marked."""
    await page.keyboard.press("Tab")
    focus = await page.evaluate(_FOCUS)
    assert focus["isBody"] or (focus["isMarked"] and focus["isInSight"]), focus
    return focus


async def tab_to(page, locator):
    await page.wait_for_load_state()  # its styles mark the focus
    for _ in range(MOST_STOPS):
        await tab(page)
        if await locator.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"the focus does not come to {locator}")


@pytest.mark.parametrize("name", ["streams found", "stream", "event", "types", "subscription"])
async def test_the_focus_goes_round_the_page(flights, browse, name):
    page = await browse(flights.url)
    await page.goto(flights.path(PAGES[name]))
    reachable = await page.locator(
        "a[href]:visible, button:visible, input:visible:not([type=hidden]), select:visible, summary:visible, "
        "[tabindex='0']:visible"
    ).count()
    assert (await tab(page))["isSkip"]
    stops = 1
    while not (focus := await tab(page))["isSkip"]:
        stops += not focus["isBody"]
        assert stops <= MOST_STOPS
    assert stops >= reachable


async def test_a_stream_is_found_and_looked_into(flights, browse):
    page = await browse(flights.url)
    await page.goto("/")
    await until_live(page)
    await tab(page)
    await expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.goto("/types")
    await tab_to(page, page.get_by_role("searchbox", name="Go to"))
    await page.keyboard.type("aircraft N730MQ")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("N730MQ")
    second = page.get_by_role("article").nth(1)
    await tab_to(page, second.locator("summary").first)
    await page.keyboard.press("Enter")
    await expect(second.locator("pre").first).to_be_visible()


async def test_the_slider_moves_by_arrows(flights, browse):
    page = await browse(flights.url)
    await page.goto("/stream?type=aircraft&id=N730MQ&version=100")
    await until_live(page)
    slider = page.get_by_role("slider")
    await tab_to(page, slider)
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_role("heading", name="State at version 98")).to_be_visible()
    await expect(page.locator("#shown-version")).to_have_text("98")
    await expect(slider).to_be_focused()


async def test_the_focus_survives_what_is_renewed(flights, browse):
    page = await browse(flights.url)
    await page.goto("/")
    await until_live(page)
    link = page.get_by_role("link", name="All types")
    await link.focus()
    await page.evaluate("document.getElementById('numbers').dataset.mark = 'old'")
    await expect(page.locator("#numbers[data-mark]")).to_have_count(0)
    await expect(link).to_be_focused()


async def test_an_action_is_confirmed(chromium, event_store_dsn, browse):
    await scenes.only_subscriptions(event_store_dsn)
    async with pages_of(event_store_dsn, allow_actions=True) as url:
        page = await browse(url)
        await page.goto("/subscriptions")
        await tab_to(page, page.get_by_role("link", name="shipping"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("shipping version 1")
        await tab_to(page, page.get_by_role("link", name="Pause …"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Pause: shipping")
        await tab_to(page, page.get_by_role("button", name="Pause", exact=True))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status").filter(has_text="It is paused.")).to_be_visible()
        await page.context.close()
