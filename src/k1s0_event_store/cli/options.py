"""Arguments and options that several commands of the command line share."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, TypeVar

import typer

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.postgres.client import AsyncClient, check_tenant

DSN_VARIABLE: Final = "K1S0_EVENT_STORE_DSN"
SCHEMA_VARIABLE: Final = "K1S0_EVENT_STORE_SCHEMA"
TENANT_VARIABLE: Final = "K1S0_EVENT_STORE_TENANT"

chosen_tenant: Final[ContextVar[str | None]] = ContextVar("chosen_tenant", default=None)
"""What the option before the command says."""

_AGE: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def point_in_time(text: str) -> datetime:
    """An ISO date or time (UTC, unless it names another zone), or an age like 7d or 2h."""
    try:
        age = _AGE.fullmatch(text)
        if age is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-01-31, 2026-01-31T12:00, or an age like 7d, 2h, 30m, 10s"
        ) from None


def config_of(dsn: str, schema: str, *, notify: bool = False) -> EventStoreConfig:
    """The settings that a command was given, with the tenant that stands before it."""
    return EventStoreConfig(dsn=dsn, schema=schema, tenant=chosen_tenant.get(), notify=notify)


C = TypeVar("C", bound=AsyncClient)


@asynccontextmanager
async def opened(client: C) -> AsyncIterator[C]:
    """What looks at the tables, closed at the end; for a tenant, where they know tenants."""
    try:
        await check_tenant(client)
        yield client
    finally:
        await client.close()


Dsn = Annotated[str, typer.Option("--dsn", envvar=DSN_VARIABLE, help="URL of the database.")]
Schema = Annotated[str, typer.Option("--schema", envvar=SCHEMA_VARIABLE, help="Schema of the tables.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with all fields.")]
AggregateType = Annotated[str, typer.Argument(metavar="TYPE", help="Aggregate type of the stream.")]
AggregateId = Annotated[str, typer.Argument(metavar="ID", help="Aggregate id of the stream.")]
