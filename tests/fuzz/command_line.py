"""The command line as a target: every command with any arguments, up to where it would reach out."""

import asyncio
import tempfile
from contextlib import chdir
from unittest.mock import patch

from typer.testing import CliRunner

from k1s0_event_store import StoreUnavailableError
from k1s0_event_store.cli import app

from .no_server import no_server

COMMANDS = (
    "streams", "show", "tail", "append", "export", "import", "verify", "doctor", "stats", "relay", "ui",
    "demo", "parked", "subscriptions", "db", "", "chain",
)  # fmt: skip
CODES = {0, 1, 2, 3}
SERVING = {"_serve", "relay.<locals>.run"}
"""Coroutines that listen on addresses; they are not run."""

_runner = CliRunner()
_run = asyncio.run


def command_line(data):
    """The first byte names the command, NULs stand between its arguments."""
    number, rest = data[:1], data[1:].decode(errors="surrogateescape")
    command = COMMANDS[number[0] % len(COMMANDS)] if number else ""
    arguments = [part for part in (command, *rest.split("\x00")) if part]
    environment = dict.fromkeys(("K1S0_EVENT_STORE_DSN", "K1S0_EVENT_STORE_SCHEMA"))
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        patch.object(asyncio, "run", _run_unless_serving),
        no_server(),
        patch("k1s0_event_store.cli.demo.prepare", _nothing_there),
        patch("k1s0_event_store.cli.imports.import_module", _nothing_there),
    ):
        result = _runner.invoke(app, arguments, env={**environment, "COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in CODES, result.output


def _run_unless_serving(coroutine):
    if coroutine.__qualname__ in SERVING:
        coroutine.close()
        raise StoreUnavailableError("nothing is served here")
    return _run(coroutine)


def _nothing_there(*_given):
    raise StoreUnavailableError("nothing is there")
