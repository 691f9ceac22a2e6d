"""Personal fields of events: encrypted when they are stored, read as long as nobody is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from k1s0_event_store.envelope import EventEnvelope, changed
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.metadata import PERSONAL_KEYS
from k1s0_event_store.sealer import Sealed, Sealer, Unsealed


async def seal(
    sealer: Sealer, envelopes: Sequence[EventEnvelope], is_personal: Callable[[str], bool]
) -> list[EventEnvelope]:
    """The envelopes with what stands in the open marks of personal ones encrypted."""
    personal = [envelope for envelope in envelopes if is_personal(envelope.event_type)]
    sealed = await sealer.seal(_items(personal)) if personal else []
    return _replaced(envelopes, personal, sealed)


async def unseal(sealer: Sealer | None, envelopes: Sequence[EventEnvelope]) -> Sequence[EventEnvelope]:
    """The envelopes as they were before `seal`, but for what is forgotten; raises PersonalDataError."""
    sealed = [envelope for envelope in envelopes if PERSONAL_KEYS in envelope.metadata]
    if not sealed:
        return envelopes
    if sealer is None:
        raise ConfigurationError(
            f"version {sealed[0].version} of {sealed[0].stream_id} holds personal data: give keys=..., the "
            "store of its keys"
        )
    return _replaced(envelopes, sealed, await sealer.unseal(_items(sealed)))


def keys_of(envelope: EventEnvelope) -> frozenset[str]:
    """The keys that an event was read with."""
    return frozenset(envelope.metadata.get(PERSONAL_KEYS, ()))


def _items(envelopes: Sequence[EventEnvelope]) -> list[tuple[str, Any]]:
    return [(str(envelope.event_id), envelope.payload) for envelope in envelopes]


def _replaced(
    envelopes: Sequence[EventEnvelope],
    changing: Sequence[EventEnvelope],
    found: Sequence[Sealed | Unsealed],
) -> list[EventEnvelope]:
    """`envelopes`, those of `changing` with the payloads and keys that were found for them."""
    new = {
        id(envelope): changed(envelope, payload=one.payload, metadata=_named(envelope, one.key_ids))
        for envelope, one in zip(changing, found, strict=True)
    }
    return [new.get(id(envelope), envelope) for envelope in envelopes]


def _named(envelope: EventEnvelope, key_ids: Sequence[str]) -> dict[str, object]:
    rest = {name: value for name, value in envelope.metadata.items() if name != PERSONAL_KEYS}
    return {**rest, PERSONAL_KEYS: list(key_ids)} if key_ids else rest
