"""Fields that hold personal data: how they are marked in a model, and how the marks are found.

A model that is dumped with `context=SEALING` gives, in place of each value, an open mark: a dict of
the one key "$personal", which says whose it is. `Sealer.seal` encrypts what stands there. Nobody
else can make one: it holds a number that this process has drawn. Every other dump is as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any, Final, cast
from uuid import UUID

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, SchemaValidator
from pydantic_core.core_schema import (
    FieldSerializationInfo,
    SerializerFunctionWrapHandler,
    wrap_serializer_function_ser_schema,
)

from k1s0_event_store.envelope import check_name
from k1s0_event_store.exceptions import ConfigurationError, shown
from k1s0_event_store.jsontext import encode

SEALING: Final = {"k1s0_sealing": True}
"""The serialization context that makes open marks: this very object."""

MARK: Final = "$personal"
"""The key of a mark; nothing else in the payload of an event with personal fields may have it."""

_PROCESS: Final = token_hex(16)
_METADATA: Final = "k1s0_personal"


@dataclass(frozen=True)
class Personal:
    """Marks a field as data about a person: `name: Annotated[str, Personal(subject="customer_id")]`.

    It is encrypted with the key of the subject whose id stands in the field `subject` of the same
    model, dataclass or TypedDict: a str, UUID or int. Once the subject is forgotten the field reads
    as `forgotten`, which must fit its type: a date needs `Personal(..., forgotten="1900-01-01")`.
    None is not encrypted.

    Raises ConfigurationError.
    """

    subject: str
    forgotten: Any = field(default="[forgotten]", hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.subject, str) or not self.subject:
            raise ConfigurationError(
                f"Personal() needs the name of the field with the subject's id, not {shown(self.subject)}"
            )
        try:
            encode(self.forgotten)
        except ValueError as exc:
            raise ConfigurationError(f"forgotten={shown(self.forgotten)} is {exc}") from exc

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain: dict[str, Any] = {**handler(source)}
        metadata = {**plain.get("metadata", {}), _METADATA: self}
        if _METADATA in plain.get("metadata", {}):
            raise ConfigurationError(f"a field has one Personal(): {handler.field_name} has two")
        marking = wrap_serializer_function_ser_schema(
            self._mark,
            is_field_serializer=True,
            info_arg=True,
            # Without it a serializer that was there before would be left out.
            schema=cast("CoreSchema", plain) if "serialization" in plain else None,
        )
        return cast("CoreSchema", {**plain, "metadata": metadata, "serialization": marking})

    def _mark(
        self, owner: Any, value: Any, dump: SerializerFunctionWrapHandler, info: FieldSerializationInfo
    ) -> Any:
        if info.context is not SEALING or value is None:
            return dump(value)
        content = {"process": _PROCESS, "forgotten": self.forgotten, "value": dump(value)}
        try:
            content["subject"] = _subject_in(owner, self.subject)
        except ValueError as exc:
            # Not raised here: a union would catch it, and dump the value as it is.
            content["problem"] = f"{type(owner).__name__}.{info.field_name} is personal data of nobody: {exc}"
        return {MARK: content}


def _subject_in(owner: Any, name: str) -> str:
    value = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        value = str(value)
    return check_name(value, f"{name!r}, the id of the subject,")


def is_open_mark(content: object) -> bool:
    """True if this stands under MARK because a field of this process was dumped."""
    return isinstance(content, dict) and content.get("process") == _PROCESS


def has_personal(adapter: TypeAdapter[Any]) -> bool:
    """True if there are personal fields, at any depth."""
    return any(True for _ in _Search(adapter.core_schema))


def check_personal(adapter: TypeAdapter[Any]) -> None:
    """Check that every personal field can be encrypted, and forgotten; raises ConfigurationError."""
    search = _Search(adapter.core_schema)
    for found in search:
        found.check(search.definitions)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a model a schema stands. `whole` is the schema of the value with all its validators."""

    owner: str = ""
    siblings: frozenset[str] = frozenset()
    name: str = ""
    obstacle: str = ""
    config: Any = field(default=None, compare=False)
    whole: Any = field(default=None, compare=False)

    def blocked(self, obstacle: str | None) -> _Place:
        """The same place, in something that encryption cannot reach into."""
        return replace(self, obstacle=self.obstacle or obstacle or "")


@dataclass(frozen=True, slots=True)
class _Found:
    """A personal field."""

    marker: Personal
    schema: Mapping[str, Any]
    place: _Place

    def check(self, definitions: Mapping[str, Any]) -> None:
        place, subject = self.place, self.marker.subject
        where = f"{place.owner}.{place.name}" if place.owner else "a value outside of a model"
        if place.obstacle:
            raise ConfigurationError(f"{where} cannot be encrypted: Personal() stands {place.obstacle}")
        if subject not in place.siblings:
            raise ConfigurationError(
                f"{where} is personal data of {subject!r}, but {place.owner or 'nothing'} has no such field: "
                f"give Personal() one of {', '.join(sorted(place.siblings)) or 'a model'}"
            )
        schema: Any = self.schema if place.whole is None else place.whole
        if definitions:
            schema = {"type": "definitions", "schema": schema, "definitions": [*definitions.values()]}
        try:
            SchemaValidator(schema, place.config).validate_json(encode(self.marker.forgotten))
        except Exception as exc:
            raise ConfigurationError(
                f"{where} could not be read once its subject is forgotten: {self.marker.forgotten!r} does not"
                f" fit; give Personal(..., forgotten=...) a value that does ({exc})"
            ) from exc


