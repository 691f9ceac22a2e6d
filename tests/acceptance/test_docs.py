"""The documents: their code runs as it stands and prints what it says, their links lead somewhere."""

import ast
import asyncio
import gc
import inspect
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

import k1s0_event_store
from k1s0_event_store import EventEnvelope, EventStoreError, PermissionDeniedError, StreamId
from k1s0_event_store.postgres.schema import BASE, HEAD, current_revision, head_revision
from k1s0_event_store.postgres.store import SyncPostgresEventStore
from k1s0_event_store.testing.plugin import cloned_database

ROOT = Path(__file__).parents[2]
BENCHMARKS = ("benchmark", "feed-benchmark", "relay-benchmark", "aggregates-benchmark")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|ini))\n")
PRINTED = re.compile(r"^ *print\(.*?\)(?:  # (.*))?$", re.MULTILINE)
DSN = re.compile(r"postgresql(\+\w+)?://user:pass@localhost/k1s0")
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")
ROLES = ("app_writer", "app_reader")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Block:
    """A block of code, where it stands, and the file that its first line says it is (None: it just runs)."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self):
        found = FILE.match(self.text)
        return found[1] if found else None

    def run(self, dsn, namespace):
        """What compiling and executing gives: a coroutine where the block awaits at its top."""
        code = compile(
            "\n" * self.line + with_dsn(self.text, dsn),
            str(self.page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        return eval(code, namespace)  # noqa: S307 - our own documents


def read(path):
    return path.read_text(encoding="utf-8")


def blocks(page):
    text = read(page)
    return [Block(page, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in BLOCK.finditer(text)]


def with_dsn(text, dsn):
    """`text` with the documents' DSN, in whatever form, replaced by that of a real database."""
    rest = dsn.partition("://")[2]
    return DSN.sub(lambda found: f"postgresql{found[1] or ''}://{rest}", text)


def name(page):
    return str(page.relative_to(ROOT))


def having(language, *, files=False):
    return [
        page for page in PAGES if any(b.language == language and bool(b.file) is files for b in blocks(page))
    ]


def run_page(page, dsn, monkeypatch, roles=None):
    """Run the page's Python and SQL in order, in one namespace; what was printed, line by line."""
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, "a_page", module)
    printed = io.StringIO()
    with asyncio.Runner() as runner, redirect_stdout(printed):
        for block in blocks(page):
            if block.language == "sql":
                with psycopg.connect(dsn) as connection:
                    connection.execute(with_roles(block.text, roles).encode())
            elif block.language == "python" and block.file is None:
                result = block.run(dsn, vars(module))
                if inspect.iscoroutine(result):
                    runner.run(result)
    vars(module).clear()
    gc.collect()  # what the page left open is a warning, and an error, of this test
    return printed.getvalue().splitlines()


def with_roles(sql, roles):
    for documented, real in (roles or {}).items():
        sql = sql.replace(documented, real)
    return sql


def promised(page):
    """What the page says is printed; each print has to say it."""
    runnable = (b.text for b in blocks(page) if b.language == "python" and b.file is None)
    return [found[1] for text in runnable for found in PRINTED.finditer(text)]


def write_files(page, dsn, folder):
    """The page's blocks that are files, written to `folder`."""
    for block in blocks(page):
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(with_dsn(block.text, dsn), encoding="utf-8")


@pytest.fixture
def empty_dsn(event_store_server):
    """DSN of a database without our tables."""
    with cloned_database(event_store_server, "template0") as dsn:
        yield dsn


@pytest.fixture
def roles(empty_dsn):
    """The documents' roles under names that this server does not have yet."""
    real = {role: f"k1s0_{role}_{os.getpid()}_{next(_numbers)}" for role in ROLES}
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        for role in real.values():
            connection.execute(f"CREATE ROLE {role}".encode())
        yield real
        for role in real.values():
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("page", [p for p in having("python") if p.name != "migrations.md"], ids=name)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, event_store_dsn, monkeypatch):
    assert run_page(page, event_store_dsn, monkeypatch) == promised(page)


def test_the_page_on_migrations_begins_with_an_empty_database_and_ends_with_the_rights(
    empty_dsn, roles, monkeypatch
):
    page = ROOT / "docs/migrations.md"
    assert run_page(page, empty_dsn, monkeypatch, roles) == promised(page)
    order = StreamId("order", "1")
    engine = create_engine(with_dsn("postgresql+psycopg://user:pass@localhost/k1s0", empty_dsn))
    store = SyncPostgresEventStore(bind=engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {roles['app_writer']}")
        assert store.within(connection).append(order, [EventEnvelope(order, "OrderPlaced", {})], 0) == 1
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {roles['app_reader']}")
        assert len(store.within(connection).load(order)) == 1
        with pytest.raises(PermissionDeniedError):
            store.within(connection).append(order, [EventEnvelope(order, "OrderPaid", {})], 1)
    engine.dispose()


def test_the_documented_rights_are_those_that_the_tests_of_rights_try():
    tried = read(ROOT / "tests/migrations/test_rights.py")
    grants = "".join(b.text for b in blocks(ROOT / "docs/migrations.md") if b.language == "sql").splitlines()
    assert len(grants) == 15
    for grant in grants:
        assert re.sub("|".join(ROLES), "{role}", grant) in tried


def test_the_apps_alembic_files_upgrade_check_and_downgrade(empty_dsn, tmp_path):
    write_files(ROOT / "docs/migrations.md", empty_dsn, tmp_path)
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "alembic").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = create_engine(with_dsn("postgresql+psycopg://user:pass@localhost/k1s0", empty_dsn))
    command.upgrade(config, HEAD)
    command.check(config)  # autogenerate finds nothing to change
    with engine.connect() as connection:
        assert current_revision(connection) == head_revision()
    command.downgrade(config, BASE)
    with engine.connect() as connection:
        assert current_revision(connection) == BASE
    engine.dispose()


