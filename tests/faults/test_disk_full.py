"""A full disk, of the tables or of the WAL: typed errors, nothing half; after room was made it goes on."""

import os
import random
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from k1s0_event_store import (
    DatabaseError,
    EventEnvelope,
    EventStoreConfig,
    EventStoreError,
    InMemoryEventStore,
    OutcomeUnknownError,
    StoreUnavailableError,
    StreamId,
)
from k1s0_event_store.testing.contract import events_of, read_pages, versions
from k1s0_event_store.testing.plugin import _fast_folder

from ..required import skip_without
from .interruption import until
from .servers import Server, migrate, server_user
from .test_limits import async_store, blocking_store

DATA, WAL = "tables", "WAL"
SIZE = {DATA: "96m", WAL: "24m"}
SETTINGS = {"max_wal_size": "8MB", "min_wal_size": "2MB", "fsync": "off", "autovacuum": "off"}
STORES = pytest.mark.parametrize("open_store", [async_store, blocking_store])
pytestmark = pytest.mark.xdist_group("small disks")
MOST = 2_000
"""Appends until the disk is full: more would be one that never is."""
ENDS = 10
"""Of the server, after there is room."""


@contextmanager
def small_disk(size):
    """A folder on a file system of its own, of this size."""
    with TemporaryDirectory(prefix="k1s0-") as name:
        folder = Path(name)
        mount = [shutil.which("mount"), "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            skip_without("tmpfs", "a small file system cannot be mounted here")
        try:
            yield folder
        finally:
            subprocess.run([shutil.which("umount"), "--lazy", str(folder)], check=True)


class Disk:
    """A server with its tables or its WAL on a small disk."""

    def __init__(self, folder, server, kind):
        self.server = server
        self.kind = kind
        self._ballast = folder / "ballast"

    def fill(self):
        """Leave half a megabyte."""
        disk = os.statvfs(self._ballast.parent)
        size = disk.f_bavail * disk.f_frsize - (1 << 19)
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, size)

    def make_room(self):
        """It then is up, or is started: a server that cannot write its WAL ends."""
        self._ballast.unlink()

    async def until_up(self, store):
        async def answers():
            if not self.server.is_running:
                self.server.start()
            try:
                await store.current_version(StreamId("order", "o-1"))
            except EventStoreError:
                return False
            return True

        await until(answers, "the server does not come back")


@pytest.fixture(scope="module", params=[DATA, WAL])
def small_disk_server(request):
    with (
        small_disk(SIZE[request.param]) as small,
        TemporaryDirectory(prefix="k1s0-", dir=_fast_folder()) as name,
    ):
        large = Path(name)
        for folder in (small, large):
            folder.chmod(0o711)
        on = {DATA: (small, large), WAL: (large, small)}[request.param]
        server = Server(on[0] / "s", **SETTINGS)
        wal = on[1] / "wal"
        wal.mkdir()
        os.chown(wal, server_user()["user"], server_user()["group"])
        server.make("-X", wal, "--wal-segsize=1")
        server.start()
        try:
            yield Disk(small, server, request.param)
        finally:
            server.stop()


@pytest.fixture
def disk(small_disk_server):
    """With new tables."""
    dsn = small_disk_server.server.dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS eventstore CASCADE")
        connection.execute("CHECKPOINT")
    migrate(dsn)
    return small_disk_server


def batch_of(stream_id, count):
    """Events of two kilobytes that cannot be made smaller."""
    text = random.Random(str(stream_id)).randbytes(1_000 * count).hex()
    return [
        EventEnvelope(stream_id, "Counted", {"text": text[2_000 * n : 2_000 * (n + 1)]}) for n in range(count)
    ]


async def append_until_it_is_full(store, count):
    """Append to one stream after the other; how many were acknowledged, the batch that failed, its error."""
    for number in range(MOST):
        stream_id = StreamId("order", f"o-{number}")
        batch = batch_of(stream_id, count)
        try:
            assert await store.append(stream_id, batch, 0) == count
        except EventStoreError as error:
            return number, batch, error
    raise AssertionError("it is never full")


async def repeated(disk, store, work):
    """The answer of `work` once there is room. A server that lacked it may answer a moment before it ends."""
    for _ in range(ENDS):
        await disk.until_up(store)
        with suppress(StoreUnavailableError, OutcomeUnknownError):
            return await work()
    raise AssertionError("the server ends again and again although there is room")


def says_so(error, disk):
    """The server has told, or has ended: without its WAL it cannot go on."""
    assert error.retryable, error
    if isinstance(error, DatabaseError):
        assert error.sqlstate == "53100"
        assert "make room" in str(error)
    else:
        assert disk.kind == WAL


@STORES
@pytest.mark.parametrize("count", [20, 500])
async def test_what_was_acknowledged_before_the_disk_was_full_is_there_and_nothing_half(
    disk, open_store, count
):
    async with open_store(EventStoreConfig(dsn=disk.server.dsn)) as store:
        disk.fill()
        acknowledged, failed, error = await append_until_it_is_full(store, count)
        says_so(error, disk)
        if disk.kind == DATA:
            assert await store.load(failed[0].stream_id) == []
        disk.make_room()

        async def append_again():
            assert len(await store.load(failed[0].stream_id)) in (0, count)
            return await store.append(failed[0].stream_id, failed, 0)

        assert await repeated(disk, store, append_again) == count
        for number in range(acknowledged + 1):
            stored = await store.load(StreamId("order", f"o-{number}"))
            assert versions(stored) == list(range(1, count + 1))
        assert len([event async for event in store.read_all()]) == (acknowledged + 1) * count


async def copies(streams, count):
    source = InMemoryEventStore()
    for number in range(streams):
        stream_id = StreamId("order", f"i-{number}")
        await source.append(stream_id, batch_of(stream_id, count))
    return events_of(await read_pages(source, limit=1_000))


@STORES
async def test_an_import_that_fills_the_disk_stores_nothing_and_can_be_repeated(disk, open_store):
    batch = await copies(100, 100)
    async with open_store(EventStoreConfig(dsn=disk.server.dsn)) as store:
        disk.fill()
        with pytest.raises(EventStoreError) as failed:
            await store.import_batch(batch)
        says_so(failed.value, disk)
        disk.make_room()

        async def import_again():
            assert [event async for event in store.read_all()] == []
            return await store.import_batch(batch)

        assert await repeated(disk, store, import_again) == len(batch)
        assert await store.import_batch(batch) == 0