class _Search:
    """Walks a core schema of pydantic, from the models to their fields."""

    def __init__(self, schema: Any) -> None:
        self.definitions: dict[str, Any] = {}
        self._todo: list[tuple[Any, _Place]] = [(schema, _Place())]
        self._seen: set[tuple[str, _Place]] = set()

    def __iter__(self) -> Iterator[_Found]:
        while self._todo:
            node, place = self._todo.pop()
            if isinstance(node, Mapping) and isinstance(node.get("type"), str):
                yield from self._visit(node, place)
            elif isinstance(node, Mapping):
                self._add(node.values(), place)
            elif isinstance(node, list | tuple):
                self._add(node, place)

    def _visit(self, node: Mapping[str, Any], place: _Place) -> Iterator[_Found]:
        marker = _marker_of(node)
        place = place.blocked(_foreign_serializer(node, marker))
        if marker is not None:
            yield _Found(marker, node, place)
            place = place.blocked("inside another personal field")
        if node["type"] == "definitions":
            self.definitions |= {definition["ref"]: definition for definition in node["definitions"]}
            self._todo.append((node["schema"], place))
        elif node["type"] == "definition-ref":
            self._follow(node["schema_ref"], _inside(node, place))
        elif node["type"] in _WITH_FIELDS:
            self._add_fields(node, place)
        else:
            self._add_children(node, _inside(node, place))

    def _follow(self, ref: str, place: _Place) -> None:
        if (ref, place) not in self._seen:
            self._seen.add((ref, place))
            self._todo.append((self.definitions[ref], place))

    def _add_fields(self, node: Mapping[str, Any], place: _Place) -> None:
        fields = node["fields"]
        named = fields if isinstance(fields, Mapping) else {each["name"]: each for each in fields}
        place = replace(
            place,
            owner=_name_of(node) or place.owner,
            siblings=frozenset(named),
            config=node.get("config", place.config),
            whole=None,
        )
        for name, each in named.items():
            self._todo.append((each, replace(place, name=name)))
        for each in node.get("computed_fields", ()):
            self._todo.append((each["return_schema"], replace(place, name=each["property_name"])))
        self._todo.append((node.get("extras_schema"), place.blocked("in the type of extra fields")))

    def _add_children(self, node: Mapping[str, Any], place: _Place) -> None:
        for key, child in node.items():
            if key == "keys_schema":
                self._todo.append((child, place.blocked("in the key of a dict")))
            elif key not in _NO_SCHEMAS:
                self._todo.append((child, place))

    def _add(self, nodes: Iterable[Any], place: _Place) -> None:
        self._todo += [(node, place) for node in nodes]


_WITH_FIELDS: Final = frozenset({"model-fields", "typed-dict", "dataclass-args"})
_NO_SCHEMAS: Final = frozenset(
    {"metadata", "config", "default", "expected", "members", "serialization", "json_schema_input_schema"}
)
# Schemas that hold the same value, and those whose values are dumped one by one. Inside others (Json,
# NamedTuple, what pydantic may bring) nothing is known to be marked.
_SAME_VALUE: Final = frozenset(
    {"default", "nullable", "custom-error", "definition-ref"}
    | {"function-after", "function-before", "function-wrap"}
)
_REACHED: Final = _SAME_VALUE | frozenset(
    {"model", "model-field", "dataclass", "dataclass-field", "typed-dict-field", "union", "tagged-union"}
    | {"list", "tuple", "set", "frozenset", "deque", "generator", "dict", "ordered-dict"}
    | {"chain", "lax-or-strict", "json-or-python"}
)
_CALLS_ON: Final = frozenset({"function-wrap", "include-exclude-sequence", "include-exclude-dict"})


def _inside(node: Mapping[str, Any], place: _Place) -> _Place:
    """The place of what `node` holds."""
    if node["type"] in {"model", "dataclass"}:
        # The one value of a RootModel has no field beside it.
        return replace(
            place,
            owner=_name_of(node),
            siblings=frozenset(),
            name="root",
            config=node.get("config"),
            whole=None,
        )
    # A validator that asks for the other fields cannot be tried alone.
    is_same = node["type"] in _SAME_VALUE and node.get("function", {}).get("type") != "with-info"
    place = replace(place, whole=(place.whole or node) if is_same else None)
    if node["type"] in _REACHED:
        return place
    return place.blocked(f"in a {node['type']!r}: use a model, dataclass, TypedDict or collection there")


def _name_of(node: Mapping[str, Any]) -> str:
    return str(getattr(node.get("cls"), "__name__", None) or node.get("cls_name", ""))


def _marker_of(node: Mapping[str, Any]) -> Personal | None:
    return _effective_marker(node) or node.get("metadata", {}).get(_METADATA)


def _effective_marker(node: Mapping[str, Any]) -> Personal | None:
    """The marker that is called when `node` is dumped; None also where another serializer took its place."""
    marker = getattr(node.get("serialization", {}).get("function"), "__self__", None)
    return marker if isinstance(marker, Personal) else None


def _foreign_serializer(node: Mapping[str, Any], marker: Personal | None) -> str | None:
    """What is in the way where a serializer of the app does not call on what is below it."""
    if _effective_marker(node) is not None:
        return None
    kind = node.get("serialization", {}).get("type")
    if marker is None and (kind is None or kind in _CALLS_ON):
        return None
    return "under another serializer: put that before Personal() in Annotated[...], or let it wrap"
