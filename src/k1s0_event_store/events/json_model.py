"""A model's values as JSON and back, the same for events and for states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

_NO_SCHEMAS: Final = frozenset({"default", "expected", "metadata"})


class JsonModel:
    """What pydantic knows of `kind`: a pydantic model, dataclass, TypedDict, or any other type.

    The first use may raise PydanticSchemaGenerationError or PydanticUserError.
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """What pydantic made of the type."""
        return TypeAdapter(self.kind)

    def dump(
        self,
        value: object,
        *,
        context: Any = None,
        exclude: AbstractSet[str] | None = None,
        strictly: bool = True,
    ) -> Any:
        """The JSON value; raises ValueError for what has none.

        `strictly`: also for fields that are not of the type they are declared with.
        """
        return self.adapter.dump_python(
            value,
            mode="json",
            by_alias=True,
            round_trip=True,
            warnings="error" if strictly else "none",
            context=context,
            exclude=set(exclude) if exclude else None,
        )

    def load(self, value: Any) -> Any:
        """The object of a JSON value; raises ValidationError, and ValueError for what is no JSON."""
        if self._reads_text:
            return self._load_text(value)
        try:
            return self._validate(value)
        except ValidationError as error:
            with suppress(ValueError):
                return self._load_text(value)
            raise error from None

    def _load_text(self, value: Any) -> Any:
        """As pydantic reads JSON text, where a date is a text: dearer."""
        return self.adapter.validate_json(to_json(value))

    @cached_property
    def _validate(self) -> Callable[[Any], Any]:
        # Past the adapter's own method, which takes as long as a small model.
        return self.adapter.validator.validate_python

    @cached_property
    def _reads_text(self) -> bool:
        """True if values say too little: strict models want dates, and `UUID | str` would take a text."""
        return _has_choices(self.adapter.core_schema)


def _has_choices(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return (
            schema.get("type") == "union"
            or schema.get("strict") is True
            or any(_has_choices(part) for key, part in schema.items() if key not in _NO_SCHEMAS)
        )
    return isinstance(schema, list | tuple) and any(map(_has_choices, schema))
