"""What clients tried to store, what they were told, and what may be concluded from that."""

from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from k1s0_event_store import EventEnvelope, StreamId

from .lines import Lines, read_lines

AGGREGATE = "account"


def stream(name):
    return StreamId(AGGREGATE, name)


@dataclass(frozen=True)
class Batch:
    """Events for one commit, `size` for each stream. The same batch has the same event ids anywhere."""

    name: str
    kind: str
    streams: tuple[str, ...]
    size: int
    expected: int | None = None

    @property
    def total(self):
        return self.size * len(self.streams)

    def events(self, name):
        """Those for one of the streams; they know their place in the whole batch."""
        start = self.streams.index(name) * self.size
        return [self._event(name, number) for number in range(start + 1, start + self.size + 1)]

    def _event(self, name, number):
        payload = {"batch": self.name, "number": number}
        return EventEnvelope(
            stream(name), "Changed", payload, event_id=uuid5(NAMESPACE_URL, f"{self.name}/{number}")
        )


class Journal:
    """What one client does, line by line."""

    def __init__(self, path):
        self._lines = Lines(path)

    def tries(self, batch):
        self._lines.write("tries", batch.name, batch.kind, batch.streams, batch.size, batch.expected)

    def knows_nothing_of(self, batch):
        """Its answer was lost."""
        self._lines.write("unknown", batch.name)

    def acknowledges(self, batch, version):
        """It is stored, and ends with this version of its last stream."""
        self._lines.write("acknowledged", batch.name, version)

    def refuses(self, batch):
        """It is not stored, and never will be."""
        self._lines.write("refused", batch.name)

    def close(self):
        self._lines.close()


@dataclass
class Claims:
    """What all journals say together."""

    tried: dict[str, Batch] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, paths):
        claims = cls()
        for path in paths:
            for what, name, *more in read_lines(path):
                getattr(claims, f"_{what}")(name, *more)
        return claims

    @property
    def unsettled(self):
        """Batches that may be stored or not."""
        return [
            batch
            for name, batch in self.tried.items()
            if name not in self.acknowledged and name not in self.refused
        ]

    def _tries(self, name, kind, streams, size, expected):
        self.tried[name] = Batch(name, kind, tuple(streams), size, expected)

    def _unknown(self, name):
        self.unknown.append(name)

    def _acknowledged(self, name, version):
        self.acknowledged[name] = version

    def _refused(self, name):
        self.refused.add(name)
