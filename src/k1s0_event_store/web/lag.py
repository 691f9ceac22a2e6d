"""How far subscriptions were behind lately: kept in memory, for as long as this process lives."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from k1s0_event_store.subscription import SubscriptionStatus

MOST_SAMPLES: Final = 360
_MOST_SUBSCRIPTIONS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Lag:
    """How many events a subscription was behind, and the age of the oldest of them in seconds."""

    at: datetime
    events: int
    seconds: float


class LagHistory:
    """The last samples of each version of a subscription; there are none from times when nobody looked."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], deque[Lag]] = {}

    def add(self, statuses: Sequence[SubscriptionStatus]) -> None:
        """Remember how things stand now, and forget subscriptions that are gone."""
        now = datetime.now(UTC)
        kept = statuses[:_MOST_SUBSCRIPTIONS]
        self._samples = {
            (status.name, status.version): self._samples.get(
                (status.name, status.version), deque(maxlen=MOST_SAMPLES)
            )
            for status in kept
        }
        for status in kept:
            self._samples[status.name, status.version].append(Lag(now, status.behind, status.behind_seconds))

    def of(self, status: SubscriptionStatus) -> Sequence[Lag]:
        """Samples of one version, oldest first."""
        return list(self._samples.get((status.name, status.version), ()))
