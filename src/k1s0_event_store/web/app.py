"""The stream browser as an ASGI app: served by itself, or mounted in an app of FastAPI or Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from k1s0_event_store.config import EventStoreConfig, join_url, split_url
from k1s0_event_store.postgres.connection import AsyncBind
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.postgres.subscription import PostgresSubscriptionStore
from k1s0_event_store.web.access import Allow, access_by
from k1s0_event_store.web.browser import Browser, browser_in
from k1s0_event_store.web.errors import EXCEPTION_HANDLERS
from k1s0_event_store.web.gate import Gate
from k1s0_event_store.web.headers import StrictHeaders
from k1s0_event_store.web.mounting import WholePath
from k1s0_event_store.web.pages import events, goto, live, login, overview, streams, subscriptions, types
from k1s0_event_store.web.sessions import Sessions
from k1s0_event_store.web.states import Aggregates, AggregateStates

Page = Callable[[Request], Awaitable[Response]]

_STATEMENT_MILLISECONDS: Final = 10_000
_PAGE_SECONDS: Final = 15.0


def event_browser(
    config: EventStoreConfig | None = None,
    *,
    bind: AsyncBind | None = None,
    aggregates: Aggregates = (),
    allow_actions: bool = False,
    token: str | None = None,
    user_header: str | None = None,
    allow: Allow | None = None,
    secret: str | None = None,
) -> Starlette:
    """The pages of a store, to be served or mounted under any path.

    `config` or `bind`: as for a PostgresEventStore. On an engine of its own it sets a limit of ten
    seconds for statements, and is read only unless `allow_actions`; its lifespan closes the engine.
    `aggregates`: repositories, whose aggregates are shown as they were at any version; or a function
    that is given the event store and returns them.
    `allow_actions`: whether subscriptions can be paused, resumed and rebuilt, and parked events
    retried and dropped.

    Who gets in: with nothing else, requests of this machine only. `token`: who logs in with it.
    `user_header`: whoever comes with this header, which a proxy sets (and takes away from requests
    that bring one). `allow`: whoever the app's own async function of the request says True to.
    `secret`: signs the cookies of sessions; where several processes serve the pages without a token,
    give all of them the same.

    Raises ConfigurationError.
    """
    sessions = _sessions(secret, token)
    access = access_by(token, user_header, allow, sessions)
    if bind is None and config is not None:
        config = _careful(config, not allow_actions)
    inspector = PostgresInspector(config, bind=bind)
    config, bind = inspector.config, inspector.bind
    if callable(aggregates):
        aggregates = aggregates(PostgresEventStore(config, bind=bind))
    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(StrictHeaders), Middleware(WholePath), Middleware(Gate)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=_lifespan,
    )
    app.state.browser = Browser(
        inspector,
        PostgresSubscriptionStore(config, bind=bind),
        AggregateStates(aggregates),
        access,
        sessions,
        allow_actions,
    )
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await browser_in(app).close()


def _sessions(secret: str | None, token: str | None) -> Sessions:
    if secret is not None:
        return Sessions.of_text(secret)
    return Sessions() if token is None else Sessions.of_text(token)


def _careful(config: EventStoreConfig, read_only: bool) -> EventStoreConfig:
    """`config` for connections that cannot hurt the database. A pooler takes no settings of a connection."""
    if config.dsn is None or config.transaction_pooler:
        return config
    settings = {"statement_timeout": str(_STATEMENT_MILLISECONDS)}
    if read_only:
        settings["default_transaction_read_only"] = "on"
    split = split_url(config.dsn)
    query = "&".join(filter(None, [split.query, urlencode(settings)]))
    return replace(config, dsn=join_url(split._replace(query=query)), pool_size=3, max_overflow=3)


def _routes() -> list[Route | Mount]:
    return [
        _page("/", overview.show, "overview"),
        _page("/streams", streams.search, "streams"),
        _page("/stream", streams.show, "stream"),
        _page("/events", events.newest, "events"),
        _page("/events/{position:int}", events.show, "event"),
        _page("/events/{position:int}/raw", events.raw, "raw"),
        _page("/event", events.by_id, "event_by_id"),
        _page("/types", types.show, "types"),
        _page("/subscriptions", subscriptions.show_all, "subscriptions"),
        _page("/subscription", subscriptions.show, "subscription"),
        _page("/subscription/action", subscriptions.confirm, "action"),
        _page("/subscription/action", subscriptions.act, "act", "POST"),
        _page("/go", goto.go, "go"),
        _page("/login", login.show, "login"),
        _page("/login", login.log_in, "log_in", "POST"),
        _page("/logout", login.log_out, "log_out", "POST"),
        Route("/live", live.show, name="live"),
        Mount("/static", StaticFiles(packages=[("k1s0_event_store.web", "static")]), name="static"),
    ]


def _page(path: str, show: Page, name: str, method: str = "GET") -> Route:
    """A page that is given up where the database takes too long, on whatever connection."""

    async def within_time(request: Request) -> Response:
        async with asyncio.timeout(_PAGE_SECONDS):
            return await show(request)

    return Route(path, within_time, name=name, methods=[method])
