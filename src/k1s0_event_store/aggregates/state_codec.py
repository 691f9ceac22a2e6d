"""From the state of an aggregate to the JSON of its snapshot, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from pydantic import PydanticSchemaGenerationError, PydanticUserError

from k1s0_event_store.events.json_model import JsonModel
from k1s0_event_store.exceptions import ConfigurationError

S = TypeVar("S")

_NOT_STATE: Final = {"recorded"}
_PROSE: Final = {"title", "description"}


@dataclass(frozen=True, slots=True)
class StateCodec(Generic[S]):
    """`fingerprint` changes with the layout of the JSON: a snapshot with another one is not used."""

    fingerprint: str
    dump: Callable[[S], Any]
    restore: Callable[[Any], S]

    def keeps(self, state: S, value: Any) -> bool:
        """True if `value`, which was dumped from `state`, is restored to the same."""
        restored = self.restore(value)
        if type(restored) is not type(state):
            return False
        knows_equals = type(state).__eq__ is not object.__eq__
        return bool(restored == state) if knows_equals else bool(self.dump(restored) == value)


def state_codec(kind: Any, name: str) -> StateCodec[Any]:
    """For classes with `to_snapshot()` and `from_snapshot(value)`, or types that pydantic knows.

    `name` tells aggregates apart that have the same states. Raises ConfigurationError for other classes.
    """
    dump, restore = getattr(kind, "to_snapshot", None), getattr(kind, "from_snapshot", None)
    if dump is not None and restore is not None:
        return StateCodec(_hash([name]), dump, restore)
    model = JsonModel(kind)
    try:
        layout = model.adapter.json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise ConfigurationError(
            f"snapshots of {kind!r} need a dataclass or pydantic model, or the methods to_snapshot() and "
            f"from_snapshot(value): {error}"
        ) from error
    return StateCodec(_hash([name, _layout(layout)]), partial(model.dump, exclude=_NOT_STATE), model.load)


def _layout(schema: Any) -> Any:
    """The JSON schema without what is written for people."""
    if isinstance(schema, dict):
        return {
            key: _layout(part)
            for key, part in schema.items()
            if key not in _PROSE or not isinstance(part, str)
        }
    return [_layout(part) for part in schema] if isinstance(schema, list) else schema


def _hash(layout: Any) -> str:
    return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()[:16]
