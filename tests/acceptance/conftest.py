"""What the tests of the command line share."""

import pytest
from typer.testing import CliRunner

from k1s0_event_store.cli import app


@pytest.fixture
def invoke(monkeypatch):
    """Run the command line 80 columns wide, without the DSN of this machine's environment."""
    for name in ("K1S0_EVENT_STORE_DSN", "K1S0_EVENT_STORE_SCHEMA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    runner = CliRunner()
    return lambda *arguments, **more: runner.invoke(app, list(map(str, arguments)), **more)
