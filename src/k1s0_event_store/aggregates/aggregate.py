"""How an aggregate is written: as a class that records its events, or as three functions.

Nothing has to be inherited: a class needs what the protocol `Aggregate` lists. `AggregateRoot` has it
ready for those who like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

S = TypeVar("S")
C = TypeVar("C")


class Aggregate(Protocol):
    """A class that records its events; it is made by calling it with an id.

    `apply` changes the state as an event says and refuses nothing: it also gets what happened long
    ago. A method that decides something checks it, applies a new event and adds it to `recorded`.
    The repository sets `version` (of the last stored event; 0: none) and empties `recorded`.
    """

    def __init__(self, id: str, /) -> None:
        """An aggregate without events."""

    @property
    def id(self) -> str:
        """The aggregate's id: with the aggregate type, the name of its stream."""
        ...

    version: int
    recorded: list[Any]

    def apply(self, event: Any, /) -> None:
        """Change the state as `event` says."""


@dataclass
class AggregateRoot:
    """A base for aggregates, for those who want one: give your fields defaults, and write `apply`.

    @dataclass
    class Order(AggregateRoot):
        aggregate_type = "order"
        status: str = "new"

        def ship(self, tracking: str) -> None:
            if self.status != "paid":
                raise NotPaid(self.id)
            self.record(OrderShipped(tracking=tracking))

        def apply(self, event: object) -> None:
            match event:
                case OrderShipped():
                    self.status = "shipped"
    """

    aggregate_type: ClassVar[str]

    id: str
    version: int = field(default=0, kw_only=True)
    recorded: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def record(self, event: Any) -> None:
        """Apply a new event, and keep it to be stored."""
        self.apply(event)
        self.recorded.append(event)

    def apply(self, event: Any, /) -> None:
        """Change the state as `event` says; the subclass knows how."""
        raise NotImplementedError(f"{type(self).__name__} needs a method apply(event)")


@dataclass(frozen=True, slots=True)
class Decider(Generic[S, C]):
    """An aggregate as functions: `initial()` state, `evolve(state, event)`, `decide(command, state)`.

    `decide` returns the new events, or raises what forbids them. Where states are of several classes,
    `state` is their type (`Empty | Open | Closed`), for snapshots. The idea is Jérémie Chassaing's
    ("Functional Event Sourcing Decider", 2021).
    """

    aggregate_type: str
    initial: Callable[[], S]
    evolve: Callable[[S, Any], S]
    decide: Callable[[C, S], Iterable[Any]]
    state: Any = None
