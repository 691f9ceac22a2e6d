"""Encrypts what personal fields hold, and reads it as long as the subject is not forgotten.

What is stored in place of a value: {"$personal": {"key": id, "forgotten": ..., "data": base64}}. It
is bound to the event's id and its place in the payload: moved elsewhere it is refused.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from k1s0_event_store.cipher import check_available, combined_key, decrypt, encrypt
from k1s0_event_store.exceptions import InvalidInputError, PersonalDataError
from k1s0_event_store.jsontext import decode, encode
from k1s0_event_store.keys import DataKey, KeyStore
from k1s0_event_store.personal import MARK, is_open_mark

STATE_MARK: Final = "$personal_state"
"""The one key of a sealed state."""

Path = tuple[str | int, ...]


class Forgotten(Enum):
    """What is read in place of a state that nobody can read any more."""

    FORGOTTEN = "forgotten"


FORGOTTEN: Final = Forgotten.FORGOTTEN


@dataclass(frozen=True, slots=True)
class Sealed:
    """A payload to be stored, and the ids of the keys that its personal fields are encrypted with."""

    payload: Any
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A payload as it was before `seal`, and the ids of the keys that were needed for it.

    `forgotten` says that keys were gone: their fields hold what `Personal(forgotten=...)` said.
    """

    payload: Any
    key_ids: tuple[str, ...]
    forgotten: bool


class Sealer:
    """Encrypts personal fields with the keys of `keys`, which stay the caller's to close.

    Raises ConfigurationError where cryptography is not installed.
    """

    def __init__(self, keys: KeyStore) -> None:
        check_available()
        self._keys = keys

    def within(self, session: Any) -> Self:
        """The same inside the caller's transaction; see KeyStore.within."""
        return type(self)(self._keys.within(session))

    async def seal(self, items: Sequence[tuple[str, Any]]) -> list[Sealed]:
        """What to store for events, given as (event id, payload dumped with SEALING).

        Keys that do not exist yet are made. Raises InvalidInputError where a subject is missing, or
        where data of the app has the key "$personal".
        """
        documents = [_Document(event_id, payload) for event_id, payload in items]
        contents = [[_open_content(mark, document) for mark in document.marks] for document in documents]
        subjects = {content["subject"] for group in contents for content in group}
        keys = await self._keys.for_subjects(subjects) if subjects else {}
        return [_sealed(*pair, keys) for pair in zip(documents, contents, strict=True)]

    async def unseal(self, items: Sequence[tuple[str, Any]]) -> list[Unsealed]:
        """What was given to `seal`, for events given as (event id, stored payload).

        Raises PersonalDataError for what was changed or moved.
        """
        documents = [_Document(event_id, payload) for event_id, payload in items]
        contents = [[_sealed_content(mark, document) for mark in document.marks] for document in documents]
        key_ids = {content["key"] for group in contents for content in group}
        keys = await self._keys.find(key_ids) if key_ids else {}
        return [_unsealed(*pair, keys) for pair in zip(documents, contents, strict=True)]

    async def seal_state(self, key_ids: Collection[str], bound_to: str, state: Any) -> Any:
        """A state for a snapshot, readable while all these keys exist; FORGOTTEN if one is gone already.

        `key_ids` are those of all events that the state was made of; without any it stays as it is.
        `bound_to` says what the state belongs to: it can be read for that only.
        """
        if not key_ids:
            if is_sealed_state(state):
                raise InvalidInputError(
                    f"a state must not be a dict of the one key {STATE_MARK!r}: rename it"
                )
            return state
        key = await self._state_key(key_ids)
        if key is None:
            return FORGOTTEN
        try:
            text = encode(state)
        except ValueError as exc:
            raise InvalidInputError(f"the state of {bound_to} cannot be sealed: {exc}") from exc
        data = encrypt(key, text.encode(), ("state", bound_to))
        return {STATE_MARK: {"keys": sorted(set(key_ids)), "data": b64encode(data).decode()}}

    async def unseal_state(self, bound_to: str, sealed: Any) -> Any:
        """The state, or FORGOTTEN if one of its keys is gone; raises PersonalDataError."""
        key_ids = state_key_ids(bound_to, sealed)
        key = await self._state_key(key_ids)
        if key is None:
            return FORGOTTEN
        try:
            data = b64decode(sealed[STATE_MARK]["data"], validate=True)
            return decode(decrypt(key, data, ("state", bound_to)).decode())
        except (ValueError, TypeError, KeyError) as exc:
            raise PersonalDataError(bound_to, "$", str(exc)) from exc

    async def still_known(self, key_ids: Collection[str]) -> bool:
        """True if none of these keys is gone: what was read with them may still be shown."""
        return not key_ids or len(await self._keys.find(key_ids)) == len(set(key_ids))

    async def _state_key(self, key_ids: Collection[str]) -> bytes | None:
        keys = await self._keys.find(key_ids)
        wanted = sorted(set(key_ids))
        return combined_key(keys[each].secret for each in wanted) if len(keys) == len(wanted) else None


