"""What a machine may lack: its tests are skipped there, and fail where it is required."""

import os
from typing import NoReturn

import pytest

VARIABLE = "K1S0_EVENT_STORE_REQUIRE"
"""Names of what must be there, with commas between."""


def is_required(what: str) -> bool:
    return what in os.environ.get(VARIABLE, "").split(",")


def skip_without(what: str, reason: str) -> NoReturn:
    """End a test that needs `what`, which is missing for this reason."""
    if is_required(what):
        pytest.fail(f"{reason} ({VARIABLE} says that the {what} must be there)")
    pytest.skip(reason)
