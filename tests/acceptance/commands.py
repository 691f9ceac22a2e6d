"""The command line as processes of their own."""

import os
import subprocess
import sys
import time

COMMAND = (sys.executable, "-c", "from k1s0_event_store.cli import main; main()")
WITHIN = 60.0
"""Seconds that a busy machine may need for anything."""


def eventually(condition, within=WITHIN):
    """What `condition` gives as soon as it is true."""
    end = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)
    return found


class Process:
    """A command at work in a folder: what it has printed, and in its log what it has said beside."""

    def __init__(self, folder, arguments, environment=None):
        name = time.monotonic_ns()
        self._out, self._log = folder / f"{name}.out", folder / f"{name}.log"
        with self._out.open("w") as out, self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {})},
            )

    @property
    def out(self):
        return self._out.read_text()

    @property
    def log(self):
        return self._log.read_text()

    def says(self, text, times=1):
        """Wait until the log has the text."""
        eventually(lambda: self.log.count(text) >= times or self.is_over)
        assert self.log.count(text) >= times, self.log
        return self

    @property
    def is_over(self):
        return self._process.poll() is not None

    def signal(self, number):
        self._process.send_signal(number)

    def ends(self, within=WITHIN):
        """Wait for its end; the exit code."""
        return self._process.wait(within)

    def kill(self):
        self._process.kill()
        self._process.wait()
