"""The command `show`: the events of one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import typer
from rich.console import Console

from k1s0_event_store.cli.events_view import SHOWN, event_json, show_event
from k1s0_event_store.cli.json_output import JsonArray
from k1s0_event_store.cli.options import AggregateId, AggregateType, Dsn, Json, Schema, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.exceptions import AggregateNotFoundError
from k1s0_event_store.feed import page_size
from k1s0_event_store.inspection import EventView
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.store import Span, check_span

_FIRST_PAGE: Final = 10
_UNCUT: Final = 2**31 - 1

From = Annotated[int, typer.Option("--from", metavar="VERSION", min=1, help="Begin with this version.")]
To = Annotated[int | None, typer.Option("--to", metavar="VERSION", min=1, help="End with this version.")]
Backwards = Annotated[bool, typer.Option("--backwards", help="The latest first.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Show so many; else all.")]


def show(
    aggregate_type: AggregateType,
    aggregate_id: AggregateId,
    dsn: Dsn,
    from_version: From = 1,
    to_version: To = None,
    backwards: Backwards = False,
    limit: Limit = None,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Show the events of a stream: version, type, when, id, payload and metadata.

    Exit code 1 if the stream does not exist.
    """
    stream_id = StreamId(aggregate_type, aggregate_id)
    span = check_span(stream_id, from_version, to_version, limit, backwards)

    async def run() -> None:
        async with opened(PostgresInspector(config_of(dsn, schema))) as inspector:
            if await inspector.stream(stream_id) is None:
                raise AggregateNotFoundError(stream_id)
            events = _events(inspector, stream_id, span, _UNCUT if as_json else SHOWN + 1)
            await (_print_json if as_json else _print)(events)

    asyncio.run(run())


async def _print_json(events: AsyncIterator[EventView]) -> None:
    with JsonArray() as array:
        async for event in events:
            array.add(event_json(event))


async def _print(events: AsyncIterator[EventView]) -> None:
    console, is_empty = Console(), True
    async for event in events:
        show_event(console, event)
        is_empty = False
    if is_empty:
        typer.echo("no events between these versions")


async def _events(
    inspector: PostgresInspector, stream_id: StreamId, span: Span, cut: int
) -> AsyncIterator[EventView]:
    """The events of a span, in pages of a few megabytes."""
    first, last, left, size = span.first, span.last, span.limit, _FIRST_PAGE
    while left is None or left > 0:
        limit = size if left is None else min(size, left)
        page = await inspector.events(stream_id, first, last, limit=limit, backwards=span.backwards, cut=cut)
        for event in page:
            yield event
        if len(page) < limit:
            return
        first, last = (first, page[-1].version - 1) if span.backwards else (page[-1].version + 1, last)
        left, size = None if left is None else left - limit, page_size(_mean_length(page))


def _mean_length(page: Sequence[EventView]) -> int:
    return sum(len(event.payload) + len(event.metadata) for event in page) // len(page)
