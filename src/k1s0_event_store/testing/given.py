"""Given events, when something is asked for, then events: domain logic tested without a store.

given(Order, placed).when(lambda order: order.ship("T-1")).then(OrderShipped(tracking="T-1"))
given(cart, ItemAdded("tea")).when(CheckOut()).then_raises(NothingToPay, match="tea is free")
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar, overload

from k1s0_event_store.aggregates.aggregate import Aggregate, Decider
from k1s0_event_store.envelope import StreamId
from k1s0_event_store.events.registry import EventRegistry
from k1s0_event_store.exceptions import ConfigurationError, EventStoreError
from k1s0_event_store.jsontext import decode, encode
from k1s0_event_store.testing.difference import differences, event_differences

A = TypeVar("A", bound=Aggregate)
S = TypeVar("S")
C = TypeVar("C")
W = TypeVar("W")
W_contra = TypeVar("W_contra", contravariant=True)


@overload
def given(model: Decider[S, C], /, *history: Any, events: EventRegistry | None = None) -> Given[S, C]: ...


@overload
def given(
    model: type[A], /, *history: Any, id: str = "test-id", events: EventRegistry | None = None
) -> Given[A, Callable[[A], object]]: ...


def given(
    model: Any, /, *history: Any, id: str = "test-id", events: EventRegistry | None = None
) -> Given[Any, Any]:
    """A model to which `history` has happened: an aggregate class, called with `id`, or a Decider.

    With a registry as `events`, all events are turned into stored JSON and read back in between:
    AssertionError for one that cannot be stored, or does not come back as it was.
    """
    if not isinstance(model, Decider | type):
        raise ConfigurationError(f"given() needs an aggregate class or a Decider, not {model!r}")
    subject: _Subject[Any, Any] = _Functions(model) if isinstance(model, Decider) else _Class(model, id)
    return Given(subject, _read_back(events, history, "given event"), events)


@dataclass(frozen=True)
class Given(Generic[S, W]):
    """What has happened. It may be asked for different things, each time from the same state."""

    _subject: _Subject[S, W]
    _history: tuple[Any, ...]
    _registry: EventRegistry | None

    def when(self, action: W) -> Decided[S]:
        """Call `action(aggregate)`; for a Decider `action` is a command, given to its `decide`.

        An error is kept for the checks. ConfigurationError for what has to be awaited.
        """
        state = self._subject.load(self._history)
        answer, error = self._ask(action, state)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise ConfigurationError("this is async: write `await given(...).when_async(...)`")
        return self._decided(state, answer, error)

    async def when_async(self, action: W) -> Decided[S]:
        """`when` for what has to be awaited."""
        state = self._subject.load(self._history)
        answer, error = self._ask(action, state)
        if inspect.isawaitable(answer):
            answer, error = await _awaited(answer)
        return self._decided(state, answer, error)

    def _ask(self, action: W, state: S) -> tuple[Any, Exception | None]:
        try:
            return self._subject.ask(action, state), None
        except Exception as error:
            return None, error

    def _decided(self, state: S, answer: Any, error: Exception | None) -> Decided[S]:
        new = self._subject.new_events(state, answer)
        return Decided(self._subject, self._history, _read_back(self._registry, new, "new event"), error)


@dataclass(frozen=True)
class Decided(Generic[S]):
    """What came of it: new events, or an error. Checks raise AssertionError, and can be chained."""

    _subject: _Subject[S, Any]
    _history: tuple[Any, ...]
    _events: tuple[Any, ...]
    _error: Exception | None

    def then(self, *events: Any) -> Self:
        """Exactly these events are new, in this order."""
        __tracebackhide__ = True
        self._refuse_error("no error was expected")
        found = [*event_differences(events, self._events)]
        if found:
            self._fail("the new events are not those expected", found)
        return self

    def then_nothing(self) -> Self:
        """There are no new events."""
        __tracebackhide__ = True
        return self.then()

    def then_raises(self, error: type[Exception], match: str | None = None) -> Self:
        """An `error` was raised, and the regular expression `match` is found in its text.

        Checks that follow look at what had been recorded before it.
        """
        __tracebackhide__ = True
        if self._error is None:
            new = [f"  {event!r}" for event in self._events] or ["  nothing"]
            self._fail(f"{error.__name__} was expected, but not raised; new are:", new)
        if not isinstance(self._error, error):
            self._refuse_error(f"{error.__name__} was expected")
        if match is not None and not re.search(match, str(self._error)):
            self._refuse_error(f"a text with {match!r} was expected")
        return replace(self, _error=None)

    def then_state(self, check: S | Callable[[S], bool | None]) -> Self:
        """The state that the next load gives, folded from all events, is `check`, or pleases it.

        A function returns True or False; or it asserts by itself, and returns None.
        """
        __tracebackhide__ = True
        self._refuse_error("no error was expected")
        state = self._subject.load((*self._history, *self._events))
        if not callable(check):
            found = [f"  {line}" for line in differences(check, state)]
        elif _holds(check(state)):
            found = []
        else:
            found = [f"  {state!r}"]
        if found:
            self._fail("the state is not the one expected", found)
        return self

    def _refuse_error(self, expected: str) -> None:
        __tracebackhide__ = True
        if self._error is not None:
            self._fail(f"{expected}, got {type(self._error).__name__}: {self._error}")

    def _fail(self, what: str, lines: Sequence[str] = ()) -> NoReturn:
        __tracebackhide__ = True
        history = [f"  {event!r}" for event in self._history] or ["  nothing"]
        message = "\n".join([f"{self._subject.name}: {what}", *lines, "given:", *history])
        raise AssertionError(message) from self._error


class _Subject(Protocol[S, W_contra]):
    """Either style of model: the state after events, what an action answers, what is new then."""

    @property
    def name(self) -> str: ...
    def load(self, events: Sequence[Any], /) -> S: ...
    def ask(self, action: W_contra, state: S, /) -> Any: ...
    def new_events(self, state: S, answer: Any, /) -> Sequence[Any]: ...


class _Class(Generic[A]):
    """A class that records its events."""

    def __init__(self, model: type[A], aggregate_id: str) -> None:
        self.name = model.__name__
        self._model = model
        self._id = aggregate_id

    def load(self, events: Sequence[Any]) -> A:
        aggregate = _fold(self.name, _applied, events, self._model(self._id))
        aggregate.version = len(events)
        return aggregate

    def ask(self, action: Callable[[A], object], state: A) -> object:
        return action(state)

    def new_events(self, state: A, answer: object) -> Sequence[Any]:
        return list(state.recorded)


class _Functions(Generic[S, C]):
    """The functions of a decider."""

    def __init__(self, decider: Decider[S, C]) -> None:
        self.name = decider.aggregate_type
        self._decider = decider

    def load(self, events: Sequence[Any]) -> S:
        return _fold(self.name, self._decider.evolve, events, self._decider.initial())

    def ask(self, action: C, state: S) -> Any:
        answer = self._decider.decide(action, state)
        return answer if inspect.isawaitable(answer) else list(answer)

    def new_events(self, state: S, answer: Any) -> Sequence[Any]:
        return [] if answer is None else list(answer)


def _applied(aggregate: A, event: Any) -> A:
    aggregate.apply(event)
    return aggregate


def _fold(name: str, evolve: Callable[[S, Any], S], events: Sequence[Any], state: S) -> S:
    for event in events:
        try:
            state = evolve(state, event)
        except Exception as error:
            error.add_note(f"while {name} applied {event!r}")
            raise
    return state


async def _awaited(answer: Awaitable[Any]) -> tuple[Any, Exception | None]:
    try:
        return await answer, None
    except Exception as error:
        return None, error


def _holds(answer: object) -> bool:
    if answer is not None and not isinstance(answer, bool):
        raise ConfigurationError(f"a check returns True or False, or asserts by itself, not {answer!r}")
    return answer is not False


def _read_back(registry: EventRegistry | None, events: Sequence[Any], what: str) -> tuple[Any, ...]:
    """The events as they are after a trip through the store."""
    if registry is None:
        return tuple(events)
    return tuple(_stored(registry, event, f"{what} {number}") for number, event in enumerate(events, 1))


def _stored(registry: EventRegistry, event: Any, what: str) -> Any:
    try:
        new = registry.envelope(StreamId("given", "test-id"), event)
        (read,) = registry.decode(replace(new, payload=decode(encode(new.payload))))
    except (EventStoreError, ValueError) as error:
        raise AssertionError(f"{what} cannot be stored: {error}: {event!r}") from error
    changed = [f"  {line}" for line in differences(event, read.payload)]
    if changed:
        raise AssertionError("\n".join([f"{what} does not come back as it was stored: {event!r}", *changed]))
    return read.payload
