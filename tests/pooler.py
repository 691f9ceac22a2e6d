"""A PgBouncer in transaction mode."""

import os
import pwd
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg

from .required import skip_without

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
READY_WITHIN = 60


@contextmanager
def running_pooler(server, **settings):
    """The folder of the socket of a PgBouncer before all databases of a server; `settings` of its own."""
    if PGBOUNCER is None:
        skip_without("pgbouncer", "no pgbouncer on this machine (Debian: apt-get install pgbouncer)")
    with TemporaryDirectory(prefix="k1s0-") as name:
        folder = Path(name)
        user = _write_settings(server, folder, settings)
        process = subprocess.Popen(
            [PGBOUNCER, *user, str(folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_ready(process, pooled_dsn(folder, server))
            yield folder
        finally:
            process.terminate()
            process.wait(READY_WITHIN)


def pooled_dsn(folder, dsn):
    """The way through the pooler to the database of `dsn`."""
    return f"postgresql://postgres@/{urlsplit(dsn).path.lstrip('/')}?host={folder}&port=6432"


def _write_settings(server, folder, settings):
    """Write the file; the arguments that say who runs it. It refuses root, and must reach the socket."""
    target = urlsplit(server)
    host = dict(parse_qsl(target.query)).get("host") or unquote(target.hostname or "localhost")
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={target.port or 5432} user={target.username or 'postgres'}"
        f"{f' password={target.password}' if target.password else ''}\n"
        "[pgbouncer]\npool_mode = transaction\nauth_type = any\nmax_client_conn = 1000\n"
        f"listen_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
        "ignore_startup_parameters = extra_float_digits\n"
        + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    for path in (folder, folder / "pgbouncer.ini"):
        path.chmod(0o777)
    owner = Path(host).stat().st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid
    return ["--user", pwd.getpwuid(owner).pw_name] if os.geteuid() == 0 else []


def _wait_until_ready(process, dsn):
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            assert process.poll() is None, "pgbouncer has ended"
            assert time.monotonic() < deadline, "pgbouncer does not answer"
            time.sleep(0.02)
        else:
            return
