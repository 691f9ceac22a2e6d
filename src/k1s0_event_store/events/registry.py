"""The registry: which class an event type is, under which name and version it is stored.

Names are stable and have nothing to do with where a class lives: classes can be renamed and moved.
The version of the payload stands in the metadata (`schema_version`, left out if it is 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args
from uuid import uuid5

from k1s0_event_store.envelope import EventEnvelope, StreamId, changed, check_name
from k1s0_event_store.events.event_type import EventType, MismatchError
from k1s0_event_store.events.upcasting import Lifted, Upcaster, UpcastError, Upcasters
from k1s0_event_store.exceptions import (
    EventDecodeError,
    InvalidInputError,
    RegistryError,
    UnknownEventTypeError,
    shown,
)
from k1s0_event_store.message import OUTBOX
from k1s0_event_store.metadata import PERSONAL_KEYS
from k1s0_event_store.personal import SEALING

SCHEMA_VERSION: Final = "schema_version"
"""The key in the metadata."""

_RESERVED: Final = frozenset({SCHEMA_VERSION, PERSONAL_KEYS})

Unknown: TypeAlias = Literal["error", "skip", "raw"]
"""What to do with stored events that are not registered: refuse, leave out, or give as they are."""

C = TypeVar("C", bound=type)
U = TypeVar("U", bound=Upcaster)


class EventRegistry:
    """Event types by name, and what became of their older versions.

    Chains of upcasters are checked when the registry is first used, and again after a change.
    """

    def __init__(self) -> None:
        self._types: dict[str, EventType] = {}
        self._aliases: dict[str, str] = {}
        self._by_model: dict[type, EventType] = {}
        self._by_tag: dict[tuple[str, str], EventType] = {}
        self._upcasters = Upcasters()
        self._is_checked = False

    def register(self, name: str, *, version: int = 1, aliases: Sequence[str] = ()) -> Callable[[C], C]:
        """Class decorator: events of this class are stored as `name`, in this version of their payload.

        For pydantic models, dataclasses, and TypedDicts with a key such as `type: Literal["name"]`.
        `aliases` are names that older events of it were stored under. Raises RegistryError for a
        name or a class that is taken.
        """

        def decorate(model: C) -> C:
            event_type = EventType(check_name(name, "an event type"), _check_version(version), model)
            self._add(event_type, _check_names(aliases, "aliases"))
            return model

        return decorate

    def upcast(self, name: str, version: int, *, into: Iterable[str] | None = None) -> Callable[[U], U]:
        """Decorator: the function makes a payload of `version` one of the next version.

        It gets JSON and may change it. It returns the new payload; or a list of parts, none to leave the
        event out: payloads of its own type, and `As(...)` for those of other types, which `into`
        declares. The parts share the place of the old event: its version, position and times.

        A type that is no longer registered ends with an upcaster that says `into` (may be empty).
        """

        def decorate(call: U) -> U:
            targets = None if into is None else frozenset(_check_names(into, "into"))
            self._upcasters.add(check_name(name, "an event type"), _check_version(version), call, targets)
            self._is_checked = False
            return call

        return decorate

    def check(self) -> None:
        """Check that every older version leads to the registered one; raises RegistryError."""
        types = self._types.values()
        for event_type in types:
            event_type.check()
        for name in self._aliases:
            if self._upcasters.knows(name):
                known = self._aliases[name]
                raise RegistryError(
                    f"{name!r} is an alias of {known!r}: make its upcasters those of {known!r}"
                )
        self._upcasters.check({event_type.name: event_type.version for event_type in types})
        self._by_tag = {(found.tag, found.name): found for found in types if found.tag is not None}
        self._is_checked = True

    def type_of(self, event: object) -> EventType:
        """The type that an event is of; raises InvalidInputError if it is not registered."""
        if not self._is_checked:
            self.check()
        found = self._by_tag_in(event) if isinstance(event, dict) else self._by_model.get(type(event))
        if found is None:
            raise InvalidInputError(
                f"a {type(event).__name__} is not a registered event; register its class first"
            )
        return found

    def is_personal(self, name: str) -> bool:
        """True if the registered type of this name has personal fields."""
        return self._types[name].is_personal

    def name_of(self, one: str | type) -> str:
        """The name of a class, or of a name or alias; raises InvalidInputError if it is not registered."""
        name = self._aliases.get(one, one) if isinstance(one, str) else self._name_of_model(one)
        if name not in self._types:
            raise InvalidInputError(
                f"{one!r} is no event type of today: register it, or name the types that its events become"
            )
        return name

    def names_of(self, *types: str | type) -> list[str]:
        """All names that events of these types (classes or names) may be stored under, for filters."""
        found: set[str] = set()
        for one in types:
            name = self.name_of(one)
            found |= {name, *self._upcasters.names_into(name)}
        return sorted(found | {alias for alias, name in self._aliases.items() if name in found})

    def envelope(
        self,
        stream_id: StreamId,
        event: object,
        metadata: Mapping[str, Any] | None = None,
        *,
        sealing: bool = False,
    ) -> EventEnvelope:
        """The envelope that `event` is stored in, its personal fields as they are (`sealing`: as marks).

        `event` may be an EventEnvelope with the object as payload: its id, its time and its metadata
        stay (`metadata` adds to it). Raises InvalidInputError if the event is not registered or does
        not fit its model.
        """
        given = event if isinstance(event, EventEnvelope) else None
        event = event if given is None else given.payload
        event_type = self.type_of(event)
        try:
            payload = event_type.dump(event, SEALING if sealing and event_type.is_personal else None)
        except MismatchError as error:
            raise InvalidInputError(f"it does not fit {event_type.name!r}: {error}") from None
        if given is None:
            return EventEnvelope(stream_id, event_type.name, payload, _marked(event_type, metadata or {}))
        if given.event_type != event_type.name:
            raise InvalidInputError(
                f"its event_type is {given.event_type!r}, but it is a {event_type.name!r}"
            )
        marked = _marked(event_type, {**(metadata or {}), **given.metadata})
        return changed(given, payload=payload, metadata=marked)

    def decode(self, envelope: EventEnvelope, unknown: Unknown = "error") -> list[EventEnvelope]:
        """What a stored event is today: one envelope with the object as payload, or none, or several.

        Parts of an old event share its version and position; from the second on they have event ids
        of their own, the same at every reading. Raises EventDecodeError, UnknownEventTypeError.
        """
        if not self._is_checked:
            self.check()
        stored_as, version = envelope.event_type, envelope.metadata.get(SCHEMA_VERSION, 1)
        event_type = self._types.get(stored_as)
        if event_type is not None and event_type.version == version:
            return [_loaded(envelope, event_type, envelope.payload)]
        name = self._aliases.get(stored_as, stored_as)
        if name not in self._types and not self._upcasters.knows(name):
            return _unknown(envelope, unknown, None)
        if not isinstance(version, int) or not self._has_version(name, version):
            return _unknown(envelope, unknown, version)
        try:
            lifted = list(self._upcasters.lift(name, version, envelope.payload))
        except UpcastError as error:
            raise _undecodable(envelope, str(error)) from error.__cause__
        return [self._load_part(envelope, part, number) for number, part in enumerate(lifted)]

    def _has_version(self, name: str, version: int) -> bool:
        event_type = self._types.get(name)
        is_current = event_type is not None and event_type.version == version
        return is_current or self._upcasters.leads_on(name, version)

    def _load_part(self, envelope: EventEnvelope, part: Lifted, number: int) -> EventEnvelope:
        event_type = self._types.get(part.event_type)
        if event_type is None or event_type.version != part.version:
            raise _undecodable(
                envelope,
                f"its upcasters made {part.event_type!r} in version {part.version}, which is not registered",
            )
        return _loaded(envelope, event_type, part.payload, number)

    def _add(self, event_type: EventType, aliases: Sequence[str]) -> None:
        model, names = event_type.model, [event_type.name, *aliases]
        for name in names:
            if name in self._types or name in self._aliases or names.count(name) > 1:
                raise RegistryError(f"the event type {name!r} is registered already; names are unique")
        if model in self._by_model:
            raise RegistryError(f"{model!r} is registered already, as {self._by_model[model].name!r}")
        self._types[event_type.name] = event_type
        self._by_model[model] = event_type
        self._aliases |= dict.fromkeys(aliases, event_type.name)
        self._is_checked = False

    def _name_of_model(self, model: type) -> str:
        return self._by_model[model].name if model in self._by_model else repr(model)

    def _by_tag_in(self, event: Mapping[Any, Any]) -> EventType | None:
        for (key, name), event_type in self._by_tag.items():
            if event.get(key) == name:
                return event_type
        return None


def _marked(event_type: EventType, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """`metadata` with the version of the payload."""
    for name in _RESERVED:
        if name in metadata:
            raise InvalidInputError(f"metadata {name!r} is set by the library; leave it out")
    return metadata if event_type.version == 1 else {**metadata, SCHEMA_VERSION: event_type.version}


def _loaded(envelope: EventEnvelope, event_type: EventType, payload: Any, number: int = 0) -> EventEnvelope:
    try:
        event = event_type.load(payload)
    except MismatchError as error:
        raise EventDecodeError(
            envelope.stream_id, envelope.version, event_type.name, str(error), error.fields
        ) from error.__cause__
    if number:
        envelope = changed(envelope, event_id=uuid5(envelope.event_id, str(number)))
    if envelope.metadata and not _RESERVED.isdisjoint(envelope.metadata):  # they tell how it is stored
        metadata = {name: value for name, value in envelope.metadata.items() if name not in _RESERVED}
        envelope = changed(envelope, metadata=metadata)
    if envelope.event_type == event_type.name:
        return changed(envelope, payload=event)
    return changed(envelope, event_type=event_type.name, payload=event)


def _unknown(envelope: EventEnvelope, policy: Unknown, schema_version: int | None) -> list[EventEnvelope]:
    if policy == "skip" or envelope.stream_id.aggregate_type == OUTBOX:
        return []
    if policy == "raw":
        return [envelope]
    raise UnknownEventTypeError(envelope.stream_id, envelope.version, envelope.event_type, schema_version)


def _undecodable(envelope: EventEnvelope, reason: str) -> EventDecodeError:
    return EventDecodeError(envelope.stream_id, envelope.version, envelope.event_type, reason)


def check_unknown(unknown: Unknown) -> Unknown:
    """Return `unknown` if it is a policy; raises InvalidInputError."""
    if unknown not in get_args(Unknown):
        raise InvalidInputError(f'unknown must be "error", "skip" or "raw", not {shown(unknown)}')
    return unknown


def _check_names(names: Iterable[str], what: str) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise RegistryError(f"{what} must be a list of names, not {shown(names)}")
    return [check_name(name, f"every one of {what}") for name in names]


def _check_version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RegistryError(f"a schema version is a whole number from 1 on, not {shown(version)}")
    return version
