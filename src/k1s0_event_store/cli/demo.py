"""The command `demo`: a month of real flights, and what the store does with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from k1s0_event_store.cli.failures import INTERRUPTED
from k1s0_event_store.cli.options import Schema
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.demo.run import prepare, run_demo
from k1s0_event_store.sandbox import server_or
from k1s0_event_store.terminal import say


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where the embedded PostgreSQL keeps its data; it stays.")
    ] = Path(".sandbox"),
    dsn: Annotated[
        str | None, typer.Option("--dsn", help="Run on this database, not on the embedded PostgreSQL.")
    ] = None,
    schema: Schema = DEFAULT_SCHEMA,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="CSV file of flights, plain or .gz, instead of January 2013."),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Report rows that are no flights and go on.")
    ] = False,
) -> None:
    """Take in a month of real flights and show what the store does.

    The environment's DSN is not used: the demo writes 80,000 events only where it is told to.
    """
    console = Console()
    config = None if dsn is None else EventStoreConfig(dsn=dsn, schema=schema)
    streams = prepare(console, file, skip_bad_rows)
    say(console, _place(config, folder))
    try:
        with server_or(dsn, folder) as live:
            asyncio.run(run_demo(EventStoreConfig(dsn=live, schema=schema), streams, console))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on where it stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _place(config: EventStoreConfig | None, folder: Path) -> str:
    if config is None:
        return f"embedded PostgreSQL in {folder} (delete the folder to begin again)"
    return f"database {config.masked_dsn}, schema {config.schema}"
