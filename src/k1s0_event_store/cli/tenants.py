"""`tenants`: give the tables what keeps tenants apart, or take it from them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from k1s0_event_store.cli.options import Dsn, Schema
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.tenants import add_tenants, remove_tenants

tenants = typer.Typer(no_args_is_help=True, help="Keep tenants apart by row-level security.")


@tenants.command()
def add(
    dsn: Dsn,
    schema: Schema = DEFAULT_SCHEMA,
    existing: Annotated[
        str | None, typer.Option("--existing", metavar="TENANT", help="Whose the rows are that are there.")
    ] = None,
) -> None:
    """Give every row a tenant, and let nobody reach the rows of another one.

    All keys are built anew, in one transaction: nobody reads or writes meanwhile.
    From then on every store and command needs a tenant.
    """
    config = EventStoreConfig(dsn=dsn, schema=schema)
    done = asyncio.run(in_transaction(config, partial(add_tenants, schema=schema, existing=existing)))
    report = "the tables keep tenants apart now" if done else "nothing to do: they keep tenants apart already"
    typer.echo(f"{config.masked_dsn}, schema {schema}: {report}")


@tenants.command()
def remove(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Take that from the tables; refused where there are rows of several tenants."""
    config = EventStoreConfig(dsn=dsn, schema=schema)
    done = asyncio.run(in_transaction(config, partial(remove_tenants, schema=schema)))
    report = "the tables know no tenants any more" if done else "nothing to do: they know no tenants"
    typer.echo(f"{config.masked_dsn}, schema {schema}: {report}")
