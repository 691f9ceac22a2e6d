"""Events that have their versions, by stream: what every backend's import starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeAlias, TypeVar
from uuid import UUID

from k1s0_event_store.envelope import MAX_VERSION, EventEnvelope, StreamId, changed
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    InvalidEventError,
    InvalidInputError,
    LimitExceededError,
)
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits
from k1s0_event_store.texts import Texts

Identity: TypeAlias = tuple[UUID, str]
"""Id and type of an event: what the one that is stored and the one that is given must share."""
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Run:
    """Events of one stream whose versions follow one another from `first` on.

    `places` tells where in the batch each of them stands.
    """

    stream_id: StreamId
    first: int
    events: list[EventEnvelope]
    places: list[int]

    @property
    def last(self) -> int:
        """The version of the last event; `first` - 1 if there is none."""
        return self.first + len(self.events) - 1

    def without(self, stored: Sequence[Identity]) -> Run:
        """What follows the events that stand in the stream from `first` on.

        Raises InvalidEventError where another one stands there.
        """
        for event, place, there in zip(self.events, self.places, stored, strict=False):
            if (event.event_id, event.event_type) != there:
                raise InvalidEventError(
                    self.stream_id,
                    place,
                    f"version {event.version} of {self.stream_id} is {event.event_type} {event.event_id}, "
                    f"but {there[1]} {there[0]} in the store",
                )
        known = len(stored)
        return Run(self.stream_id, self.first + known, self.events[known:], self.places[known:])

    def require(self, version: int) -> None:
        """Raise InvalidEventError where the stream at `version` has not come to the first of the events."""
        if version < self.first - 1:
            raise InvalidEventError(
                self.stream_id,
                self.places[0],
                f"version {self.first} of {self.stream_id} comes next, but the store has only {version}: "
                "import what comes before it first",
            )

    def unnumbered(self) -> list[EventEnvelope]:
        """The events as `append` takes them."""
        return [changed(event, version=0) for event in self.events]

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Refusals of an append of `unnumbered` come out as those of an import."""
        try:
            yield
        except InvalidEventError as exc:
            raise InvalidEventError(self.stream_id, self.places[exc.index], exc.reason) from exc
        except LimitExceededError as exc:
            place = None if exc.index is None else self.places[exc.index]
            raise LimitExceededError(exc.limit, exc.most, exc.actual, place) from exc
        except ConcurrencyError as exc:
            if exc.actual_version is not None:
                self.require(exc.actual_version)
            raise


def check_events(events: object, limits: Limits = DEFAULT_LIMITS) -> list[EventEnvelope]:
    """Return `events` as a list if they are envelopes and not too many, else raise InvalidInputError."""
    if isinstance(events, EventEnvelope) or not isinstance(events, Iterable):
        raise InvalidInputError(f"events must be a list of EventEnvelope, not {type(events).__name__}")
    batch = list(islice(events, limits.events + 1))
    limits.check_events(len(batch))
    for place, event in enumerate(batch):
        if not isinstance(event, EventEnvelope):
            raise InvalidInputError(f"event {place} must be an EventEnvelope, not {type(event).__name__}")
    return batch


def check_names(events: Sequence[EventEnvelope], runs: Iterable[Run], limits: Limits) -> None:
    """Raise LimitExceededError for a stream or an event type with a name that is too long."""
    for run in runs:
        limits.check_names((run.stream_id.aggregate_type, run.stream_id.aggregate_id))
    limits.check_names((event.event_type for event in events), each_of_an_event=True)


def runs_of(events: Iterable[EventEnvelope]) -> list[Run]:
    """`events` by stream; raises InvalidEventError for a version that does not follow the one before."""
    runs: dict[StreamId, Run] = {}
    run = None
    for place, event in enumerate(events):
        if run is None or event.stream_id is not run.stream_id:
            run = runs.get(event.stream_id)
            if run is None:
                run = runs[event.stream_id] = Run(event.stream_id, event.version, [], [])
        if event.version != run.first + len(run.events) or not event.version:
            raise InvalidEventError(run.stream_id, place, _misplaced(run, event))
        run.events.append(event)
        run.places.append(place)
    return list(runs.values())


def rows_of_runs(
    events: Sequence[EventEnvelope],
    texts: Texts,
    runs: Iterable[Run],
    begin: Callable[[StreamId], S],
    row: Callable[[S, int, UUID, str, str, str, datetime], R],
) -> Iterator[R]:
    """What is stored of those of `events` that stand in `runs`, in their order, each as `row` makes it.

    From what `begin` makes of the stream, version, id, type, payload and metadata as JSON, the time.
    """
    firsts = {run.stream_id: run.first for run in runs}
    begun: tuple[StreamId, S, int] | None = None
    for event, payload, metadata in zip(events, *texts, strict=True):
        if begun is None or event.stream_id is not begun[0]:
            stream_id = event.stream_id
            begun = stream_id, begin(stream_id), firsts.get(stream_id, MAX_VERSION + 1)
        _, stream, first = begun
        if event.version >= first:
            yield row(
                stream, event.version, event.event_id, event.event_type, payload, metadata, event.occurred_at
            )


def _misplaced(run: Run, event: EventEnvelope) -> str:
    if not event.version:
        return "has no version to be imported with; append it, or say which version it is"
    return f"version {event.version} of {run.stream_id} follows version {run.last}"