def is_sealed_state(value: object) -> bool:
    """True for what `seal_state` has made."""
    return isinstance(value, dict) and value.keys() == {STATE_MARK}


def state_key_ids(bound_to: str, sealed: Any) -> list[str]:
    """The ids of the keys that a sealed state needs; raises PersonalDataError."""
    content = sealed[STATE_MARK] if is_sealed_state(sealed) else None
    key_ids = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(key_ids, list) or not key_ids or not all(isinstance(each, str) for each in key_ids):
        raise PersonalDataError(bound_to, "$", "it is no sealed state")
    return key_ids


@dataclass(frozen=True, slots=True)
class _Mark:
    """A dict with the key MARK, and where it stands."""

    holder: Any
    key: str | int
    path: Path
    found: dict[str, Any]

    @property
    def shown_path(self) -> str:
        """As in "$.lines[0].name"."""
        return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)


class _Document:
    """A copy of a payload in which each mark can be replaced; the payload itself is only read."""

    def __init__(self, event_id: str, payload: Any) -> None:
        self.event_id = event_id
        self._root = [payload]
        self.marks = list(_copied(self._root))

    @property
    def payload(self) -> Any:
        return self._root[0]

    def place(self, mark: _Mark) -> Path:
        """What the encrypted value is bound to."""
        return "event", self.event_id, *mark.path

    def error(self, mark: _Mark, reason: object) -> PersonalDataError:
        return PersonalDataError(f"event {self.event_id}", mark.shown_path, str(reason))


def _copied(root: list[Any]) -> Iterator[_Mark]:
    """Replace all dicts and lists under `root` by copies; the marks that stand in them."""
    todo: list[tuple[Any, str | int, Path]] = [(root, 0, ())]
    while todo:
        holder, key, path = todo.pop()
        value = holder[key]
        if isinstance(value, dict):
            if MARK in value:
                yield _Mark(holder, key, path, value)
            else:
                holder[key] = copy = dict(value)
                todo += [(copy, name, (*path, name)) for name in copy]
        elif isinstance(value, list):
            holder[key] = items = list(value)
            todo += [(items, index, (*path, index)) for index in range(len(items))]


def _open_content(mark: _Mark, document: _Document) -> dict[str, Any]:
    content = mark.found[MARK]
    if len(mark.found) != 1 or not is_open_mark(content):
        raise _reserved(mark, document)
    if "problem" in content:
        raise InvalidInputError(f"event {document.event_id}, {mark.shown_path}: {content['problem']}")
    for _ in _copied([content["value"]]):
        raise _reserved(mark, document)
    return dict(content)


def _reserved(mark: _Mark, document: _Document) -> InvalidInputError:
    return InvalidInputError(
        f"event {document.event_id}, {mark.shown_path}: the key {MARK!r} is reserved in events with personal "
        "fields; rename it"
    )


def _sealed(
    document: _Document, contents: Sequence[Mapping[str, Any]], keys: Mapping[str, DataKey]
) -> Sealed:
    used: set[str] = set()
    for mark, content in zip(document.marks, contents, strict=True):
        key = keys[content["subject"]]
        used.add(key.key_id)
        try:
            text = encode(content["value"])
        except ValueError as exc:
            raise InvalidInputError(f"event {document.event_id}, {mark.shown_path}: {exc}") from exc
        data = encrypt(key.secret, text.encode(), document.place(mark))
        stored = {"key": key.key_id, "forgotten": content["forgotten"], "data": b64encode(data).decode()}
        mark.holder[mark.key] = {MARK: stored}
    return Sealed(document.payload, tuple(sorted(used)))


def _sealed_content(mark: _Mark, document: _Document) -> dict[str, Any]:
    content = mark.found[MARK]
    if (
        len(mark.found) != 1
        or not isinstance(content, dict)
        or content.keys() != {"key", "forgotten", "data"}
    ):
        raise document.error(mark, "what stands there was not encrypted by a Sealer")
    if not isinstance(content["key"], str) or not isinstance(content["data"], str):
        raise document.error(mark, "what stands there was not encrypted by a Sealer")
    return content


def _unsealed(
    document: _Document, contents: Sequence[Mapping[str, Any]], keys: Mapping[str, DataKey]
) -> Unsealed:
    used: set[str] = set()
    forgotten = False
    for mark, content in zip(document.marks, contents, strict=True):
        key = keys.get(content["key"])
        if key is None:
            forgotten = True
            mark.holder[mark.key] = content["forgotten"]
        else:
            used.add(key.key_id)
            mark.holder[mark.key] = _value(key, content["data"], mark, document)
    return Unsealed(document.payload, tuple(sorted(used)), forgotten)


def _value(key: DataKey, data: str, mark: _Mark, document: _Document) -> Any:
    try:
        return decode(decrypt(key.secret, b64decode(data, validate=True), document.place(mark)).decode())
    except ValueError as exc:
        raise document.error(mark, exc) from exc
