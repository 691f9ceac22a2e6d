"""The app: what lives as long as the process, what goes with a request, which error is which status."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store import (
    AggregateNotFoundError,
    ConcurrencyError,
    InvalidInputError,
    SubscriptionRunner,
    WaitTimeoutError,
    event_metadata,
)
from orders.order import OrderError
from orders.projection import demand_projection
from orders.routes import router
from orders.shop import open_shop

STATUS = {
    OrderError: 422,
    InvalidInputError: 422,
    AggregateNotFoundError: 404,
    ConcurrencyError: 409,
    WaitTimeoutError: 503,
}


def create_app(url: str | None = None) -> FastAPI:
    """The app on the database of `url`, or of DATABASE_URL: `uvicorn --factory orders.app:create_app`."""
    database = url or os.environ["DATABASE_URL"]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_async_engine(database)
        shop = app.state.shop = open_shop(engine)
        projections = [demand_projection(shop.store)]
        try:
            await shop.store.validate()  # what is missing is better found now than at the first request
            async with SubscriptionRunner(shop.store, shop.subscriptions, projections):
                yield
        finally:
            await engine.dispose()

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(router)
    app.middleware("http")(with_metadata)
    app.exception_handler(IntegrityError)(coupon_was_used)
    for error in STATUS:
        app.exception_handler(error)(refused)
    return app


async def with_metadata(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Every event that the request makes says which request it was, and whose."""
    correlation_id = request.headers.get("x-correlation-id") or str(uuid4())
    with event_metadata(correlation_id=correlation_id, actor=request.headers.get("x-user")):
        response = await call_next(request)
    response.headers["x-correlation-id"] = correlation_id
    return response


async def refused(request: Request, error: Exception) -> Response:
    """The messages of these errors say what was wrong, and nothing that clients must not know."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return JSONResponse({"detail": str(error)}, status)


async def coupon_was_used(request: Request, error: Exception) -> Response:
    """A coupon's code is the only key of ours that a request can collide with."""
    return JSONResponse({"detail": "this coupon was used before"}, 409)
