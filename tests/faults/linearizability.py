"""Judges histories: streams are registers of versions, and each reader of the feed has one causal order.

A stream at version n can only go to n + k, by an append of k events, so the versions that were answered
name the one order in which everything of a stream can have happened. It is left to see that each answer is
right in this order, and that the order can be kept between the times of call and answer: it can, if nothing
had its answer before something that comes earlier in the order was even asked for. That takes one walk
(in general the question is NP-complete). The feed is judged in the same walk.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import inf

from k1s0_event_store.outcome import is_met

from .history import Outcome

MAYBE = (Outcome.STORED, Outcome.UNKNOWN)


@dataclass(frozen=True)
class Fault:
    """What cannot have happened, and where."""

    kind: str
    what: str

    def __str__(self):
        return f"{self.kind}: {self.what}"


def check(history):
    """Everything that is wrong with the history."""
    streams = defaultdict(lambda: ([], []))
    for append in history.appends:
        streams[append.stream][0].append(append)
    for read in history.reads:
        streams[read.stream][1].append(read)
    found, judged = [], []
    for stream, (appends, reads) in streams.items():
        judge = _Stream(stream, appends, reads)
        found += judge.faults()
        judged.append(judge)
    return found + list(_feed_faults(judged, history))


@dataclass(frozen=True)
class _Batch:
    """Events that belong together, and all attempts to append them."""

    events: tuple
    attempts: list

    @property
    def invoked(self):
        return min(append.invoked for append in self.attempts)

    @property
    def visible(self):
        return min((a.visible for a in self.attempts if a.outcome in MAYBE), default=inf)

    @property
    def answered(self):
        """When somebody knew that it is stored."""
        return min((a.returned for a in self.attempts if a.outcome is Outcome.STORED), default=inf)


class _Stream:
    """The order of one stream, from the longest look at it."""

    def __init__(self, stream, appends, reads):
        self.stream, self.appends, self.reads = stream, appends, reads
        looks = [read.events for read in reads if read.events is not None]
        self.log = max(looks, key=len, default=())
        self.ids = [event for _, event in self.log]
        self.place = {event: number for number, event in enumerate(self.ids, 1)}
        attempts = defaultdict(list)
        for append in appends:
            attempts[append.events].append(append)
        self.batches = [_Batch(events, group) for events, group in attempts.items()]

    def faults(self):
        wrong = [*self._wrong_log(), *self._wrong_batches(), *self._wrong_refusals()]
        return wrong or list(self._wrong_times())

    def _fault(self, kind, what):
        return Fault(kind, f"{self.stream}: {what}")

    def _wrong_log(self):
        if [version for version, _ in self.log] != list(range(1, len(self.log) + 1)):
            yield self._fault("not contiguous", f"versions {[version for version, _ in self.log]}")
        for event in (event for event, times in Counter(self.ids).items() if times > 1):
            yield self._fault("stored twice", f"{event}")
        for read in self.reads:
            if read.events is not None and read.events != self.log[: len(read.events)]:
                yield self._fault("no prefix", f"{read}")
        known = {event for batch in self.batches for event in batch.events}
        for event in self.place.keys() - known:
            yield self._fault("from nowhere", f"{event}")

    def _wrong_batches(self):
        for batch in self.batches:
            there = [event for event in batch.events if event in self.place]
            first = self.place.get(batch.events[0], 0)
            is_whole = tuple(self.ids[first - 1 : first - 1 + len(batch.events)]) == batch.events
            outcomes = {attempt.outcome for attempt in batch.attempts}
            if Outcome.STORED in outcomes and not there:
                yield self._fault("lost", f"{batch}")
            elif there and not is_whole:
                yield self._fault("torn", f"{batch}")
            elif there and not outcomes.intersection(MAYBE):
                yield self._fault("stored against its answer", f"{batch}")
            elif there:
                yield from self._wrong_answers(batch, first)

    def _wrong_answers(self, batch, first):
        for attempt in batch.attempts:
            answer = first + len(batch.events) - 1
            if attempt.outcome is Outcome.STORED and attempt.version != answer:
                yield self._fault("wrong answer", f"at {answer}: {attempt}")
            if attempt.outcome in MAYBE and not is_met(attempt.expected, first - 1):
                yield self._fault("not at the expected version", f"after {first - 1}: {attempt}")

    def _wrong_refusals(self):
        for append in self.appends:
            if append.outcome is Outcome.REFUSED and (
                append.expected is None
                or (append.version is not None and is_met(append.expected, append.version))
            ):
                yield self._fault("refused without a reason", f"{append}")

    def _wrong_times(self):
        """One walk along the order: each thing must end after all that comes before it began.

        Those that see the same version can be put in any order among themselves.
        """
        changes, looks = self._changes(), self._looks()
        if strange := looks.keys() - changes.keys():
            yield self._fault("never at this version", f"{sorted(strange)}")
        latest = -inf
        for version in sorted(changes):
            began, ended = changes[version]
            latest = max(latest, began)
            if ended < latest:
                yield self._fault("against time", f"it came to version {version} too late")
            asked = latest
            for invoked, returned in looks.get(version, ()):
                if returned < latest:
                    yield self._fault("against time", f"version {version} was seen too early")
                asked = max(asked, invoked)
            latest = asked

    def _changes(self):
        """When the stream came to each of its versions: not before, not after."""
        found = {0: (-inf, inf)}
        for batch in self.batches:
            if batch.events[0] in self.place:
                version = self.place[batch.events[0]] + len(batch.events) - 1
                found[version] = batch.visible, batch.answered
        first = min(found.keys() - {0}, default=None)
        seen = min((read.returned for read in self.reads if read.at_least), default=inf)
        if first is not None:
            found[first] = found[first][0], min(found[first][1], seen)
        return found

    def _looks(self):
        """When somebody saw each version, or was refused because of it."""
        found = defaultdict(list)
        for read in self.reads:
            if not read.at_least:
                found[read.version].append((read.invoked, read.returned))
            elif not self.log:
                found[1].append((read.invoked, read.returned))
        for append in self.appends:
            if append.outcome is Outcome.REFUSED and append.version is not None:
                found[append.version].append((append.invoked, append.returned))
        return found


@dataclass
class _Event:
    """What is known of a committed event."""

    stream: object
    version: int
    invoked: float
    visible: float
    known: float
    """When somebody first knew that it is there."""


def _feed_faults(streams, history):
    events = _committed(streams, history)
    readers = defaultdict(list)
    for page in history.pages:
        readers[page.reader].append(page)
    for reader, pages in readers.items():
        for kind, what in (*_wrong_order(pages, events), *_left_out(pages, events)):
            yield Fault(kind, f"reader {reader}: {what}")


def _committed(streams, history):
    events = {}
    for stream in streams:
        for batch in stream.batches:
            for event in batch.events:
                if event in stream.place:
                    version = stream.place[event]
                    events[event] = _Event(
                        stream.stream, version, batch.invoked, batch.visible, batch.answered
                    )
        for read in stream.reads:
            _know(events, (event for _, event in read.events or ()), read.returned)
    for page in history.pages:
        _know(events, page.events, page.returned)
    return events


def _know(events, seen, when):
    for event in seen:
        if event in events:
            events[event].known = min(events[event].known, when)


def _wrong_order(pages, events):
    given, versions, latest = set(), {}, -inf
    for page in pages:
        for name in page.events:
            event = events.get(name)
            if name in given:
                yield "given twice", name
            elif event is None:
                yield "given and not committed", name
            else:
                if page.returned < event.visible:
                    yield "given before its commit", name
                if event.version != versions.get(event.stream, 0) + 1:
                    yield "out of order", f"version {event.version} of {event.stream}"
                if event.known < latest:
                    yield "before its cause", f"{name} was known before something given earlier was begun"
                versions[event.stream] = event.version
                latest = max(latest, event.invoked)
            given.add(name)


def _left_out(pages, events):
    """What was known to be committed when a page that says that it is the last one was asked for."""
    names = sorted(events, key=lambda name: events[name].known)
    known = [events[name].known for name in names]
    given, checked = set(), 0
    for page in pages:
        given.update(page.events)
        if page.complete:
            upto = bisect_left(known, page.invoked)
            for name in names[checked:upto]:
                if name not in given:
                    yield "left out", name
            checked = max(checked, upto)
