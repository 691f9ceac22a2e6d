"""The command `tail`: events as they are appended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from math import inf
from typing import Annotated

import typer
from rich.console import Console

from k1s0_event_store.cli.events_view import event_json, show_event
from k1s0_event_store.cli.following import follow
from k1s0_event_store.cli.options import Dsn, Schema, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.feed import AllEvents, EventFilter
from k1s0_event_store.inspection import EventView
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.process import Outages, log_to_stderr

FromStart = Annotated[bool, typer.Option("--from-start", help="Begin with the first event of the store.")]
Once = Annotated[bool, typer.Option("--once", help="With --from-start: show what is there, then stop.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this aggregate type; repeatable.")
]
EventTypes = Annotated[
    list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only of this type; repeatable.")
]
Stream = Annotated[
    tuple[str, str] | None, typer.Option("--stream", metavar="TYPE ID", help="Only this stream's events.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON with all fields, one event per line.")]


def tail(
    context: typer.Context,
    dsn: Dsn,
    from_start: FromStart = False,
    once: Once = False,
    types: Types = None,
    event_types: EventTypes = None,
    stream: Stream = None,
    limit: Limit = None,
    as_json: JsonLines = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Show events as they are committed, until Ctrl-C.

    Each once, in the order of the feed; an outage of the database is waited
    for. They come at once where the app notifies of its appends, else within
    half a second.
    """
    if once and not from_start:
        context.fail("--once shows what is there: give --from-start too.")
    if stream is not None and types:
        context.fail("Give --stream or --type, not both.")
    stream_id = None if stream is None else StreamId(*stream)
    only = EventFilter.of(types or None if stream is None else stream[:1], event_types or None)
    config = config_of(dsn, schema, notify=True)  # it hears of appends where apps notify

    async def run() -> None:
        async with opened(PostgresEventStore(config)) as store, aclosing(begin(store)) as events:
            await _print(events, stream_id, limit, as_json)

    def begin(store: PostgresEventStore) -> AllEvents | AsyncGenerator[EventEnvelope, None]:
        if once:
            return store.read_all(aggregate_types=only.aggregate_types, event_types=only.event_types)
        return follow(store, only, from_start=from_start, tell=partial(typer.echo, err=True))

    if not once:
        log_to_stderr(Outages(), debug=bool(context.find_root().params["debug"]))
    asyncio.run(run())


async def _print(
    events: AsyncIterator[EventEnvelope], stream_id: StreamId | None, limit: int | None, as_json: bool
) -> None:
    """Print events, of one stream or of all, until there are no more or so many were printed."""
    console, left = Console(), inf if limit is None else limit
    async for event in events:
        if stream_id is None or event.stream_id == stream_id:
            if as_json:
                typer.echo(event_json(_view(event)))
            else:
                show_event(console, _view(event), stream=str(event.stream_id))
            left -= 1
        if left == 0:
            return


def _view(event: EventEnvelope) -> EventView:
    payload = json.dumps(event.payload, ensure_ascii=False)
    return EventView(
        event.stream_id,
        event.version,
        event.position or 0,
        event.event_id,
        event.event_type,
        event.occurred_at,
        event.recorded_at or event.occurred_at,
        payload,
        len(payload),
        json.dumps(dict(event.metadata), ensure_ascii=False),
        event.metadata.get("correlation_id"),
        event.metadata.get("causation_id"),
    )
