"""Actions on subscriptions: each behind a page that asks, and done once."""

import pytest_asyncio

from k1s0_event_store import EventStoreConfig, PostgresEventStore, PostgresSubscriptionStore

from . import scenes
from .conftest import pages_of
from .visits import expect, in_a_browser

pytestmark = in_a_browser


@pytest_asyncio.fixture(loop_scope="session")
async def storage(event_store_dsn):
    """The subscription `shipping`, with four events of two streams parked."""
    async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
        await scenes.tell_story(store)
        await scenes.subscribe(store)
        yield PostgresSubscriptionStore(store.config, bind=store.bind)


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium, storage, event_store_dsn, browse):
    """The page of the subscription, with actions allowed."""
    async with pages_of(event_store_dsn, allow_actions=True) as url:
        page = await browse(url)
        await page.goto("/subscription?name=shipping&version=1")
        yield page
        await page.context.close()


async def shipping(storage):
    (status,) = await storage.statuses(scenes.SHIPPING)
    return status


async def states(storage):
    return {partition.state.value for partition in (await shipping(storage)).partitions}


def news(page, text):
    return page.get_by_role("status").filter(has_text=text)


async def confirm(page, action):
    """Follow the link, then press the button."""
    await page.get_by_role("link", name=f"{action} …").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(f"{action}: shipping version 1?")
    await page.get_by_role("button", name=action, exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("shipping version 1")


async def test_it_is_paused_and_resumed(page, storage):
    await confirm(page, "Pause")
    await expect(news(page, "It is paused.")).to_be_visible()
    await expect(page.get_by_role("table").first.get_by_text("paused")).to_have_count(2)
    assert await states(storage) == {"paused"}
    await confirm(page, "Resume")
    await expect(news(page, "It goes on.")).to_be_visible()
    assert "paused" not in await states(storage)


async def test_nothing_is_done_before_it_is_confirmed(page, storage):
    before = await shipping(storage)
    await page.get_by_role("link", name="Drop parked …").click()
    await page.get_by_role("link", name="Leave it as it is").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("shipping version 1")
    assert (await shipping(storage)).parked == before.parked == 4


async def test_going_back_and_loading_again_do_not_repeat_it(page, storage):
    await confirm(page, "Pause")
    await storage.resume(scenes.SHIPPING)
    await page.reload()
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Pause: shipping")
    await page.reload()
    await page.go_forward()
    await expect(page.get_by_role("heading", level=1)).to_have_text("shipping version 1")
    assert "paused" not in await states(storage)


async def test_parked_events_of_one_stream_are_retried(page, storage):
    row = page.get_by_role("row").filter(has_text="ParcelPacked")
    await row.get_by_role("link", name="Retry").click()
    await expect(page.get_by_text("Only those of the stream parcel-p-77.")).to_be_visible()
    await page.get_by_role("button", name="Retry parked").click()
    await expect(news(page, "Parked events will be retried: 2.")).to_be_visible()
    leases = await storage.beat(scenes.SHIPPING, 1, "worker-1:4711", 3600)
    assert any(lease.retry for lease in leases)


async def test_parked_events_are_dropped_of_one_stream_then_all(page, storage):
    row = page.get_by_role("row").filter(has_text="ParcelPacked")
    await row.get_by_role("link", name="Drop").click()
    await page.get_by_role("button", name="Drop parked").click()
    await expect(news(page, "Parked events dropped: 2.")).to_be_visible()
    assert {parked.stream_id for parked in await storage.parked()} == {scenes.ORDER}
    await confirm(page, "Drop parked")
    await expect(page.get_by_role("link", name="Drop parked …")).to_have_count(0)
    assert await storage.parked() == []


async def test_it_is_rebuilt_from_the_beginning(page, storage):
    assert any(partition.cursor for partition in (await shipping(storage)).partitions)
    await confirm(page, "Rebuild")
    await expect(news(page, "It went back to the beginning")).to_be_visible()
    assert not any(partition.cursor for partition in (await shipping(storage)).partitions)


async def test_whoever_has_the_token_gets_in_and_out_again(chromium, event_store_dsn, browse):
    async with pages_of(event_store_dsn, token=scenes.TOKEN) as url:
        page = await browse(url, expected=["responded with a status of 401"])
        await page.goto("/types")
        await expect(page.get_by_label("Token")).to_be_focused()
        await page.keyboard.type("a wrong token")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        await page.get_by_label("Token").fill(scenes.TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Types")
        await page.get_by_role("button", name="Log out").click()
        await page.goto("/types")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
