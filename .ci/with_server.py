"""Run a command with a PostgreSQL server of its own: with_server.py FOLDER COMMAND ...

The command finds the server's DSN in K1S0_EVENT_STORE_DSN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from k1s0_event_store.sandbox import running_server


def main(folder: str, *command: str) -> int:
    """Exit status of the command."""
    with running_server(Path(folder)) as dsn:
        environment = {**os.environ, "K1S0_EVENT_STORE_DSN": dsn}
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - CI's own command


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
