"""One registered type of event: from an object to the JSON that is stored, and back."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, ValidationError
from pydantic_core import ErrorDetails, to_json
from pydantic_core.core_schema import ErrorType
from typing_extensions import get_type_hints, is_typeddict

from k1s0_event_store.cipher import check_available
from k1s0_event_store.events.json_model import JsonModel
from k1s0_event_store.exceptions import RegistryError
from k1s0_event_store.personal import check_personal, has_personal

_MOST_FIELDS_NAMED: Final = 5
_LITERAL: Final[Any] = Literal
_WITHOUT_VALUES: Final = frozenset(get_args(ErrorType)) - {
    "assertion_error",
    "union_tag_invalid",
    "value_error",
}
"""Errors whose message pydantic wrote, and does not quote what it got in."""


class MismatchError(ValueError):
    """A value does not fit the model; `fields` are the places that do not."""

    def __init__(self, reason: str, fields: tuple[str, ...] = ()) -> None:
        self.fields = fields
        super().__init__(reason)

    @classmethod
    def of(cls, error: ValidationError) -> MismatchError:
        """What pydantic says, in one line, without the values: they may be personal."""
        found = [(".".join(map(str, e["loc"])), _message(e)) for e in error.errors(include_input=False)]
        shown = [f"{field or 'the payload'}: {message}" for field, message in found[:_MOST_FIELDS_NAMED]]
        more = len(found) - len(shown)
        return cls(
            "; ".join(shown) + (f"; and {more} more" if more else ""), tuple(field for field, _ in found)
        )


def _message(error: ErrorDetails) -> str:
    return error["msg"] if error["type"] in _WITHOUT_VALUES else f"refused by its validator ({error['type']})"


class EventType:
    """A model with the name and the version that its payload is stored under.

    Raises RegistryError for what is no pydantic model, dataclass or TypedDict with a tag.
    """

    def __init__(self, name: str, version: int, model: type) -> None:
        self.name = name
        self.version = version
        self.model = model
        self._json = JsonModel(model)
        if not (is_typeddict(model) or (isinstance(model, type) and _has_fields(model))):
            raise RegistryError(
                f"{name!r}: {model!r} is no pydantic model, dataclass or TypedDict; make it one of them"
            )
        with suppress(NameError):  # of a class that is defined later in the module
            self._prepare()

    @cached_property
    def tag(self) -> str | None:
        """The key that tells dictionaries of this type from others; None for classes."""
        return _tag_of(self.model, self.name) if is_typeddict(self.model) else None

    def check(self) -> None:
        """Check that all is there that the model refers to; raises RegistryError."""
        try:
            self._prepare()
        except NameError as error:
            raise RegistryError(
                f"{self.name!r}: {self.model.__name__} refers to {error.name!r}, which is not there: define "
                "it in the same module, before the registry is first used"
            ) from error

    def _prepare(self) -> None:
        """Raises NameError while something is not defined yet."""
        _ = self.tag
        try:
            if not self._json.adapter.pydantic_complete:
                self._json.adapter.rebuild(raise_errors=True)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise RegistryError(f"{self.name!r}: pydantic cannot handle {self.model!r}: {error}") from error
        if self.is_personal:
            check_available()
            check_personal(self._json.adapter)

    @cached_property
    def is_personal(self) -> bool:
        """True if the model has fields that are encrypted."""
        return has_personal(self._json.adapter)

    def dump(self, event: object, context: Any = None) -> Any:
        """The JSON value to store; raises MismatchError for what would not come back as it is.

        `context` is for the serializers of fields.
        """
        try:
            payload = self._json.dump(event, context=context)
            plain = payload if context is None else self._json.dump(event)
            loaded = self._json.load(plain)
            is_same = loaded == event or self._is_same(event, plain, loaded)
        except ValidationError as error:
            raise MismatchError.of(error) from None
        except ValueError:
            raise self._why_not_dumped(event) from None
        if not is_same:
            fields = _differing(event, loaded)
            reason = "would not come back as it is; do aliases and serializers fit what is read?"
            raise MismatchError(f"{', '.join(fields) or 'the payload'}: {reason}", fields)
        if self.tag is not None:
            del payload[self.tag]
        return payload

    def load(self, payload: Any) -> Any:
        """The event of a stored JSON value; raises MismatchError."""
        if self.tag is not None and isinstance(payload, dict):
            payload = {**payload, self.tag: self.name}
        try:
            return self._json.load(payload)
        except ValidationError as error:
            raise MismatchError.of(error) from None
        except ValueError as error:
            raise MismatchError(f"it is not JSON: {error}") from error

    def _is_same(self, event: object, payload: Any, loaded: object) -> bool:
        """For what does not call itself equal: True if its JSON is, and no key of a dictionary is missing."""
        again = self._json.dump(loaded)
        return not _has_more(event, loaded) and to_json(_sorted(again)) == to_json(_sorted(payload))

    def _why_not_dumped(self, event: object) -> MismatchError:
        """Pydantic's own message names the fields too, but shows the values."""
        try:
            loaded = self._json.load(self._json.dump(event, strictly=False))
        except ValidationError as error:
            return MismatchError.of(error)
        except ValueError as error:
            return MismatchError(str(error))
        fields = _differing(event, loaded)
        return MismatchError(f"{', '.join(fields) or 'a field'}: not of the type that is declared", fields)


def _has_fields(model: type) -> bool:
    return issubclass(model, BaseModel) or dataclasses.is_dataclass(model)


def _tag_of(model: type, name: str) -> str:
    """The key that tells dictionaries of this type from others."""
    for key, hint in get_type_hints(model).items():
        if get_origin(hint) is _LITERAL and get_args(hint) == (name,):
            return key
    raise RegistryError(
        f"{name!r}: a dictionary does not say what it is: give {model.__name__} a key for that, such as "
        f'type: Literal["{name}"]'
    )


def _has_more(given: object, kept: object) -> bool:
    """True if a dictionary has keys that its TypedDict does not know, at any depth."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return any(key not in kept or _has_more(value, kept[key]) for key, value in given.items())
    if isinstance(given, list) and isinstance(kept, list):
        return any(map(_has_more, given, kept))
    return False


def _sorted(value: Any) -> Any:
    """JSON without the order of its lists: sets have none."""
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=to_json)
    return value


def _differing(one: object, other: object) -> tuple[str, ...]:
    """The fields in which two events differ."""
    missing, found = object(), _fields_of(other)
    return tuple(name for name, value in _fields_of(one).items() if found.get(name, missing) != value)


def _fields_of(event: Any) -> dict[str, Any]:
    if isinstance(event, dict):
        return event
    if isinstance(event, BaseModel):
        return dict(event)
    return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
