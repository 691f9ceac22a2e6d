"""What an option names as MODULE:NAME, or MODULE:FUNCTION."""

from __future__ import annotations

import sys
from importlib import import_module
from operator import attrgetter
from typing import Any

from k1s0_event_store.exceptions import ConfigurationError


def imported(place: str, option: str, form: str, example: str) -> Any:
    """What stands at a place of that form; modules in the current folder are found too.

    Raises ConfigurationError.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{option} is {form}, like {example}, not {place!r}")
    sys.path.insert(0, "")
    try:
        return attrgetter(name)(import_module(module))
    except Exception as error:
        raise ConfigurationError(
            f"{option} {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
