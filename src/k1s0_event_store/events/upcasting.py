"""Upcasters: old payloads become what today's models expect, one version at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from inspect import iscoroutinefunction, isgeneratorfunction
from typing import Any

from k1s0_event_store.exceptions import RegistryError

Upcaster = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class As:
    """What an upcaster returns for a part of an old event that is an event of another type now.

    `version` is the version of that type's payload that `payload` has; its own upcasters go on from there.
    """

    event_type: str
    payload: Any
    version: int = 1


@dataclass(frozen=True, slots=True)
class Lifted:
    """A payload at the end of its chain of upcasters."""

    event_type: str
    version: int
    payload: Any


@dataclass(frozen=True, slots=True)
class _Step:
    call: Upcaster
    into: frozenset[str]
    """Other types that parts may become."""
    is_end: bool
    """True if it was said what becomes of the event: nothing of it needs to stay of its type."""


class UpcastError(Exception):
    """An upcaster raised an error (the cause), or gave what it did not declare."""


class Upcasters:
    """All upcasters of a registry, by event type and the version they begin at."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], _Step] = {}

    def add(self, name: str, version: int, call: Upcaster, into: frozenset[str] | None) -> None:
        """Add one; raises RegistryError if there is one already."""
        if (name, version) in self._steps:
            raise RegistryError(f"{name!r} has two upcasters from version {version}; keep one")
        if iscoroutinefunction(call) or isgeneratorfunction(call):
            raise RegistryError(f"the upcaster of {name!r} from version {version} must be a plain function")
        self._steps[name, version] = _Step(call, into or frozenset(), into is not None)

    def names_into(self, name: str) -> set[str]:
        """The types whose old events may become events of `name`."""
        found: set[str] = set()
        todo = [name]
        while todo:
            target = todo.pop()
            new = {source for (source, _), step in self._steps.items() if target in step.into} - found
            found |= new
            todo += new
        return found

    def knows(self, name: str) -> bool:
        """True if old events of this type are looked at, be it to leave them out."""
        return (name, 1) in self._steps

    def leads_on(self, name: str, version: int) -> bool:
        """True if there is an upcaster from this version of the payload."""
        return (name, version) in self._steps

    def lift(self, name: str, version: int, payload: Any) -> Iterator[Lifted]:
        """What becomes of a payload; raises UpcastError."""
        while (step := self._steps.get((name, version))) is not None:
            try:
                result = step.call(payload)
            except Exception as error:
                # Not what the error says: it may quote the payload.
                what = type(error).__name__
                raise UpcastError(f"the upcaster of {name!r} from version {version} raised {what}") from error
            if result is None and not step.is_end:
                raise UpcastError(
                    f"the upcaster of {name!r} from version {version} returned None: let it return the "
                    "payload, or [] to leave the event out"
                )
            version += 1
            if result is None or isinstance(result, list | tuple | As):
                for part in _parts(result):
                    yield from self._lift_part(name, version, step, part)
                return
            payload = result
        yield Lifted(name, version, payload)

    def _lift_part(self, name: str, version: int, step: _Step, part: Any) -> Iterator[Lifted]:
        if not isinstance(part, As):
            yield from self.lift(name, version, part)
        elif part.event_type in step.into:
            yield from self.lift(part.event_type, part.version, part.payload)
        else:
            raise UpcastError(
                f"the upcaster of {name!r} from version {version - 1} made a {part.event_type!r}; "
                f"declare it: into=[{part.event_type!r}]"
            )

    def check(self, versions: Mapping[str, int]) -> None:
        """Check all chains against the registered types and their versions; raises RegistryError."""
        for name, version in versions.items():
            self._check_chain(name, version)
        for name in {name for name, _ in self._steps} - versions.keys():
            self._check_end(name)
        for name, step in ((name, step) for (name, _), step in self._steps.items()):
            for target in sorted(step.into):
                if target not in versions and not self.knows(target):
                    raise RegistryError(
                        f"upcasters of {name!r} go into {target!r}, which is not registered: register it, or "
                        "say what it is called today"
                    )
        self._check_cycles()

    def _check_chain(self, name: str, version: int) -> None:
        for number in range(1, version):
            if (name, number) not in self._steps:
                raise RegistryError(
                    f"{name!r} is at version {version}, but nothing leads from version {number} to "
                    f"{number + 1}: add @upcast({name!r}, {number})"
                )
        beyond = [number for other, number in self._steps if other == name and number >= version]
        if beyond:
            raise RegistryError(
                f"{name!r} is registered at version {version}, but has an upcaster from version {beyond[0]}: "
                "raise the version of the registration"
            )

    def _check_end(self, name: str) -> None:
        """A type that is no longer registered: its last upcaster says what becomes of its events."""
        numbers = sorted(number for other, number in self._steps if other == name)
        if numbers != list(range(1, len(numbers) + 1)):
            raise RegistryError(
                f"{name!r} has upcasters from versions {numbers} only: add those that are missing"
            )
        if not self._steps[name, numbers[-1]].is_end:
            raise RegistryError(
                f"{name!r} has upcasters, but is not registered: register it, or say what its events become "
                "(into=[...], or into=[] to leave them out)"
            )

    def _check_cycles(self) -> None:
        graph: dict[str, set[str]] = {}
        for (name, _), step in self._steps.items():
            graph.setdefault(name, set()).update(step.into)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            way = " -> ".join(reversed(error.args[1]))
            raise RegistryError(
                f"upcasters go round in a circle: {way}. Let one of them go into something else; parts of "
                "its own type need no As and no into"
            ) from None


def _parts(result: Any) -> list[Any]:
    if result is None:
        return []
    return list(result) if isinstance(result, list | tuple) else [result]
