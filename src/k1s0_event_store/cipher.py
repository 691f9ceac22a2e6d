"""Encryption: AES-GCM bound to a place, and keys made of other keys. `signing.py` needs cryptography too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from secrets import token_bytes
from typing import Final

import pydantic

from k1s0_event_store.exceptions import ConfigurationError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_LEAST_PYDANTIC: Final = (2, 12)
"""Before, a field of a TypedDict inside a model was shown the model: it would take the wrong subject."""


def check_available() -> None:
    """Raise ConfigurationError where the packages that personal data needs are missing or too old."""
    found = tuple(map(int, pydantic.VERSION.split(".")[:2]))
    if find_spec("cryptography") is None or found < _LEAST_PYDANTIC:
        raise ConfigurationError(
            "personal data needs cryptography and pydantic 2.12 or later: "
            "pip install 'k1s0-event-store[personal]'"
        )


def new_key() -> bytes:
    """A random key."""
    return token_bytes(KEY_BYTES)


def encrypt(key: bytes, plain: bytes, place: Sequence[str | int]) -> bytes:
    """`plain` with a random nonce in front; it can be read with this key and for this place only."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _bound_to(place))


def decrypt(key: bytes, sealed: bytes, place: Sequence[str | int]) -> bytes:
    """What `encrypt` was given; raises ValueError for a changed text, another key or another place."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, rest, _bound_to(place))
    except (InvalidTag, ValueError) as exc:
        raise ValueError("it was changed, belongs somewhere else or to another key") from exc


def combined_key(keys: Iterable[bytes]) -> bytes:
    """A key that nobody has who lacks one of `keys`; their order matters."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derivation = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"k1s0-event-store state")
    return derivation.derive(b"".join(keys))


def _bound_to(place: Sequence[str | int]) -> bytes:
    """JSON, in which ["a", "b"], ["ab"] and [1], ["1"] differ."""
    return json.dumps(list(place)).encode()
