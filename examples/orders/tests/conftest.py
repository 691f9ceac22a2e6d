"""A database per test by the event store's pytest plugin, and the whole app on it."""

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import create_async_engine

from orders.app import create_app
from orders.migrate import migrate


@pytest.fixture
async def url(event_store_dsn):
    """The test's database, as SQLAlchemy calls it, with the tables of the app."""
    url = event_store_dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    await migrate(url)
    return url


@pytest.fixture
async def engine(url):
    """For looking at the app's tables."""
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def client(url):
    """A client of the running app, projection included."""
    app = create_app(url)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://shop") as client,
    ):
        yield client
