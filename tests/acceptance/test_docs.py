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
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import types
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

import k1s0_event_store
from k1s0_event_store import EventEnvelope, EventStoreError, PermissionDeniedError, StreamId
from k1s0_event_store.limits import LIMITS
from k1s0_event_store.postgres import rights
from k1s0_event_store.postgres.schema import BASE, HEAD, current_revision, head_revision
from k1s0_event_store.postgres.store import SyncPostgresEventStore
from k1s0_event_store.testing.plugin import cloned_database

ROOT = Path(__file__).parents[2]
FIGURES = {
    "README.md": ("benchmark",),
    "docs/performance.md": (
        "large", "growth", "layout", "feed-benchmark", "relay-benchmark", "aggregates-benchmark",
    ),
}  # fmt: skip
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|ini))\n")
PRINTED = re.compile(r"^ *print\(.*?\)(?:  # (.*))?$", re.MULTILINE)
DSN = re.compile(r"postgresql(\+\w+)?://user:pass@localhost/k1s0")
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")
ROLES = ("app_writer", "app_reader")
TUTORIAL = ROOT / "docs/tutorial.md"
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
    return [line for text in runnable for line in promised_by(text)]


def promised_by(text):
    return [found[1] for found in PRINTED.finditer(text)]


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


WITH_OTHER_TABLES = {"migrations.md", "tenants.md"}


@pytest.mark.parametrize("page", [p for p in having("python") if p.name not in WITH_OTHER_TABLES], ids=name)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, event_store_dsn, monkeypatch):
    assert run_page(page, event_store_dsn, monkeypatch) == promised(page)


def test_the_page_on_tenants_works_for_a_role_that_owns_nothing(tenants_dsn, monkeypatch):
    page = ROOT / "docs/tenants.md"
    assert run_page(page, tenants_dsn, monkeypatch) == promised(page)


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


def test_the_documented_rights_are_those_that_are_granted():
    documented = [b.text for b in blocks(ROOT / "docs/migrations.md") if b.language == "sql"]
    wanted = [rights.script(["writer"], "app_writer"), rights.script(["reader"], "app_reader")]
    assert documented == ["".join(f"{sql};\n" for sql in statements) for statements in wanted]


def test_the_table_of_roles_has_each_with_its_rights():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", read(ROOT / "docs/security.md"), re.MULTILINE))
    documented = {
        role: {
            (table, right)
            for granted, tables in re.findall(r"([A-Z][^`]*) on ((?:`\w+`(?:, )?)+)", rows[role.value])
            for table in re.findall(r"\w+", tables)
            for right in re.findall(r"[A-Z]+(?: \([\w, ]+\))?", granted)
        }
        for role in rights.RIGHTS
    }
    assert documented == {
        role: {(table, right) for table, granted in tables.items() for right in granted}
        for role, tables in rights.RIGHTS.items()
    }
    assert {role.value for role in rights.Role} <= rows.keys()


def test_the_table_of_limits_has_each_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", read(ROOT / "docs/security.md"), re.MULTILINE)
    limits = {name: int(most.replace(",", "")) for name, most in rows}
    assert limits == {name: getattr(k1s0_event_store.Limits(), name) for name in LIMITS}


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


class Reader:
    """Somebody who types what a page says, in a folder, with nothing but what is installed."""

    def __init__(self, folder, terminals, dsn=""):
        self.folder, self.terminals, self.dsn = folder, terminals, dsn

    def environment(self):
        own = {name: value for name, value in os.environ.items() if not name.startswith("K1S0_EVENT_STORE_")}
        path = f"{Path(sys.executable).parent}:{own['PATH']}"
        return {**own, "PATH": path, "K1S0_EVENT_STORE_DSN": self.dsn}

    def type(self, line):
        match shlex.split(line):
            case ["export", setting]:
                assert setting == "K1S0_EVENT_STORE_DSN=postgresql://user:pass@localhost/k1s0"
            case ["make", target]:
                assert f"\n{target}: " in read(ROOT / "Makefile")
            case ["pip", "install", requirement]:
                assert requirement in requirements()
            case ["python", "server.py"]:
                self.dsn = self.leave_running("server.py", stop=b"\n").stdout.readline().decode().strip()
            case ["python", "projector.py"]:
                self.leave_running("projector.py", stop=signal.SIGINT)
                self.wait_for_a_subscription()
            case ["python", file]:
                assert self.run(line).splitlines() == promised_by(read(self.folder / file))
            case ["alembic", *_]:
                self.run(line, ROOT)
            case _:
                self.run(line)

    def run(self, line, folder=None):
        """What the command prints; it has to succeed."""
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=folder or self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def leave_running(self, file, stop):
        return self.terminals.enter_context(self.running(file, stop))

    @contextmanager
    def running(self, file, stop):
        """A program in a terminal of its own; a line or a signal stops it at the end."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(
            [sys.executable, file], cwd=self.folder, env=self.environment(), **pipes
        ) as process:
            try:
                yield process
            finally:
                self.stop(process, stop)
        assert process.returncode == 0

    def stop(self, process, stop):
        try:
            if isinstance(stop, signal.Signals):
                process.send_signal(stop)
            process.communicate(stop if isinstance(stop, bytes) else None, timeout=60)
        finally:
            process.kill()

    def wait_for_a_subscription(self):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for _ in range(600):
                if connection.execute("SELECT FROM eventstore.subscription_workers").fetchone() is not None:
                    return
                time.sleep(0.1)
        raise TimeoutError("no subscription has begun")


@pytest.fixture
def new_folder():
    """None of pytest's: PostgreSQL does not run as root, and pytest keeps other users out of its folders."""
    with tempfile.TemporaryDirectory(prefix="k1s0-tutorial-") as folder:
        yield Path(folder)


