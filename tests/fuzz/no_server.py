"""The drivers as they are where no server is: they read the DSN, and then cannot reach anybody."""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import asyncpg
import psycopg
from asyncpg import connect_utils
from psycopg.conninfo import make_conninfo

NAMES = (
    "host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls",
    "server_settings", "target_session_attrs", "krbsrvname", "gsslib",
)  # fmt: skip


@contextmanager
def no_server():
    """Inside the block nobody is reached."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(asyncpg, "connect", _by_asyncpg))
        stack.enter_context(patch.object(psycopg, "connect", _by_psycopg))
        yield


async def _by_asyncpg(dsn=None, **given):
    connect_utils._parse_connect_dsn_and_args(dsn=dsn, **{name: given.get(name) for name in NAMES})
    raise ConnectionRefusedError("no server")


def _by_psycopg(dsn, **given):
    make_conninfo(dsn, **given)
    raise psycopg.OperationalError("no server")
