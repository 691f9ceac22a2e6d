"""The command line's group `db`: the tables of a database."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import sqlalchemy as sa
import typer

from k1s0_event_store.cli.options import DSN_VARIABLE, Dsn, Schema, Yes, config_of
from k1s0_event_store.cli.tables import one_line
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.exceptions import SchemaError
from k1s0_event_store.postgres import rights
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.models import metadata_for
from k1s0_event_store.postgres.rebase import rebase as rebase_database
from k1s0_event_store.postgres.schema import (
    BASE,
    HEAD,
    current_revision,
    downgrade_database,
    head_revision,
    upgrade_database,
)
from k1s0_event_store.postgres.store import PostgresEventStore

Roles = Annotated[list[rights.Role], typer.Argument(metavar="ROLE...", help="What it is for.")]
Sql = Annotated[bool, typer.Option("--sql", help="Print the statements instead, for somebody else to run.")]
DsnUnlessSql = Annotated[str | None, typer.Option("--dsn", envvar=DSN_VARIABLE, help="URL of the database.")]

db = typer.Typer(no_args_is_help=True, help="Make, change and check the tables.")


@db.command()
def upgrade(
    dsn: Dsn,
    schema: Schema = DEFAULT_SCHEMA,
    to: Annotated[str, typer.Option("--to", help="Revision to go to.")] = HEAD,
) -> None:
    """Make the tables, or bring them up to a revision."""
    config = EventStoreConfig(dsn=dsn, schema=schema)
    before, after = asyncio.run(in_transaction(config, partial(_upgrade, schema=schema, to=to)))
    _report_move(config, before, after)


@db.command()
def downgrade(
    dsn: Dsn,
    to: Annotated[str, typer.Option("--to", help="Revision to go to; base: no tables are left.")],
    schema: Schema = DEFAULT_SCHEMA,
    yes: Yes = False,
) -> None:
    """Take the tables down to a revision. What later revisions made is destroyed."""
    config = EventStoreConfig(dsn=dsn, schema=schema)
    loss = asyncio.run(in_transaction(config, partial(_loss, schema=schema, to=to)))
    if loss is not None:
        typer.echo(f"{config.masked_dsn}, schema {schema}: {loss}")
    if loss is not None and not yes:
        typer.confirm("Go on?", abort=True)
    before, after = asyncio.run(in_transaction(config, partial(_downgrade, schema=schema, to=to)))
    _report_move(config, before, after)


@db.command()
def rebase(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA) -> None:
    """After a restore into another cluster: make the feed and the subscriptions' cursors good for it.

    Run it once, as the owner of the tables, before anything is appended.
    """
    config = EventStoreConfig(dsn=dsn, schema=schema)
    done = asyncio.run(in_transaction(config, partial(rebase_database, schema=schema)))
    report = f"rebased {done.events:,} events, {done.checkpoints:,} cursors"
    if done.origin == done.cluster:
        report = "nothing to do: the events were written in this cluster, or rebased before"
    typer.echo(f"{config.masked_dsn}, schema {schema}: {report}")


@db.command()
def check(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Say at which revision the tables are; exit code 1 if it is not the newest."""
    config = EventStoreConfig(dsn=dsn, schema=schema)
    current = asyncio.run(in_transaction(config, partial(current_revision, schema=schema)))
    typer.echo(f"{config.masked_dsn}, schema {schema}")
    typer.echo(f"current revision: {current}\nnewest revision:  {head_revision()}")
    if current != head_revision():
        typer.echo("not at the newest revision: run `k1s0-event-store db upgrade`", err=True)
        raise typer.Exit(1)


@db.command()
def validate(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Compare the tables with what this version expects; exit code 1 if something differs."""
    config = config_of(dsn, schema)
    try:
        asyncio.run(_validate(config))
    except SchemaError as exc:
        for problem in exc.problems:
            typer.echo(f"problem: {problem}", err=True)
        raise
    typer.echo(f"{config.masked_dsn}, schema {schema}: the tables are as expected")


@db.command()
def grant(
    roles: Roles,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Role of the database.")],
    dsn: DsnUnlessSql = None,
    schema: Schema = DEFAULT_SCHEMA,
    create: Annotated[
        bool, typer.Option("--create", help="Make the role, without a login, if there is none.")
    ] = False,
    as_sql: Sql = False,
) -> None:
    """Give a role of the database the rights of one or several of ours, and no others.

    writer, reader, projector; keeper, forgetter, rotator (of keys);
    consumer, cleaner (of the inbox); owner, who gets the tables.

    Grant again after an upgrade. All of it is one transaction.
    """
    if as_sql:
        _print_script(rights.script(rights.check_roles(roles), to, schema, create=create))
        return
    config = EventStoreConfig(dsn=dsn, schema=schema)
    steps = partial(rights.grant, roles=roles, to=to, schema=schema, create=create)
    asyncio.run(in_transaction(config, steps))
    names = ", ".join(role.value for role in roles)
    typer.echo(one_line(f"{config.masked_dsn}, schema {schema}: {to} is {names} now, and nothing else"))


@db.command()
def revoke(
    who: Annotated[str, typer.Option("--from", metavar="NAME", help="Role of the database.")],
    dsn: DsnUnlessSql = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_sql: Sql = False,
) -> None:
    """Take all rights on the schema and its tables from a role of the database."""
    if as_sql:
        _print_script(rights.script([], who, schema))
        return
    config = EventStoreConfig(dsn=dsn, schema=schema)
    asyncio.run(in_transaction(config, partial(rights.revoke, who=who, schema=schema)))
    typer.echo(one_line(f"{config.masked_dsn}, schema {schema}: {who} has no rights any more"))


def _print_script(statements: list[str]) -> None:
    typer.echo("".join(f"{sql};\n" for sql in ["BEGIN", *statements, "COMMIT"]), nl=False)


async def _validate(config: EventStoreConfig) -> None:
    async with PostgresEventStore(config) as store:
        await store.validate()


def _upgrade(connection: sa.Connection, schema: str, to: str) -> tuple[str, str]:
    before = current_revision(connection, schema)
    upgrade_database(connection, schema, to)
    return before, current_revision(connection, schema)


def _downgrade(connection: sa.Connection, schema: str, to: str) -> tuple[str, str]:
    before = current_revision(connection, schema)
    downgrade_database(connection, schema, to)
    return before, current_revision(connection, schema)


def _loss(connection: sa.Connection, schema: str, to: str) -> str | None:
    """What a downgrade destroys, counted; None where there is nothing to take down."""
    if current_revision(connection, schema) in {BASE, head_revision() if to == HEAD else to}:
        return None
    if to != BASE:
        return f"Everything that was made after revision {to} will be destroyed, with its data."
    counts = [
        f"{connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one():,} {table.name}"
        for table in metadata_for(schema).sorted_tables
    ]
    return (
        f"All tables will be destroyed, with everything in them: {', '.join(counts)}. There is no way back."
    )


def _report_move(config: EventStoreConfig, before: str, after: str) -> None:
    moved = f"at revision {after} already" if before == after else f"revision {before} -> {after}"
    typer.echo(f"{config.masked_dsn}, schema {config.schema}: {moved}")