def test_the_tutorial_goes_from_nothing_to_a_projection(new_folder):
    with ExitStack() as terminals:
        reader = Reader(new_folder, terminals)
        for block in blocks(TUTORIAL):
            if block.file is not None:
                (new_folder / block.file).write_text(block.text, encoding="utf-8")
            else:
                assert block.language == "sh"
                for line in block.text.splitlines():
                    reader.type(line)


def command_pages():
    """Pages with commands; the tutorial and the page on the command line have tests of their own."""
    return [page for page in having("sh") if page.name not in {"tutorial.md", "cli.md"}]


@pytest.mark.parametrize("page", command_pages(), ids=name)
def test_the_commands_of_a_page_work_one_after_the_other(page, empty_dsn, event_store_dsn, tmp_path):
    lines = "".join(b.text for b in blocks(page) if b.language == "sh").splitlines()
    begins_empty = any("upgrade" in line for line in lines)
    with ExitStack() as terminals:
        reader = Reader(tmp_path, terminals, empty_dsn if begins_empty else event_store_dsn)
        for line in lines:
            reader.type(line)


def requirements():
    """What `pip install` may be given: the project, alone or with one of its extras."""
    known = project()
    return {known["name"], *(f"{known['name']}[{extra}]" for extra in known["optional-dependencies"])}


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
    assert files == {"docs/migrations.md", "docs/testing.md", "docs/tutorial.md"}
    assert {name(page) for page in having("sql")} == {"docs/migrations.md", "docs/move.md"}
    assert {name(page) for page in having("")} == {"ARCHITECTURE.md"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_inside_the_project_leads_somewhere(page):
    for path, anchor in LINK.findall(read(page)):
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if target.suffix in (".png", ".svg"):
            assert anchor in ("", "gh-light-mode-only", "gh-dark-mode-only")
        else:
            assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_sample_of_the_readme_has_at_most_15_lines():
    (sample,) = [b for b in blocks(ROOT / "README.md") if b.language == "python"]
    assert sum(bool(line.strip()) for line in sample.text.splitlines()) <= 15


def test_the_readme_names_every_extra():
    text = read(ROOT / "README.md")
    for extra in project()["optional-dependencies"]:
        assert f"`{extra}`" in text


@pytest.mark.parametrize("page", FIGURES)
def test_a_page_has_one_place_for_each_table_that_a_command_writes(page):
    figures = [f"<!-- {name}:{end} -->" for name in FIGURES[page] for end in ("begin", "end")]
    assert re.findall("<!-- .* -->", read(ROOT / page)) == figures


def test_the_page_on_architecture_is_short_and_its_files_exist():
    text = read(ROOT / "ARCHITECTURE.md")
    assert text.count("\n") <= 120
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", text))
    assert len(named) > 20
    roots = (ROOT, ROOT / "src/k1s0_event_store", ROOT / "src/k1s0_event_store/postgres")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_every_room_of_the_package_is_in_the_drawings():
    drawings = "".join(b.text for b in blocks(ROOT / "ARCHITECTURE.md"))
    for room in ("", "postgres", "events", "aggregates", "relay", "brokers", "transfer"):
        for path in (ROOT / "src/k1s0_event_store" / room).iterdir():
            if path.suffix == ".py" and path.name != "__init__.py":
                assert path.name in drawings


def named_tests(page):
    return set(re.findall(r"`(test_\w+|Test\w+)`", read(page)))


def test_every_test_that_a_page_names_exists():
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/k1s0_event_store/testing/*contract.py")]
    defined = set(re.findall(r"(?:def|class) (\w+)\(", "".join(read(path) for path in sources)))
    for page in ROOT.glob("docs/*.md"):
        assert named_tests(page) - defined == set(), page
    assert len(named_tests(ROOT / "docs/guarantees.md")) > 150


def test_what_is_promised_under_faults_is_among_the_guarantees():
    promised = named_tests(ROOT / "docs/faults.md")
    assert promised
    assert promised - named_tests(ROOT / "docs/guarantees.md") == set()


def test_every_row_of_the_guarantees_names_a_test():
    rows = re.findall(r"^\| (?!-|guarantee|promise).*$", read(ROOT / "docs/guarantees.md"), re.MULTILINE)
    assert len(rows) > 100
    assert [row for row in rows if not re.search(r"`[Tt]est_?\w+`", row)] == []


def test_the_table_of_errors_has_all_of_them_and_says_which_may_be_retried():
    rows = re.findall(r"^\| `(\w+Error)`.*\| (yes)? ?\|$", read(ROOT / "docs/embed.md"), re.MULTILINE)
    exported = (getattr(k1s0_event_store, n) for n in k1s0_event_store.__all__ if n.endswith("Error"))
    errors = {e.__name__: e.retryable for e in exported if e is not EventStoreError}
    assert {error: bool(retryable) for error, retryable in rows} == errors
