"""Tests of which every run takes only a part, and the command for all of them.

    python -m tests.long_form cancellation [arguments of pytest]

A class or a test with parameters that is marked `one_in(5)` has every fifth of its tests in the short form.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

FORMS = {
    "cancellation": "faults/test_cancellation.py",
    "chain": "contract/test_chained_tables.py",
    "contract": "contract",
    "pgbouncer": "faults/test_pgbouncer.py",
    "relay": "brokers/test_relay_faults.py",
    "telemetry": "telemetry/test_contract.py",
    "tenants": "contract/test_tenants.py",
    "traps": "postgres/test_search_path.py",
}
VARIABLE = "K1S0_EVENT_STORE_LONG_FORM"


def is_long():
    return os.environ.get(VARIABLE) == "true"


def one_in(step):
    """Mark a class, or a test with parameters: of every so many one is enough, but for the long form."""
    return pytest.mark.one_in(step)


def left_out(items):
    """Those of `items` that only the long form has. The choice is the same on every worker and machine."""
    if is_long():
        return []
    met = Counter()
    chosen = []
    for item in items:
        if mark := item.get_closest_marker("one_in"):
            # Of a class, or of one test with parameters.
            of = (item.parent.nodeid, None if item.cls else item.originalname)
            met[of] += 1
            if (met[of] - 1) % mark.args[0]:
                chosen.append(item)
    return chosen


def main():
    if sys.argv[1:2] == [] or sys.argv[1] not in FORMS:
        sys.exit(f"{__doc__}\nThere are {', '.join(FORMS)}.")
    os.environ[VARIABLE] = "true"
    return pytest.main([str(Path(__file__).parent / FORMS[sys.argv[1]]), *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
