"""The command line `k1s0-event-store`: all its commands, and what becomes of their errors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from k1s0_event_store.cli.append import append
from k1s0_event_store.cli.chain import chain
from k1s0_event_store.cli.checks import doctor, verify
from k1s0_event_store.cli.database import db
from k1s0_event_store.cli.demo import demo
from k1s0_event_store.cli.failures import EXIT_CODES, ReportingGroup
from k1s0_event_store.cli.options import TENANT_VARIABLE, chosen_tenant
from k1s0_event_store.cli.relay import relay
from k1s0_event_store.cli.show import show
from k1s0_event_store.cli.stats import stats
from k1s0_event_store.cli.streams import streams
from k1s0_event_store.cli.subscriptions import parked, subscriptions
from k1s0_event_store.cli.tail import tail
from k1s0_event_store.cli.tenants import tenants
from k1s0_event_store.cli.transfer import export, import_
from k1s0_event_store.cli.ui import ui

app = typer.Typer(
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An event store inside your own PostgreSQL database.",
    epilog=EXIT_CODES,
)
app.command()(demo)
app.add_typer(db, name="db")
app.command()(streams)
app.command()(show)
app.command()(tail)
app.command()(append)
app.command()(export)
app.command("import")(import_)
app.command()(verify)
app.command()(doctor)
app.add_typer(chain, name="chain")
app.command()(stats)
app.command()(relay)
app.command()(ui)
app.command()(parked)
app.add_typer(subscriptions, name="subscriptions")
app.add_typer(tenants, name="tenants")


def main() -> None:
    """Entry point of the command `k1s0-event-store`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"k1s0-event-store {version('k1s0-event-store')}")
        raise typer.Exit


@app.callback()
def _options(
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar=TENANT_VARIABLE, help="Whose rows, in tables that keep tenants apart."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and stop."),
    ] = False,
) -> None:
    """Options of every command."""
    chosen_tenant.set(tenant)
