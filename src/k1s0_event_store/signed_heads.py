"""Signed heads: a file of lines, each of which attests the events up to a position, and the line before it.

Who keeps the file where the owner of the tables cannot write can tell later whether the events are still
those that were signed: also where streams end earlier, are gone, or are chained anew from the beginning.
"""

from __future__ import annotations

import binascii
import json
import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k1s0_event_store.chain import Stretch
from k1s0_event_store.exceptions import TransferError
from k1s0_event_store.signing import PrivateKey, PublicKey

LONGEST_LINE: Final = 4_096
"""Bytes; what is longer is no head."""
_RESTORE_FILE: Final = (
    "take the file from where it is kept besides; if there is none, ask who could write to it"
)
_RESTORE_EVENTS: Final = "somebody has written past the library: restore a backup, and compare it"

_Position = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Head(BaseModel):
    """What a line says: these are the events after one position (`from`) and up to another one (`to`).

    A file begins at 0; its first line means all events up to `to`. `previous` is the SHA-256 of the line
    before, None where there is none; `signature` that of the other fields, in base64.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)

    format: Literal["k1s0-event-store-head"] = "k1s0-event-store-head"
    version: Literal[1] = 1
    after: _Position = Field(validation_alias="from", serialization_alias="from")
    to: _Position
    events: int = Field(ge=0, lt=2**63)
    digest: _Hash
    previous: _Hash | None
    signed_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")
    key: str = Field(pattern="^[0-9a-f]{16}$")
    signature: str = Field(default="", max_length=100)

    @property
    def day(self) -> str:
        """The day on which it was signed (of UTC), by the clock of who signed."""
        return self.signed_at[:10]

    def signed(self, key: PrivateKey) -> Head:
        """The same with its signature."""
        return self.model_copy(update={"signature": b64encode(key.sign(self._canonical())).decode()})

    def is_signed_with(self, key: PublicKey) -> bool:
        """True if the signature is that of these fields, with this key."""
        try:
            signature = b64decode(self.signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        return key.has_signed(signature, self._canonical())

    def line(self) -> bytes:
        """As it stands in the file, without the end of the line."""
        return _json(self.model_dump(by_alias=True))

    def _canonical(self) -> bytes:
        """What is signed: the other fields as JSON, by name, without spaces."""
        fields = self.model_dump(by_alias=True, exclude={"signature"})
        return _json(dict(sorted(fields.items())))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class ChainedEvents(Protocol):
    """What heads are made of, and compared with: a store whose events are chained."""

    async def settled(self, wait: float) -> int:
        """The newest position, as soon as no event can come at or below it any more."""
        ...

    async def stretch(self, after: int | None, to: int) -> Stretch:
        """The events after a position (None: from the first on) and up to another one."""
        ...


@dataclass(frozen=True, slots=True)
class HeadFault:
    """A line that is not what was written, or events that are not what it attests."""

    line: int
    problem: str
    advice: str
    day: str | None = None


async def sign_head(path: Path, key: PrivateKey, events: ChainedEvents, wait: float = 60) -> Head:
    """Add a line to the file, which begins with it: all events since the line before, or none.

    Waits `wait` seconds at most for transactions that may still add an event in between. Raises TransferError
    where the last line is not one of this key, or attests events beyond those that there are.
    """
    with _opened(path) as file:
        last = _last_line(file, path, key.public)
        to = await events.settled(wait)
        if last is not None and to < last.to:
            raise TransferError(
                f"{path} attests events up to position {last.to}, but there are none beyond {to}: "
                "k1s0-event-store verify --chain --heads says what is missing"
            )
        found = await events.stretch(None if last is None else last.to, to)
        head = Head(
            after=0 if last is None else last.to,
            to=to,
            events=found.events,
            digest=found.digest,
            previous=None if last is None else sha256(last.line()).hexdigest(),
            signed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            key=key.public.id,
        ).signed(key)
        file.write(head.line() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return head


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, locked: two who sign at the same time would both follow the same line."""
    import fcntl  # not on Windows

    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TransferError(f"another process is writing {path}") from exc
        yield file


def _last_line(file: BinaryIO, path: Path, key: PublicKey) -> Head | None:
    """None: the file is empty. Raises TransferError for anything but a line of this key."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_LINE))
    end = file.read()
    if not end:
        return None
    line = end[:-1].rpartition(b"\n")[2] + end[-1:]
    try:
        return parse(line, key)
    except TransferError as exc:
        raise TransferError(f"nothing was added to {path}, whose last line {exc}") from exc


def parse(line: bytes, key: PublicKey) -> Head:
    """The head in a line, with its end; raises TransferError that says what the line does wrong."""
    if not line.endswith(b"\n"):
        raise TransferError("was cut, or is too long")
    try:
        head = Head.model_validate_json(line[:-1])
    except ValidationError as exc:
        raise TransferError(f"is no head: {_reason(exc)}") from exc
    if head.line() + b"\n" != line:
        raise TransferError("was written anew: what it says is written in another way")
    if head.key != key.id:
        raise TransferError(f"is signed with the key {head.key}, and not with {key.id}")
    if not head.is_signed_with(key):
        raise TransferError("was changed or forged: it is not what was signed")
    return head


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join([*map(str, first["loc"]), first["msg"]])


def read_heads(lines: Iterable[bytes], key: PublicKey) -> Iterator[tuple[int, Head | HeadFault]]:
    """Each head that its signature is right for, and each fault of the file, with the number of the line."""
    number, before, is_known = 0, None, True
    for number, line in enumerate(lines, 1):
        try:
            head = parse(line, key)
        except TransferError as exc:
            yield number, HeadFault(number, f"the line {exc}", _RESTORE_FILE)
            is_known = False
            continue
        # What stands after a line that cannot be read follows from one that nobody knows.
        if is_known and (problem := _break(before, head)):
            yield number, HeadFault(number, problem, _RESTORE_FILE, head.day)
        yield number, head
        before, is_known = head, True
    if not number:
        yield 0, HeadFault(0, "the file is empty: it attests nothing", _RESTORE_FILE)


def _break(before: Head | None, head: Head) -> str | None:
    """Why `head` cannot stand after `before`."""
    if head.previous != (None if before is None else sha256(before.line()).hexdigest()):
        return "the line does not follow from the one before: lines are missing, or in another order"
    if head.after != (0 if before is None else before.to) or head.to < head.after:
        return f"the line begins at position {head.after} and ends at {head.to}: that is not where it should"
    return None


async def check_heads(
    lines: Iterable[bytes], key: PublicKey, events: ChainedEvents
) -> AsyncIterator[Head | HeadFault]:
    """Each head of the file, and behind it what is wrong with it, or with the events that it attests.

    Nothing is said of events after the last head.
    """
    for number, found in read_heads(lines, key):
        yield found
        if isinstance(found, Head):
            there = await events.stretch(found.after if found.previous else None, found.to)
            if problem := _difference(found, there):
                yield HeadFault(number, problem, _RESTORE_EVENTS, found.day)


def _difference(head: Head, there: Stretch) -> str | None:
    place = f"up to position {head.to}" if head.previous is None else f"from {head.after} to {head.to}"
    if head.events != there.events:
        return f"{head.events:,} events {place} were signed, but there are {there.events:,}"
    if head.digest != there.digest:
        return f"the {head.events:,} events {place} are not those that were signed, or not in this order"
    return None
