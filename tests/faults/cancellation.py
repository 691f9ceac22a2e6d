"""The long form of test_cancellation: every await of a runner, every kind of store.

python -m tests.faults.cancellation [arguments of pytest]
"""

import os
import sys
from pathlib import Path

VARIABLE = "K1S0_EVENT_STORE_CANCELLATION"


def is_long():
    return os.environ.get(VARIABLE) == "long"


def main():
    import pytest

    os.environ[VARIABLE] = "long"
    return pytest.main([str(Path(__file__).with_name("test_cancellation.py")), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
