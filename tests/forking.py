"""Processes to be killed: a program is loaded once, and forks one for each line of its stdin.

The program calls `serve`, the test talks to it through `Forks`. A line is what the process is to do, as JSON;
the answers are its process id, "asleep" when it was stopped, and last its exit code.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITHIN = 120
"""Seconds that something may take to be said."""


def serve(run):
    """In the program: fork a process for each line, which does `run(**what)`."""
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            os._exit(_exit_code(run, json.loads(line)))
        print(process, flush=True)
        for said in _ends_of(process):
            print(said, flush=True)


def _exit_code(run, what):
    try:
        run(**what)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _ends_of(process):
    while True:
        _, status = os.waitpid(process, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            yield "asleep"
        else:
            yield os.waitstatus_to_exitcode(status)
            return


class Forks:
    """Processes of the program in `module`, one at a time."""

    def __init__(self, module, stderr=None):
        self._program = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self._said = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self):
        for line in self._program.stdout:
            self._said.put(line.strip())

    def begin(self, **what):
        """Its process id."""
        self._program.stdin.write(f"{json.dumps(what)}\n")
        self._program.stdin.flush()
        return int(self.says())

    def says(self):
        """The next thing that is said of the process; waits for it."""
        try:
            return self._said.get(timeout=WITHIN)
        except queue.Empty:
            raise AssertionError(f"nothing is said of the process within {WITHIN} s") from None

    def end(self):
        """Kill the process, and the program."""
        with suppress(ProcessLookupError):
            os.killpg(self._program.pid, signal.SIGKILL)
        self._program.wait()
        self._listener.join()
        self._program.stdin.close()
        self._program.stdout.close()
