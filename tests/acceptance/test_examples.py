"""The example apps: their own tests pass, as whoever copies them would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from k1s0_event_store.testing.plugin import cloned_database

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments, **environment):
    """Run a module of Python in the folder of the examples; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_orders_pass(event_store_server):
    said = run(
        "pytest", "-q", "-p", "no:cacheprovider", "orders", K1S0_EVENT_STORE_TEST_DSN=event_store_server
    )
    assert re.search(r"^\d\d passed in", said, re.MULTILINE)


def test_the_orders_migrate_an_empty_database_and_may_do_it_again(event_store_server):
    with cloned_database(event_store_server, "template0") as dsn:
        for _ in range(2):
            run("orders.migrate", DATABASE_URL=dsn.replace("postgresql://", "postgresql+asyncpg://", 1))


def test_every_file_of_an_example_fits_on_two_pages_and_says_what_it_is_for():
    for path in EXAMPLES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""'), path
        assert text.count("\n") <= 120, path


def test_the_links_of_the_readme_lead_to_every_file_of_the_example():
    folder = EXAMPLES / "orders"
    linked = set(re.findall(r"\]\((.*?)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in folder.glob("*.py")} - {"__init__.py"} | {"tests"}