def test_the_test_files_of_the_page_on_testing_pass(event_store_server, tmp_path):
    write_files(ROOT / "docs/testing.md", event_store_server, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "K1S0_EVENT_STORE_TEST_DSN": event_store_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def shell_lines():
    shell = [b for page in PAGES for b in blocks(page) if b.language == "sh"]
    return [pytest.param(line, id=f"{name(b.page)}: {line}") for b in shell for line in b.text.splitlines()]


@pytest.mark.parametrize("line", shell_lines())
def test_a_documented_command_exists_and_works(line, event_store_dsn, empty_dsn, invoke, monkeypatch):
    program, *arguments = shlex.split(line)
    if program == "export":
        assert arguments == ["K1S0_EVENT_STORE_DSN=postgresql://user:pass@localhost/k1s0"]
    elif program == "make":
        assert f"\n{arguments[0]}: " in read(ROOT / "Makefile")
    elif program == "pip":
        assert arguments == ["install", project()["name"]]
    elif program == "alembic":
        monkeypatch.setenv("K1S0_EVENT_STORE_DSN", empty_dsn)
        subprocess.run(
            [sys.executable, "-m", "alembic", *arguments], cwd=ROOT, capture_output=True, check=True
        )
    else:
        assert program == "k1s0-event-store"
        dsn = empty_dsn if "upgrade" in arguments else event_store_dsn
        monkeypatch.setenv("K1S0_EVENT_STORE_DSN", dsn)
        assert invoke(*arguments).exit_code == 0


def project():
    return tomllib.loads(read(ROOT / "pyproject.toml"))["project"]


def test_every_block_of_code_is_of_a_kind_that_is_run_here():
    kinds = {(b.language, Path(b.file).suffix if b.file else None) for page in PAGES for b in blocks(page)}
    assert kinds == {
        ("python", None),
        ("python", ".py"),
        ("ini", ".ini"),
        ("sql", None),
        ("sh", None),
        ("", None),  # the drawings of ARCHITECTURE.md
    }
    files = {name(page) for page in [*having("python", files=True), *having("ini", files=True)]}
    assert files == {"docs/migrations.md", "docs/testing.md"}
    assert {name(page) for page in having("sql")} == {"docs/migrations.md"}
    assert {name(page) for page in having("")} == {"ARCHITECTURE.md"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_inside_the_project_leads_somewhere(page):
    for path, anchor in LINK.findall(read(page)):
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_sample_of_the_readme_has_at_most_15_lines():
    (sample,) = [b for b in blocks(ROOT / "README.md") if b.language == "python"]
    assert sum(bool(line.strip()) for line in sample.text.splitlines()) <= 15


def test_the_readme_names_every_extra_and_has_one_place_for_the_figures():
    text = read(ROOT / "README.md")
    for extra in project()["optional-dependencies"]:
        assert f"`{extra}`" in text
    figures = [f"<!-- {name}:{end} -->" for name in BENCHMARKS for end in ("begin", "end")]
    assert re.findall("<!-- .* -->", text) == figures


def test_the_page_on_architecture_is_short_and_its_files_exist():
    text = read(ROOT / "ARCHITECTURE.md")
    assert text.count("\n") <= 120
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", text))
    assert len(named) > 20
    roots = (ROOT, ROOT / "src/k1s0_event_store", ROOT / "src/k1s0_event_store/postgres")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_every_room_of_the_package_is_in_the_drawings():
    drawings = "".join(b.text for b in blocks(ROOT / "ARCHITECTURE.md"))
    for room in ("", "postgres", "events", "aggregates", "relay"):
        for path in (ROOT / "src/k1s0_event_store" / room).iterdir():
            if path.suffix == ".py" and path.name != "__init__.py":
                assert path.name in drawings


def test_every_test_that_a_guarantee_names_exists():
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/k1s0_event_store/testing/*contract.py")]
    defined = set(re.findall(r"def (test_\w+)\(", "".join(read(path) for path in sources)))
    named = set(re.findall(r"`(test_\w+)`", read(ROOT / "docs/guarantees.md")))
    assert len(named) > 30
    assert named - defined == set()


def test_the_table_of_errors_has_all_of_them_and_says_which_may_be_retried():
    rows = re.findall(r"^\| `(\w+Error)`.*\| (yes)? ?\|$", read(ROOT / "docs/embed.md"), re.MULTILINE)
    exported = (getattr(k1s0_event_store, n) for n in k1s0_event_store.__all__ if n.endswith("Error"))
    errors = {e.__name__: e.retryable for e in exported if e is not EventStoreError}
    assert {error: bool(retryable) for error, retryable in rows} == errors
