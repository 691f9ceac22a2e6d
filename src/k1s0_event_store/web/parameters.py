"""What a request asks for: parts of its query or its form, checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request

from k1s0_event_store.envelope import MAX_VERSION, StreamId
from k1s0_event_store.exceptions import InvalidInputError

_LONGEST_FORM: Final = 16_384
_MOST_FIELDS: Final = 50
_FORM: Final = "application/x-www-form-urlencoded"


class Parameters:
    """Values by name; what is empty counts as not given. Raises InvalidInputError for bad ones."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """As it was typed, without spaces around it."""
        return self.exactly(name).strip()

    def number(self, name: str, least: int = 0, most: int = MAX_VERSION) -> int | None:
        """A whole number of the range."""
        value = self.text(name)
        if not value:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) < 20 and least <= int(value) <= most):
            raise InvalidInputError(
                f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}"
            )
        return int(value)

    def time(self, name: str) -> datetime | None:
        """A time in ISO 8601, UTC unless it says otherwise."""
        value = self.text(name)
        if not value:
            return None
        try:
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidInputError(
                f"{name} must be a time like 2026-01-31T12:00 (UTC), not {value!r}"
            ) from None

    def stream_id(self, prefix: str = "") -> StreamId | None:
        """The stream of `type` and `id`, as they are stored, spaces and all; None where neither is given."""
        kind, name = (self._values.get(prefix + part, "") for part in ("type", "id"))
        return StreamId(kind, name) if kind or name else None

    def choice(self, name: str, *choices: str) -> str:
        """One of the choices; the first unless given."""
        value = self.text(name) or choices[0]
        if value not in choices:
            raise InvalidInputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def exactly(self, name: str) -> str:
        """As it was sent."""
        value = self._values.get(name, "")
        if "\x00" in value:
            raise InvalidInputError(f"{name} must not hold NUL")
        return value


def query_of(request: Request) -> Parameters:
    """The query of a request."""
    return Parameters(request.query_params)


def required_stream_id(parameters: Parameters) -> StreamId:
    """The stream that is asked for; raises InvalidInputError if none is."""
    stream_id = parameters.stream_id()
    if stream_id is None:
        raise InvalidInputError("which stream? Give its type and id")
    return stream_id


def uuid_of(text: str) -> UUID | None:
    """The UUID that `text` is, None if it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


async def form_of(request: Request) -> Parameters:
    """The form of a request: short, and in the one encoding that our pages send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415, f"forms are sent as {_FORM}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, "this form is too long")
    try:
        return Parameters(dict(parse_qsl(body.decode("ascii"), max_num_fields=_MOST_FIELDS)))
    except ValueError:
        raise HTTPException(400, "this is no form of ours") from None
