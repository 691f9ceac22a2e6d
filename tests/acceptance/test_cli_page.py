"""The page on the command line: its commands work as they stand, one after the other."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from k1s0_event_store.cli import app
from k1s0_event_store.testing.plugin import cloned_database

PAGE = Path(__file__).parents[2] / "docs/cli.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
EXPORT = "export K1S0_EVENT_STORE_DSN=postgresql://user:pass@localhost/k1s0"


@pytest.fixture
def empty_dsn(event_store_server):
    """DSN of a database without our tables."""
    with cloned_database(event_store_server, "template0") as dsn:
        yield dsn


@pytest.fixture
def type_in(invoke, empty_dsn, tmp_path, monkeypatch):
    """Do what a line says, with a shell where one is needed; what was printed."""
    monkeypatch.chdir(tmp_path)
    environment = {
        **os.environ,
        "K1S0_EVENT_STORE_DSN": empty_dsn,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def one(line):
        program, *arguments = shlex.split(line)
        if program == "k1s0-event-store":
            done = invoke(*arguments, env={"K1S0_EVENT_STORE_DSN": empty_dsn})
            assert done.exit_code == 0, done.output
            return done.stdout
        return subprocess.run(
            ["/bin/sh", "-c", line], env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    return one


def test_every_command_of_the_page_works_after_those_before_it(type_in):
    first, *lines = "".join(BLOCKS).splitlines()
    assert first == EXPORT
    printed = "".join(map(type_in, lines))
    assert "order-o-1 is at version 2\n" in printed
    assert "version 2  OrderPaid\n" in printed


def test_the_page_has_every_command():
    commands = typer.main.get_command(app).commands
    named = set(re.findall(r"`(?:k1s0-event-store )?(\w+)", TEXT)) | set(re.findall(r"store (\w+)", TEXT))
    assert commands.keys() - named == set()
