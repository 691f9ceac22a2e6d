"""The commands `export` and `import`: events to a file of JSON Lines, and from one into a store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from k1s0_event_store.cli.failures import INTERRUPTED
from k1s0_event_store.cli.options import Dsn, Json, Schema, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.transfer.exporting import Exported, Selection, export_events
from k1s0_event_store.transfer.importing import Imported, import_events

T = TypeVar("T", Exported, Imported)

_PIPE: Final = Path("-")


def export(
    to: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to; .gz and .zst are compressed, - is the output.")
    ],
    dsn: Dsn,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only this aggregate type; more than once for several."),
    ] = None,
    stream: Annotated[
        tuple[str, str] | None, typer.Option("--stream", metavar="TYPE ID", help="Only this stream.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an export that was interrupted.")
    ] = False,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Write events to a file of JSON Lines, in the order of the feed.

    It holds what was committed when the export began. The file has its name
    when it is whole; until then it is FILE.part.
    """
    selection = Selection(tuple(types) if types else None, StreamId(*stream) if stream else None)
    config = config_of(dsn, schema)

    async def run() -> Exported:
        async with opened(PostgresEventStore(config)) as store:
            with _Bar("exported") as bar:
                bar.total = await _newest_position(store) if bar.is_shown and stream is None else None
                return await export_events(
                    store,
                    sys.stdout.buffer if to == _PIPE else to,
                    selection,
                    resume=resume,
                    watch=lambda done: bar.show(done.events, done.position),
                )

    again = "" if to == _PIPE else "; the same command with --resume goes on where it stopped"
    _report(run, lambda done: f"exported {done.events:,} events to {to}", again, as_json, to == _PIPE)


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that export has written, or - for the input.")
    ],
    dsn: Dsn,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Append the events of a file that the store does not hold yet.

    What is there already must be the same, and is skipped: an import that
    was interrupted is simply repeated. Versions and ids stay, times and
    places of recording are new.
    """
    config = config_of(dsn, schema)

    async def run() -> Imported:
        async with opened(PostgresEventStore(config)) as store:
            with _Bar("looked at") as bar:
                bar.total = None if source == _PIPE else source.stat().st_size
                return await import_events(
                    store,
                    sys.stdin.buffer if source == _PIPE else source,
                    watch=lambda done: bar.show(done.events, done.size),
                )

    def said(done: Imported) -> str:
        return f"{source}: {done.events:,} events, {done.appended:,} of them new"

    _report(run, said, "; repeat it to go on", as_json)


async def _newest_position(store: PostgresEventStore) -> int | None:
    """How far an export has to go, about."""
    newest = await PostgresInspector(store.config, bind=store.bind).latest(1)
    return newest[0].position if newest else None


def _report(
    run: Callable[[], Coroutine[Any, Any, T]],
    said: Callable[[T], str],
    again: str,
    as_json: bool,
    to_stderr: bool = False,
) -> None:
    """Do the work, and say what was done and how fast."""
    started = perf_counter()
    try:
        done = asyncio.run(run())
    except KeyboardInterrupt:
        typer.echo(f"stopped{again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    seconds = perf_counter() - started
    if as_json:
        typer.echo(json.dumps({**asdict(done), "seconds": round(seconds, 3)}, indent=2), err=to_stderr)
    else:
        rate = f"{done.events / max(seconds, 1e-6):,.0f} events per second"
        typer.echo(f"{said(done)} in {seconds:.1f} s: {rate}", err=to_stderr)


class _Bar(AbstractContextManager["_Bar"]):
    """How far it is, on a terminal; `total` is what the place of `show` comes to, if it is known."""

    def __init__(self, what: str) -> None:
        console = Console(stderr=True)
        self.is_shown = console.is_terminal
        self._progress = Progress(
            TextColumn(f"{what} {{task.fields[events]:,}}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not self.is_shown,
        )
        self._task = self._progress.add_task("", total=None, events=0, rate="")
        self._first: tuple[int, float] | None = None
        self.total: int | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def show(self, events: int, place: int | None) -> None:
        """So many events are done, up to a place."""
        self._first = self._first or (events, perf_counter())
        seconds = perf_counter() - self._first[1]
        done = events - self._first[0]
        rate = f"{done / seconds:,.0f} events/s" if done else ""
        completed = 0 if self.total is None else min(place or 0, self.total)
        self._progress.update(self._task, total=self.total, completed=completed, events=events, rate=rate)
