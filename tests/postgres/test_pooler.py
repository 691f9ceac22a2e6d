"""Behind a pooler in transaction mode: nothing prepared, no state in the session."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    ConcurrencyError,
    EventStoreConfig,
    PostgresEventStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.testing.contract import new_events, outcomes, versions

from ..required import is_required

ORDER = StreamId("order", "o-1")
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None and not is_required("pgbouncer"),
    reason="no pgbouncer on this machine (Debian: apt-get install pgbouncer)",
)


@pytest.fixture
def pooler(event_store_dsn):
    """DSN through a PgBouncer that has two connections to the server."""
    target = urlsplit(event_store_dsn)
    host = dict(parse_qsl(target.query)).get("host") or unquote(target.hostname or "localhost")
    folder = Path(tempfile.mkdtemp(prefix="k1s0-"))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={target.port or 5432} user={target.username or 'postgres'}"
        f"{f' password={target.password}' if target.password else ''}\n"
        "[pgbouncer]\npool_mode = transaction\nauth_type = any\ndefault_pool_size = 2\n"
        f"listen_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    # It refuses to run as root, and has to reach the server's socket.
    owner = Path(host).stat().st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid
    user = ["--user", pwd.getpwuid(owner).pw_name] if os.geteuid() == 0 else []
    for path in (folder, folder / "pgbouncer.ini"):
        path.chmod(0o777)
    process = subprocess.Popen(
        [PGBOUNCER, *user, str(folder / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    dsn = f"postgresql://postgres@/{target.path.lstrip('/')}?host={folder}&port=6432"
    for _ in range(100):
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    yield dsn
    process.terminate()
    process.wait(10)
    shutil.rmtree(folder)


async def test_many_clients_on_two_connections_append_load_and_stream(pooler):
    config = EventStoreConfig(dsn=pooler, transaction_pooler=True, pool_size=10)
    async with PostgresEventStore(config) as store:
        won, refused = await outcomes(store.append(ORDER, new_events(ORDER, 2)) for _ in range(50))
        assert refused == []
        assert sorted(won) == list(range(2, 101, 2))
        streams = [StreamId("order", str(i)) for i in range(30)]
        await asyncio.gather(*(store.append(s, new_events(s, 3), expected_version=0) for s in streams))
        loaded = await asyncio.gather(*(store.load(s) for s in streams))
        assert [versions(events) for events in loaded] == [[1, 2, 3]] * 30
        assert [e.version async for e in store.stream(ORDER)] == list(range(1, 101))
        assert len([e async for e in store.read_all()]) == 190


async def test_conflicts_and_callers_transactions_work(pooler):
    async with PostgresEventStore(EventStoreConfig(dsn=pooler, transaction_pooler=True)) as store:
        async with AsyncSession(store.bind) as session, session.begin():
            await store.within(session).lock(ORDER, wait=1)
            await store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
            with pytest.raises(ConcurrencyError):
                await store.within(session).append(ORDER, new_events(ORDER, 2), expected_version=0)
        assert await store.current_version(ORDER) == 2


def test_the_blocking_store_works(pooler):
    with SyncPostgresEventStore(EventStoreConfig(dsn=pooler, transaction_pooler=True)) as store:
        for n in range(20):  # psycopg would prepare after five
            assert store.append(ORDER, new_events(ORDER, 1), expected_version=n) == n + 1
        assert versions(store.stream(ORDER)) == list(range(1, 21))
