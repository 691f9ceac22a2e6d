"""The command line's group `subscriptions`: what runs, how far it is, and an operator's hand on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console

from k1s0_event_store.cli.json_output import print_json
from k1s0_event_store.cli.options import (
    DSN_VARIABLE,
    SCHEMA_VARIABLE,
    Dsn,
    Json,
    Schema,
    Yes,
    config_of,
    opened,
)
from k1s0_event_store.cli.subscriptions_view import parked_fields, show_parked, show_statuses, status_fields
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.exceptions import SubscriptionNotFoundError
from k1s0_event_store.feed import Cursor
from k1s0_event_store.postgres.subscription import PostgresSubscriptionStore
from k1s0_event_store.subscription import SubscriptionStatus, SubscriptionStore

T = TypeVar("T")

_NOTHING_RUNS: Final = (
    "no subscriptions yet: one appears here when a SubscriptionRunner runs it for the first time"
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the subscription.")]
Version = Annotated[
    int | None, typer.Option("--version", min=1, help="Version of the subscription; else the live one.")
]
NewVersion = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version of the subscription.")]
Stream = Annotated[
    tuple[str, str] | None, typer.Option("--stream", metavar="TYPE ID", help="Only this stream's events.")
]

subscriptions = typer.Typer(invoke_without_command=True)


@subscriptions.callback()
def show(
    ctx: typer.Context,
    dsn: Annotated[
        str | None,
        typer.Option("--dsn", envvar=DSN_VARIABLE, help="URL of the database.", show_default=False),
    ] = None,
    schema: Annotated[
        str, typer.Option("--schema", envvar=SCHEMA_VARIABLE, help="Schema of the tables.")
    ] = DEFAULT_SCHEMA,
    as_json: Json = False,
) -> None:
    """List the subscriptions, or steer one with a command.

    For each partition: what it does, how many events it is behind and for
    how long, what it has handled, and which worker holds it. A version that
    is not live is built beside the live one.
    """
    if ctx.invoked_subcommand is not None:
        _refuse_options_before(ctx)
        return
    if dsn is None:
        ctx.fail(f"Missing option '--dsn' (or the variable {DSN_VARIABLE}).")
    statuses = _on(dsn, schema, lambda store: store.statuses())
    if as_json:
        print_json([status_fields(status) for status in statuses])
    elif statuses:
        show_statuses(Console(), statuses)
    else:
        typer.echo(_NOTHING_RUNS)


def _refuse_options_before(ctx: typer.Context) -> None:
    """Options before the command's name would be lost, and the wrong database steered."""
    given = [name for name in ctx.params if _is_given(ctx, name)]
    if given:
        options = ", ".join(f"--{name.removeprefix('as_')}" for name in given)
        ctx.fail(f"Give {options} after the name of the command.")


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@subscriptions.command()
def pause(name: Name, dsn: Dsn, version: Version = None, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Let it rest at once, in all processes. What is in hand is rolled back, or comes again."""
    which, _ = _on_version(dsn, schema, name, version, lambda store, which: store.pause(name, which))
    typer.echo(f"{name} version {which} is paused")


@subscriptions.command()
def resume(name: Name, dsn: Dsn, version: Version = None, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Go on after a pause, or after an error that has stopped it."""
    which, _ = _on_version(dsn, schema, name, version, lambda store, which: store.resume(name, which))
    typer.echo(f"{name} version {which} goes on")


@subscriptions.command()
def reset(
    name: Name,
    dsn: Dsn,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Go to this place, not to the beginning.")
    ] = None,
    side_effects: Annotated[
        bool, typer.Option("--side-effects", help="Fire side effects again for what was handled before.")
    ] = False,
    version: Version = None,
    yes: Yes = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Go back, so that events are handled again. Its parked events are forgotten.

    The read model is not emptied: what the handler wrote stays. Empty it
    too, or a handler that counts counts twice. To do both in one transaction
    call `store.within(session).reset(...)` from code.
    """
    _go_back(dsn, schema, name, version, None if after is None else Cursor(after), side_effects, yes)


@subscriptions.command()
def rebuild(
    name: Name, dsn: Dsn, version: Version = None, yes: Yes = False, schema: Schema = DEFAULT_SCHEMA
) -> None:
    """Handle everything again from the beginning, without firing side effects again.

    This is `reset` to the beginning: the read model is not emptied, so do
    that too; until the subscription has caught up, readers see half of it.

    To build a new read model beside the old one instead, raise `version` in
    the subscription's code, let it run until it has caught up, then `switch`.
    """
    _go_back(dsn, schema, name, version, None, False, yes)


def _go_back(
    dsn: str,
    schema: str,
    name: str,
    version: int | None,
    after: Cursor | None,
    side_effects: bool,
    yes: bool,
) -> None:
    status = _on(dsn, schema, lambda store: _status_of(store, name, version))
    title = f"{name} version {status.version}"
    place = "to the beginning" if after is None else "to the given place"
    if not yes:
        again = "fired again" if side_effects else "not fired again"
        typer.echo(
            f"{title} goes back {place} and handles the events from there again.\n"
            f"Side effects are {again}. The read model is not emptied: that is left to you."
        )
        if status.parked:
            typer.echo(f"Its parked events ({status.parked:,}) are forgotten; they come again in their turn.")
        typer.confirm("Go on?", abort=True)
    _on(dsn, schema, lambda store: store.reset(name, status.version, after=after, side_effects=side_effects))
    typer.echo(f"{title} went back {place}; its read model is as it was")


@subscriptions.command()
def switch(
    name: Name,
    version: NewVersion,
    dsn: Dsn,
    within: Annotated[
        float,
        typer.Option("--within", metavar="SECONDS", min=0, help="Wait for the live version for so long."),
    ] = 10.0,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Make a version the live one: its side effects begin where those of the old one end.

    The live version must have handled what the new one has: let the workers
    of both run.
    """

    async def work(store: SubscriptionStore) -> int:
        old = await store.live_version(name)
        await store.switch(name, version, within=within)
        return old

    old = _on(dsn, schema, work)
    was = "already" if old == version else f"now; before it was version {old}"
    typer.echo(f"{name}: version {version} is live {was}")


@subscriptions.command()
def remove(
    name: Name, version: NewVersion, dsn: Dsn, yes: Yes = False, schema: Schema = DEFAULT_SCHEMA
) -> None:
    """Forget a version: how far it is, and its parked events.

    Refused for the live one while there are others or somebody works on it.
    """
    status = _on(dsn, schema, lambda store: _status_of(store, name, version))
    if not yes:
        live = "It is the live one. " if status.live else ""
        typer.echo(f"{name} version {version} is forgotten, with {status.parked:,} parked events. {live}")
        typer.confirm("Go on?", abort=True)
    _on(dsn, schema, lambda store: store.remove(name, version))
    typer.echo(f"{name} version {version} is removed; its read model is as it was")


@subscriptions.command()
def parked(
    dsn: Dsn,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the subscription; else all.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show so many, the oldest first.")] = 100,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """List events that wait to be retried or dropped, with what their handlers said."""
    found = _on(dsn, schema, lambda store: store.parked(name, limit + 1))
    shown = found[:limit]
    if as_json:
        print_json([parked_fields(event) for event in shown])
        return
    if not found:
        typer.echo("no parked events")
        return
    show_parked(Console(), shown)
    if len(found) > limit:
        typer.echo(f"there are more: only the oldest {limit:,} are shown, see --limit")


@subscriptions.command()
def retry(
    name: Name, dsn: Dsn, stream: Stream = None, version: Version = None, schema: Schema = DEFAULT_SCHEMA
) -> None:
    """Have parked events handled again by the workers, each stream in its order."""
    which, count = _on_version(
        dsn, schema, name, version, lambda store, which: store.retry_parked(name, _stream_id(stream), which)
    )
    typer.echo(f"{name} version {which}: {_events(count, stream)} will be retried")


@subscriptions.command()
def drop(
    name: Name,
    dsn: Dsn,
    stream: Stream = None,
    version: Version = None,
    yes: Yes = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Forget parked events for good: the handler never gets them."""
    which = _on(dsn, schema, lambda store: _version_of(store, name, version))
    if not yes:
        typer.echo(f"{name} version {which} will never handle its parked events{_of(stream)}")
        typer.confirm("Go on?", abort=True)
    count = _on(dsn, schema, lambda store: store.drop_parked(name, _stream_id(stream), which))
    typer.echo(f"{name} version {which}: {_events(count, stream)} dropped")


def _on(dsn: str, schema: str, work: Callable[[SubscriptionStore], Awaitable[T]]) -> T:
    """Do `work` on the database's subscriptions."""

    async def run() -> T:
        async with opened(PostgresSubscriptionStore(config_of(dsn, schema))) as store:
            return await work(store)

    return asyncio.run(run())


def _on_version(
    dsn: str,
    schema: str,
    name: str,
    version: int | None,
    work: Callable[[SubscriptionStore, int], Awaitable[T]],
) -> tuple[int, T]:
    """Do `work` on a version (None: the live one); which it was, and what came of it."""

    async def on_version(store: SubscriptionStore) -> tuple[int, T]:
        which = await _version_of(store, name, version)
        return which, await work(store, which)

    return _on(dsn, schema, on_version)


async def _version_of(store: SubscriptionStore, name: str, version: int | None) -> int:
    return await store.live_version(name) if version is None else version


async def _status_of(store: SubscriptionStore, name: str, version: int | None) -> SubscriptionStatus:
    """The status of a version (None: the live one); raises SubscriptionNotFoundError."""
    for status in await store.statuses(name):
        if status.live if version is None else status.version == version:
            return status
    raise SubscriptionNotFoundError(name, version)


def _stream_id(stream: tuple[str, str] | None) -> StreamId | None:
    return None if stream is None else StreamId(*stream)


def _events(count: int, stream: tuple[str, str] | None) -> str:
    return f"{count:,} parked event{'' if count == 1 else 's'}{_of(stream)}"


def _of(stream: tuple[str, str] | None) -> str:
    return "" if stream is None else f" of {StreamId(*stream)}"
