"""What the tests of the stream browser share: a browser on the test's database, and somebody who looks."""

import re
from contextlib import asynccontextmanager
from html import unescape

import httpx
import pytest

from k1s0_event_store import EventEnvelope, StreamId
from k1s0_event_store.web import event_browser

ORDER = StreamId("order", "o-1")
TOKEN = "a token of 24 characters"  # noqa: S105 - of the tests alone


def event(stream_id, event_type, payload=None, **metadata):
    return EventEnvelope(stream_id, event_type, {} if payload is None else payload, metadata)


@asynccontextmanager
async def looking_at(app, base_url="http://localhost", **options):
    """A client of `app`, which is closed at the end."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=base_url, **options) as client,
    ):
        yield client


def fields_of(page):
    """The hidden fields of the page's forms."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    return {name: unescape(value) for name, value in found}


@pytest.fixture
async def client(event_store_config):
    """Somebody who looks."""
    async with looking_at(event_browser(event_store_config)) as client:
        yield client


@pytest.fixture
async def acting(event_store_config):
    """Somebody who may act."""
    async with looking_at(event_browser(event_store_config, allow_actions=True)) as client:
        yield client
