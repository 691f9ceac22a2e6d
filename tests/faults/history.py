"""Histories: what clients asked for, what they were answered, and when. linearizability.py judges them.

Times are those of one monotonic clock, which on Linux all processes share. Clients do one thing at a time.
"""

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from time import monotonic_ns
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from k1s0_event_store import ConcurrencyError, EventStoreError, OutcomeUnknownError


class Outcome(Enum):
    """What an append was told."""

    STORED = "stored"
    REFUSED = "refused"
    NOT_STORED = "not stored"
    """It failed, or was rolled back, in a way that promises that nothing is there."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Append:
    """A batch for one stream. `version` is the answer: the new version, or the one that it was refused at.

    Others may see it from `visible` on: in a transaction, when the commit was asked for. What was told
    nothing has no end. The same events again are another attempt of the same batch.
    """

    stream: Any
    events: tuple[Any, ...]
    expected: Any
    outcome: Outcome
    version: int | None
    invoked: float
    returned: float
    visible: float


@dataclass(frozen=True)
class Read:
    """A look at a stream: its events with their versions, only its version, or only that there are some."""

    stream: Any
    version: int
    invoked: float
    returned: float
    events: tuple[tuple[int, Any], ...] | None = None
    at_least: bool = False


@dataclass(frozen=True)
class Page:
    """Events that the feed gave to a reader. `complete`: that was all that was committed at the call."""

    reader: Any
    events: tuple[Any, ...]
    complete: bool
    invoked: float
    returned: float


@dataclass
class History:
    """All of it; it ends with a load of every stream, and every reader at its end."""

    appends: list[Append] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    def summary(self) -> Counter:
        """How much there is of what."""
        counts = Counter(append.outcome.value for append in self.appends)
        counts["events in pages"] = sum(len(page.events) for page in self.pages)
        return counts + Counter(reads=len(self.reads), pages=len(self.pages))


class Client:
    """A store whose calls are recorded; it answers None where the store raises an error of its own."""

    def __init__(self, history, store):
        self.history, self.store = history, store

    async def append(self, stream_id, events, expected=None):
        return await self._append(self.history.appends, stream_id, events, expected)

    async def _append(self, kept, stream_id, events, expected):
        invoked, returned = monotonic_ns(), inf
        outcome, version = Outcome.UNKNOWN, None  # also where it is cancelled
        try:
            version = await self.store.append(stream_id, events, expected)
            outcome, returned = Outcome.STORED, monotonic_ns()
        except ConcurrencyError as error:
            outcome, returned = Outcome.REFUSED, monotonic_ns()
            version = error.actual_version
        except OutcomeUnknownError:
            pass
        except EventStoreError:
            outcome = Outcome.NOT_STORED
        finally:
            ids = tuple(event.event_id for event in events)
            kept.append(Append(stream_id, ids, expected, outcome, version, invoked, returned, invoked))
        return version if outcome is Outcome.STORED else None

    async def load(self, stream_id):
        return await self._read(stream_id, self.store.load(stream_id), lambda events: Read(
            stream_id, len(events), 0, 0, tuple((event.version, event.event_id) for event in events)
        ))  # fmt: skip

    async def current_version(self, stream_id):
        return await self._read(
            stream_id, self.store.current_version(stream_id), lambda version: Read(stream_id, version, 0, 0)
        )

    async def exists(self, stream_id):
        return await self._read(
            stream_id,
            self.store.exists(stream_id),
            lambda found: Read(stream_id, int(found), 0, 0, at_least=found),
        )

    async def _read(self, stream_id, call, made):
        invoked = monotonic_ns()
        try:
            answer = await call
        except EventStoreError:
            return None
        self.history.reads.append(replace(made(answer), invoked=invoked, returned=monotonic_ns()))
        return answer

    @asynccontextmanager
    async def transaction(self, commit=True):
        """A client inside a transaction, which is committed at the end, or rolled back."""
        async with self.store.bind.connect() as connection:
            joined = _Joined(self.history, self.store.within(connection))
            yield joined
            invoked = monotonic_ns()
            outcome, returned = (Outcome.UNKNOWN if commit else Outcome.NOT_STORED), inf
            try:
                if commit:
                    await connection.commit()
                    outcome, returned = Outcome.STORED, monotonic_ns()
                else:
                    await connection.rollback()
            except SQLAlchemyError:
                pass  # the connection was lost: nobody knows
            finally:
                self.history.appends += [
                    replace(append, outcome=outcome, returned=returned, visible=invoked)
                    for append in joined.pending
                ]


class _Joined(Client):
    """In a transaction. What it has appended is stored with the commit; a stream is touched once."""

    def __init__(self, history, store):
        super().__init__(history, store)
        self.pending = []

    async def append(self, stream_id, events, expected=None):
        kept = []
        version = await self._append(kept, stream_id, events, expected)
        for append in kept:
            (self.pending if append.outcome is Outcome.STORED else self.history.appends).append(append)
        return version


class Reader:
    """Follows the feed of a store, after the events that were there before."""

    def __init__(self, history, store, name, limit, cursor):
        self.history, self.store, self.name, self.limit, self.cursor = history, store, name, limit, cursor

    async def read(self):
        """Read what there is."""
        more = True
        while more:
            invoked = monotonic_ns()
            page = await self.store.read_page(self.cursor, self.limit)
            events = tuple(event.event_id for event in page.events)
            self.history.pages.append(Page(self.name, events, not page.more, invoked, monotonic_ns()))
            self.cursor, more = page.cursor, page.more
