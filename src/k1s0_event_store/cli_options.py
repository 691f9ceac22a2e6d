"""Options that several commands of the command line share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

DSN_VARIABLE: Final = "K1S0_EVENT_STORE_DSN"
SCHEMA_VARIABLE: Final = "K1S0_EVENT_STORE_SCHEMA"

Dsn = Annotated[str, typer.Option("--dsn", envvar=DSN_VARIABLE, help="URL of the database.")]
Schema = Annotated[str, typer.Option("--schema", envvar=SCHEMA_VARIABLE, help="Schema of the tables.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
