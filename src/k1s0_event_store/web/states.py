"""The state of an aggregate at a version, as JSON, and what the last event changed of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from pydantic_core import to_jsonable_python

from k1s0_event_store.aggregates.repository import DeciderRepository, Repository
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.store import EventStore, Replay

AnyRepository: TypeAlias = Repository[Any] | DeciderRepository[Any, Any]
Repositories: TypeAlias = Iterable[AnyRepository] | Mapping[str, AnyRepository]
Aggregates: TypeAlias = Repositories | Callable[[EventStore], Repositories]

_MOST_CHARACTERS: Final = 100_000
_MOST_PARTS: Final = 5_000
_MOST_CHANGES: Final = 100
_NOT_STATE: Final = ("recorded", "version")


@dataclass(frozen=True, slots=True)
class Changed:
    """One part of the state; None: it was not there, or is not any more."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class StateView:
    """State as indented JSON, with what differs from the version before. Or `problem`: why there is none."""

    version: int
    state: str = ""
    changes: tuple[Changed, ...] = ()
    problem: str = ""
    is_cut: bool = False


class AggregateStates:
    """Repositories by the aggregate type of their streams."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = _by_type(repositories)

    def knows(self, stream_id: StreamId) -> bool:
        """Whether there is a repository for the aggregates of this type."""
        return stream_id.aggregate_type in self._repositories

    async def at(self, stream_id: StreamId, version: int) -> StateView:
        """The state after the event of `version`. What the app's own code raises is told, not raised."""
        repository = self._repositories[stream_id.aggregate_type]
        try:
            after = await _state(repository, stream_id, version)
            before = await _state(repository, stream_id, version - 1) if version > 1 else {}
            text = json.dumps(after, indent=2, ensure_ascii=False)
            changes = tuple(_changes(before, after))
        except Exception as error:
            return StateView(version, problem=f"{type(error).__name__}: {error}"[:2_000])
        return StateView(version, text[:_MOST_CHARACTERS], changes, is_cut=len(text) > _MOST_CHARACTERS)


def _by_type(repositories: Repositories) -> dict[str, AnyRepository]:
    if isinstance(repositories, Mapping):
        return dict(cast("Mapping[str, AnyRepository]", repositories))
    if not isinstance(repositories, Iterable):
        raise ConfigurationError(f"aggregates are a list of repositories, not {repositories!r}")
    found: dict[str, AnyRepository] = {}
    for repository in repositories:
        if not isinstance(repository, Repository | DeciderRepository):
            raise ConfigurationError(f"aggregates are repositories, not {repository!r}")
        name = repository.stream_id("any").aggregate_type
        if name in found:
            raise ConfigurationError(f"two repositories for aggregates of type {name!r}: give one")
        found[name] = repository
    return found


async def _state(repository: AnyRepository, stream_id: StreamId, version: int) -> Any:
    """The state as JSON; the repository's own fields of an aggregate are not part of it."""
    loaded = await repository.load(stream_id.aggregate_id, version=version)
    state = loaded.state if isinstance(loaded, Replay) else loaded
    value = to_jsonable_python(state, fallback=_fields_or_text)
    if isinstance(value, dict) and isinstance(repository, Repository):
        return {name: part for name, part in value.items() if name not in _NOT_STATE}
    return value


def _fields_or_text(value: Any) -> Any:
    try:
        return vars(value)
    except TypeError:
        text = repr(value)
        # An address in memory would look like a change.
        return f"<{type(value).__name__}>" if hex(id(value)) in text else text


def _changes(before: Any, after: Any) -> Iterator[Changed]:
    old, new = dict(_parts(before)), dict(_parts(after))
    paths = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    for path in paths[:_MOST_CHANGES]:
        yield Changed(path, old.get(path), new.get(path))


def _parts(value: Any) -> Iterator[tuple[str, str]]:
    """Each single value inside `value`, with the path to it."""
    todo: list[tuple[str, Any]] = [("", value)]
    for _ in range(_MOST_PARTS):
        if not todo:
            return
        path, part = todo.pop()
        if isinstance(part, dict) and part:
            todo += reversed([(f"{path}.{key}" if path else str(key), inner) for key, inner in part.items()])
        elif isinstance(part, list) and part:
            todo += reversed([(f"{path}[{index}]", inner) for index, inner in enumerate(part)])
        elif path:
            yield path, json.dumps(part, ensure_ascii=False)[:500]
