"""Signatures: Ed25519 keys, kept as PEM, and what is signed with them. Needs the extra `signing`."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Self

from k1s0_event_store.exceptions import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class PublicKey:
    """Tells whether something was signed with the private key that belongs to it."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Raises ConfigurationError for anything but a public Ed25519 key."""
        _check_available()
        from cryptography.exceptions import InternalError, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm, InternalError) as exc:
            raise ConfigurationError("this is no public key in PEM") from exc
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError("this is a public key of another kind: Ed25519 is needed")
        return cls(key)

    @property
    def id(self) -> str:
        """What tells keys apart: the beginning of the SHA-256 of its 32 bytes."""
        return sha256(self._key.public_bytes_raw()).hexdigest()[:16]

    def pem(self) -> bytes:
        """For a file that everybody may read."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def has_signed(self, signature: bytes, data: bytes) -> bool:
        """True if `data` was signed with the private key."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """Signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def new(cls) -> Self:
        """A random key."""
        _check_available()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Raises ConfigurationError for anything but a private Ed25519 key without a password."""
        _check_available()
        from cryptography.exceptions import InternalError, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, password=None)
        # InternalError: a key of another kind that has a wrong length.
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as exc:
            raise ConfigurationError("this is no private key in PEM, or it needs a password") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError("this is a private key of another kind: Ed25519 is needed")
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """The key that tells what this one has signed."""
        return PublicKey(self._key.public_key())

    def pem(self) -> bytes:
        """For a file that nobody else may read."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`."""
        return self._key.sign(data)


def _check_available() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ImportError as exc:
        raise ConfigurationError(
            "signing needs cryptography: pip install 'k1s0-event-store[signing]'"
        ) from exc
