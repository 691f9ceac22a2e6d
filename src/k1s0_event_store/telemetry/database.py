"""What a store says of the database that it is in."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.telemetry import conventions as names

_PORT: Final = 5432


def engine_of(store: object) -> Engine | None:
    """The engine below a store on PostgreSQL, if it has one."""
    bind: Any = getattr(store, "bind", None)
    if isinstance(bind, async_sessionmaker | sessionmaker):
        bind = bind.kw.get("bind")
    if isinstance(bind, AsyncEngine):
        bind = bind.sync_engine
    return bind if isinstance(bind, Engine) else None


def database_of(store: object) -> dict[str, str | int]:
    """The attributes of the database; a store without a configuration is a system of its own."""
    config = getattr(store, "config", None)
    if not isinstance(config, EventStoreConfig):
        return {names.DB_SYSTEM_NAME: names.SCOPE}
    url = _url_of(config, engine_of(store))
    database = () if url is None or not url.database else (url.database,)
    found: dict[str, str | int] = {
        names.DB_SYSTEM_NAME: "postgresql",
        names.DB_NAMESPACE: "|".join((*database, config.schema)),
    }
    if url is not None and url.host:
        found[names.SERVER_ADDRESS] = url.host
        if url.port is not None and url.port != _PORT:
            found[names.SERVER_PORT] = url.port
    return found


def pool_name(database: dict[str, str | int]) -> str:
    """One name per pool: server.address:server.port/db.namespace, as far as they are known."""
    namespace = str(database.get(names.DB_NAMESPACE, names.SCOPE))
    if names.SERVER_ADDRESS not in database:
        return namespace
    return f"{database[names.SERVER_ADDRESS]}:{database.get(names.SERVER_PORT, _PORT)}/{namespace}"


def _url_of(config: EventStoreConfig, engine: Engine | None) -> URL | None:
    """An engine that a store has made for itself leaves the address to the driver."""
    if engine is not None and engine.url.database:
        return engine.url
    try:
        return None if config.dsn is None else make_url(config.dsn)
    except (ArgumentError, ValueError):
        return None  # several servers: the driver chooses
