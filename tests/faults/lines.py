"""Files of lines that outlive a SIGKILL of their writer: when `write` returns, the kernel has the line."""

import json
import os


class Lines:
    """Appends values to a file, each as a line of JSON."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *values):
        os.write(self._file, f"{json.dumps(values)}\n".encode())

    def close(self):
        os.close(self._file)


def read_lines(path):
    """The values of each line. One without an end was being written when its writer was killed."""
    *whole, _torn = path.read_text().split("\n")
    return [json.loads(line) for line in whole]
