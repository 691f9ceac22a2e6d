"""The command `streams`: which streams there are."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console

from k1s0_event_store.cli.json_output import JsonArray
from k1s0_event_store.cli.options import Dsn, Json, Schema, config_of, opened, point_in_time
from k1s0_event_store.cli.tables import duration, foreign, new_table, one_line
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.envelope import StreamId, check_name
from k1s0_event_store.inspection import StreamFilter, StreamHead, StreamPage
from k1s0_event_store.postgres.inspector import PostgresInspector

_PAGE: Final = 500

Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only of this aggregate type.")]
Contains = Annotated[
    str, typer.Option("--contains", metavar="TEXT", help="Only with this text in the aggregate id.")
]
MinEvents = Annotated[int | None, typer.Option("--min-events", min=1, help="Only with so many events.")]
MaxEvents = Annotated[int | None, typer.Option("--max-events", min=1, help="Only with so few events.")]
ChangedSince = Annotated[
    datetime | None,
    typer.Option(
        "--changed-since", metavar="TIME", parser=point_in_time, help="2026-01-31, or an age like 7d, 2h."
    ),
]
ChangedBefore = Annotated[
    datetime | None,
    typer.Option("--changed-before", metavar="TIME", parser=point_in_time, help="As --changed-since."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="List so many.")]
All = Annotated[bool, typer.Option("--all", help="List all, however many there are.")]
After = Annotated[
    tuple[str, str] | None, typer.Option("--after", metavar="TYPE ID", help="Go on after this stream.")
]


def streams(
    dsn: Dsn,
    aggregate_type: Type = None,
    contains: Contains = "",
    min_events: MinEvents = None,
    max_events: MaxEvents = None,
    changed_since: ChangedSince = None,
    changed_before: ChangedBefore = None,
    limit: Limit = 50,
    without_limit: All = False,
    after: After = None,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """List streams by type and id: how many events they have, and when the last one came.

    Only --type is found by an index: other filters look at the streams one after the other.
    """
    wanted = StreamFilter(
        aggregate_type=None if aggregate_type is None else check_name(aggregate_type, "--type"),
        contains=contains and check_name(contains, "--contains"),
        min_events=min_events,
        max_events=max_events,
        changed_since=changed_since,
        changed_before=changed_before,
    )
    start = None if after is None else StreamId(*after)
    show = _print_json if as_json else _print_tables

    async def run() -> StreamId | None:
        async with opened(PostgresInspector(config_of(dsn, schema))) as inspector:
            return await show(_pages(inspector, wanted, start, None if without_limit else limit))

    more = asyncio.run(run())
    if more is not None:
        place = shlex.join([more.aggregate_type, more.aggregate_id])
        typer.echo(one_line(f"there may be more: go on with --after {place}"), err=as_json)


async def _pages(
    inspector: PostgresInspector, wanted: StreamFilter, after: StreamId | None, most: int | None
) -> AsyncIterator[StreamPage]:
    """Pages of at most `most` streams in all; a page can be empty, and more of them follow."""
    while True:
        page = await inspector.streams(wanted, after, limit=_PAGE if most is None else min(most, _PAGE))
        yield page
        after = page.next_after
        if most is not None:
            most -= len(page.streams)
        if after is None or most == 0:
            return


async def _print_json(pages: AsyncIterator[StreamPage]) -> StreamId | None:
    """Print the streams; returns where to go on (None: there are no more)."""
    more = None
    with JsonArray() as array:
        async for page in pages:
            more = page.next_after
            for head in page.streams:
                array.add(json.dumps(_fields(head)))
    return more


def _fields(head: StreamHead) -> dict[str, object]:
    return {
        "aggregate_type": head.stream_id.aggregate_type,
        "aggregate_id": head.stream_id.aggregate_id,
        "version": head.version,
        "created_at": head.created_at.isoformat(),
        "updated_at": head.updated_at.isoformat(),
    }


async def _print_tables(pages: AsyncIterator[StreamPage]) -> StreamId | None:
    """As `_print_json`; a table has up to a page of streams, so that none has to hold all."""
    console, heads, is_first, more = Console(), list[StreamHead](), True, None
    async for page in pages:
        more = page.next_after
        heads += page.streams
        if len(heads) >= _PAGE:
            _print_table(console, heads)
            heads, is_first = [], False
    if heads:
        _print_table(console, heads)
    elif is_first:
        typer.echo("no streams")
    return more


def _print_table(console: Console, heads: Sequence[StreamHead]) -> None:
    now = datetime.now(UTC)
    table = new_table()
    table.add_column("type", overflow="fold")
    table.add_column("id", overflow="fold")
    table.add_column("events", justify="right", no_wrap=True)
    table.add_column("last change", justify="right", no_wrap=True)
    for head in heads:
        table.add_row(
            foreign(head.stream_id.aggregate_type),
            foreign(head.stream_id.aggregate_id),
            f"{head.version:,}",
            f"{duration((now - head.updated_at).total_seconds())} ago",
        )
    console.print(table)
