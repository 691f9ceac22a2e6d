"""Keys that personal data is encrypted with: one per subject, and the contract of what keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self
from uuid import uuid4

from k1s0_event_store.cipher import KEY_BYTES, check_available, decrypt, encrypt, new_key
from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.envelope import check_name
from k1s0_event_store.exceptions import ConfigurationError, CorruptDataError, InvalidInputError, shown


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key of one subject. Its id stands in the events; the secret is shown nowhere."""

    key_id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != KEY_BYTES:
            raise InvalidInputError(f"the secret of key {self.key_id} must be {KEY_BYTES} bytes")


def new_data_key() -> DataKey:
    """A random key with an id of its own."""
    return DataKey(str(uuid4()), new_key())


class KeyStore(AsyncClosing, ABC):
    """Keeps the keys of subjects: the people (or whoever else) that personal data is about.

    A subject is a text of 1 to 255 characters and has at most one key. After `close` every call
    raises StoreClosedError.
    """

    @abstractmethod
    def within(self, session: Any) -> Self:
        """The same store inside the caller's transaction: keys come and go with its commit.

        Stores without transactions answer with themselves.
        """

    @abstractmethod
    async def for_subjects(self, subjects: Collection[str]) -> Mapping[str, DataKey]:
        """The key of each subject, made where there is none: callers that race get the same one.

        Raises InvalidInputError for what is no subject.
        """

    @abstractmethod
    async def find(self, key_ids: Collection[str]) -> Mapping[str, DataKey]:
        """The keys with these ids, by id; those that are gone are left out."""

    @abstractmethod
    async def forget(self, subject: str) -> bool:
        """Delete the key of a subject for good; False if there was none.

        What was encrypted with it can never be read again. A later event of the subject gets a new
        key with a new id.
        """


def check_subjects(subjects: object) -> list[str]:
    """The subjects, each once; raises InvalidInputError."""
    return list(dict.fromkeys(map(check_subject, _check_collection(subjects, "subjects"))))


def check_subject(subject: object) -> str:
    """Return `subject` if it is one, else raise InvalidInputError."""
    return check_name(subject, "a subject")


def check_key_ids(key_ids: object) -> list[str]:
    """The ids, each once; raises InvalidInputError."""
    return list(dict.fromkeys(_check_collection(key_ids, "key_ids")))


def _check_collection(given: object, what: str) -> Collection[Any]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise InvalidInputError(f"{what} must be a list or set of strings, not {type(given).__name__}")
    return given


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WrappingKeys:
    """Keys by name that the data keys are encrypted with where they are stored.

    Each has 32 bytes (`secrets.token_bytes(32)`) and is kept outside the database. `current` names
    the one for new data keys; the others are there to read older ones until `rotate` has been run.

    Raises ConfigurationError.
    """

    keys: Mapping[str, bytes]
    current: str

    def __post_init__(self) -> None:
        check_available()
        if not isinstance(self.keys, Mapping):
            raise ConfigurationError(
                f"keys must be a mapping of names to bytes, not {type(self.keys).__name__}"
            )
        for name, secret in self.keys.items():
            _check_wrapping_key(name, secret)
        if not isinstance(self.current, str) or self.current not in self.keys:
            raise ConfigurationError(
                f"there is no wrapping key {shown(self.current)}: give it in keys, or name another"
            )
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={sorted(self.keys)}, current={self.current!r})"

    def wrap(self, subject: str, key: DataKey) -> bytes:
        """The secret of a key under the current wrapping key, good for this subject and id only."""
        return encrypt(self.keys[self.current], key.secret, ("key", key.key_id, subject))

    def unwrap(self, name: str, subject: str, key_id: str, wrapped: bytes) -> DataKey:
        """The key that was wrapped under `name`; raises ConfigurationError, CorruptDataError."""
        secret = self.keys.get(name)
        if secret is None:
            raise ConfigurationError(
                f"data keys are wrapped with {name!r}, which is not among {sorted(self.keys)}: add it to the "
                "wrapping keys, and take it out only after rotate()"
            )
        try:
            return DataKey(key_id, decrypt(secret, wrapped, ("key", key_id, subject)))
        except ValueError as exc:
            raise CorruptDataError(
                f"the data key {key_id} cannot be unwrapped with {name!r}: {exc}; "
                "give the wrapping key the bytes that it had when the data key was made"
            ) from exc


def _check_wrapping_key(name: object, secret: object) -> None:
    try:
        check_name(name, "the name of a wrapping key")
    except InvalidInputError as exc:
        raise ConfigurationError(str(exc)) from None
    if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        raise ConfigurationError(
            f"the wrapping key {shown(name)} must be {KEY_BYTES} bytes; make one with "
            f"secrets.token_bytes({KEY_BYTES})"
        )
