"""What happens while a page is open: server-sent events, one poller for all, none for nobody."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from k1s0_event_store import EventStoreConfig, StreamId
from k1s0_event_store.inspection import Arrivals
from k1s0_event_store.testing.runner_contract import eventually
from k1s0_event_store.web import event_browser
from k1s0_event_store.web import live as module
from k1s0_event_store.web.event_stream import EventStream, message
from k1s0_event_store.web.live import Arrived, Away, Live, Sampled
from k1s0_event_store.web.serving import serve_browser

from .conftest import ORDER, event

PATIENCE = 60


class Stream:
    """One open stream of server-sent events."""

    def __init__(self, response):
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self, kind):
        """The data of the next message of a kind."""
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if line == f"event: {kind}":
                    return await self._data()
        raise AssertionError(f"it ended without {kind}")

    async def _data(self):
        lines = []
        async for line in self._lines:
            if not line:
                break
            lines.append(line.removeprefix("data: "))
        return "\n".join(lines)

    async def end(self):
        """Wait for its end."""
        async with asyncio.timeout(PATIENCE):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def served(config, **options):
    """A browser on a server; its URL and its hub."""
    app = event_browser(config, **options)
    async with serve_browser(app, "0") as url:
        yield url, app.state.browser.live


@asynccontextmanager
async def watching(url, path="/live", **params):
    async with (
        httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client,
        client.stream("GET", path, params=params) as response,
    ):
        yield Stream(response)


async def test_a_page_gets_what_is_there_and_then_what_is_appended(event_store_config, event_store):
    await event_store.append(ORDER, [event(ORDER, "Placed")])
    async with served(event_store_config) as (url, _), watching(url) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["content-security-policy"].startswith("default-src 'none'")
        first = await stream.next("newest")
        assert first.count("<tr>") == 1
        assert "Placed" in first
        await event_store.append(
            ORDER, [event(ORDER, "<b>Paid</b>", {"text": "</td>"}), event(ORDER, "Sent")]
        )
        new = await stream.next("arrived")
        assert new.index(">Sent<") < new.index("&lt;b&gt;Paid&lt;/b&gt;")
        assert "Placed" not in new
        assert "&lt;/td&gt;" in new


async def test_a_page_of_a_stream_hears_of_this_stream_only(event_store_config, event_store):
    other = StreamId("order", "o-2")
    await event_store.append(ORDER, [event(ORDER, "Placed")])
    async with (
        served(event_store_config) as (url, _),
        watching(url) as all_streams,
        watching(url, type="order", id="o-1", seen=1) as stream,
    ):
        await all_streams.next("newest")
        await event_store.append(other, [event(other, "Placed")])
        await all_streams.next("arrived")
        await event_store.append(ORDER, [event(ORDER, "Paid"), event(ORDER, "Sent")])
        said = await stream.next("grown")
    assert "Version 3 has come" in said
    assert 'href="/stream?type=order&amp;id=o-1"' in said


async def test_all_pages_share_a_poller_that_ends_with_the_last_one(event_store_config, event_store):
    async with served(event_store_config) as (url, live):
        assert not live.is_looking
        async with watching(url) as one:
            await one.next("newest")
            poller = live._poller
            async with watching(url) as other:
                await other.next("newest")
                assert live._poller is poller
                await event_store.append(ORDER, [event(ORDER, "Placed")])
                assert await one.next("arrived") == await other.next("arrived")
            await eventually(lambda: len(live._listeners) == 1)
            assert live.is_looking
        await eventually(lambda: not live.is_looking)
        assert poller.done()
        async with watching(url) as again:
            assert "Placed" in await again.next("newest")


async def test_a_page_that_lost_something_is_told_the_newest_anew(event_store_config, event_store):
    async with served(event_store_config) as (url, live), watching(url) as stream:
        await stream.next("newest")
        (listener,) = live._listeners
        listener.has_lost = True
        await event_store.append(ORDER, [event(ORDER, "Placed")])
        await stream.next("arrived")
        assert "Placed" in await stream.next("newest")


async def test_open_pages_do_not_keep_the_server_from_ending(event_store_config):
    async with served(event_store_config) as (url, live):
        stack = asyncio.create_task(_until_the_end(url))
        await eventually(lambda: live.is_looking)
    await stack


async def _until_the_end(url):
    async with watching(url) as stream:
        await stream.end()


async def test_a_page_is_told_that_the_database_is_away():
    config = EventStoreConfig(dsn="postgresql://nobody@127.0.0.1:1/none")
    async with served(config) as (url, _), watching(url) as stream:
        assert await stream.next("away") == "The database does not answer."


async def test_a_silent_stream_gives_signs_of_life(event_store_config, monkeypatch):
    monkeypatch.setattr("k1s0_event_store.web.pages.live._HEARTBEAT_SECONDS", 0.05)
    async with served(event_store_config) as (url, _), watching(url) as stream:
        async with asyncio.timeout(PATIENCE):
            async for line in stream._lines:
                if line == ": still here":
                    break


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\rb"])
def test_a_message_cannot_be_broken_by_its_data(text):
    assert message("arrived", text) == "event: arrived\ndata: a\ndata: b\n\n"


# The hub by itself


class Feed:
    """In the place of an inspector: says what it is told to."""

    def __init__(self):
        self.arriving = asyncio.Queue()
        self.asked = 0
        self.error = None

    async def arrivals(self, seen=None, **_options):
        self.asked += 1
        if self.error is not None:
            raise self.error
        events = () if seen is None or self.arriving.empty() else self.arriving.get_nowait()
        return Arrivals(events, 0, str(self.asked))

    async def latest(self, limit=50, before=None, **_options):
        return []


async def nothing():
    pass


class Event:
    def __init__(self, position):
        self.position = position


async def test_numbers_are_taken_while_somebody_looks():
    taken = asyncio.Event()

    async def sample():
        taken.set()

    live = Live(Feed(), sample, look_every=0.001, sample_every=0.001)
    async with live.listen() as listener:
        async with asyncio.timeout(PATIENCE):
            while not isinstance(await listener.next(1), Sampled):
                pass
    assert taken.is_set()


async def test_numbers_that_cannot_be_had_do_not_stop_the_tail(caplog):
    async def broken():
        raise OSError("away")

    feed = Feed()
    live = Live(feed, broken, look_every=0.001, sample_every=0.001)
    async with live.listen() as listener:
        assert (await listener.next(PATIENCE)).anew
        await eventually(lambda: "cannot ask for the subscriptions" in caplog.text)
        feed.arriving.put_nowait([Event(1)])
        change = await listener.next(PATIENCE)
    assert [one.position for one in change.events] == [1]


async def test_a_listener_that_is_slow_is_told_the_newest_anew():
    feed = Feed()
    live = Live(feed, nothing, look_every=0, sample_every=PATIENCE)
    async with live.listen() as listener:
        for position in range(60):
            feed.arriving.put_nowait([Event(position)])
        await eventually(lambda: listener.has_lost and feed.arriving.empty())
        while await listener.next(0.01) is not None:
            pass
        live.again(listener)
        change = await listener.next(1)
    assert change.anew
    assert [one.position for one in change.events] == list(range(59, 29, -1))


async def test_after_an_outage_the_newest_are_told_anew():
    feed = Feed()
    live = Live(feed, nothing, look_every=0.001, sample_every=PATIENCE)
    async with live.listen() as listener:
        assert (await listener.next(PATIENCE)).anew
        feed.error = OSError("away")
        assert isinstance(await listener.next(PATIENCE), Away)
        feed.error = None
        async with asyncio.timeout(PATIENCE):
            while not isinstance(change := await listener.next(1), Arrived):
                pass
    assert change.anew


async def test_there_is_an_end_to_how_many_may_listen(client, monkeypatch):
    monkeypatch.setattr(module, "_MOST_LISTENERS", 0)
    page = await client.get("/live")
    assert page.status_code == 503
    assert "Too many pages are open" in page.text


async def test_an_error_of_a_stream_is_not_swallowed():
    async def broken():
        yield "one"
        raise RuntimeError("broken")

    sent, never = [], asyncio.Event()

    async def send(part):
        sent.append(part["type"])

    with pytest.raises(RuntimeError, match="broken"):
        await EventStream(broken())({}, never.wait, send)
    assert sent == ["http.response.start", "http.response.body"]
