"""A cache of recently used aggregates, for one process: what was loaded is kept, what is new is read.

States are kept pickled: their size is known, and nothing that is handed out is ever shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from uuid import UUID

from k1s0_event_store.exceptions import ConfigurationError, shown

_ENTRY_BYTES = 500
"""What an entry needs besides its state, about."""


@dataclass(frozen=True, slots=True)
class CachedAggregate:
    """A pickled state after the stored event `event_id` at `version`."""

    state: bytes
    version: int
    event_id: UUID
    keys: frozenset[str] = frozenset()
    """Keys of the personal data in it."""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.state) + _ENTRY_BYTES


class AggregateCache:
    """The aggregates used last, up to `max_bytes` in all. One may be given to many repositories.

    Being out of date does no harm: repositories read the events after a cached version each time,
    and make sure that the cached one still stands in the stream.
    """

    def __init__(self, max_bytes: int = 64_000_000) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise ConfigurationError(f"max_bytes must be a number of bytes from 1 on, not {shown(max_bytes)}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Hashable, CachedAggregate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> CachedAggregate | None:
        """The entry, which counts as used."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, entry: CachedAggregate) -> None:
        """Keep `entry`, unless a later version is there; what was not used for longest makes room."""
        known = self._entries.get(key)
        if entry.size > self.max_bytes or (known is not None and known.version > entry.version):
            return
        self.drop(key)
        self._entries[key] = entry
        self.bytes += entry.size
        while self.bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size

    def drop(self, key: Hashable) -> None:
        """Forget one entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0
