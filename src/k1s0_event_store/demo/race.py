"""Two writers who both saw the same version of one stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from k1s0_event_store.envelope import EventEnvelope, EventVersion, StreamId
from k1s0_event_store.exceptions import ConcurrencyError
from k1s0_event_store.store import EventStore

RACE = StreamId("demo", "race")
"""A stream of its own: every run adds one event to it, and none to the flights."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How a writer came out: the new version, or the refusal."""

    writer: str
    outcome: EventVersion | ConcurrencyError


async def race(store: EventStore) -> list[Finish]:
    """Both append with the same expected version at the same time; one of them is refused."""
    version = await store.current_version(RACE)
    return list(await asyncio.gather(*(_write(store, name, version) for name in ("Ada", "Grace"))))


async def _write(store: EventStore, writer: str, version: EventVersion) -> Finish:
    event = EventEnvelope(RACE, "GateAssigned", {"by": writer})
    try:
        return Finish(writer, await store.append(RACE, [event], expected_version=version))
    except ConcurrencyError as refusal:
        return Finish(writer, refusal)
