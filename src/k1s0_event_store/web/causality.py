"""Causes and effects as a picture: rows in the order of the store, effects to the right of their cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from k1s0_event_store.inspection import EventView

ROW: Final = 34
COLUMN: Final = 26
_MARGIN: Final = 18
_TEXT_GAP: Final = 14
_TEXT_WIDTH: Final = 446
_MOST_COLUMNS: Final = 20


@dataclass(frozen=True, slots=True)
class Node:
    """An event in the picture. `depth` counts the causes before it that are in the picture too.

    Its text begins right of all lines that go down past it.
    """

    event: EventView
    cause: EventView | None
    depth: int
    x: int
    y: int
    text_x: int
    is_this: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """An event with its effects, for the list."""

    node: Node
    effects: list[Branch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by position, the paths of the lines between them, and the same as a nested list."""

    nodes: Sequence[Node]
    edges: Sequence[str]
    roots: Sequence[Branch]
    width: int
    height: int


def graph(events: Sequence[EventView], this: EventView) -> Graph:
    """The picture of events that belong together."""
    ordered = sorted(events, key=lambda event: event.position)
    causes = _causes(ordered)
    line_ends = _line_ends(ordered, causes)
    columns = _columns(ordered, causes, line_ends)
    nodes: dict[int, Node] = {}
    for row, event in enumerate(ordered):
        cause = causes.get(event.position)
        depth = 0 if cause is None else nodes[cause.position].depth + 1
        passing = [columns[other.position] for other in ordered[:row] if line_ends[other.position] > row]
        x, y = _x(columns[event.position]), row * ROW + ROW // 2
        text_x = _x(max([columns[event.position], *passing])) + _TEXT_GAP
        nodes[event.position] = Node(event, cause, depth, x, y, text_x, event.position == this.position)
    drawn = list(nodes.values())
    edges = [_edge(nodes[node.cause.position], node) for node in drawn if node.cause is not None]
    width = max((node.text_x for node in drawn), default=0) + _TEXT_WIDTH
    return Graph(drawn, edges, _tree(drawn), width, len(drawn) * ROW)


def _x(column: int) -> int:
    return _MARGIN + column * COLUMN


def _line_ends(events: Sequence[EventView], causes: Mapping[int, EventView]) -> dict[int, int]:
    """The row of the last effect of each event, by its position; its own row where it has none."""
    rows = {event.position: row for row, event in enumerate(events)}
    ends = dict(rows)
    for position, cause in causes.items():
        ends[cause.position] = max(ends[cause.position], rows[position])
    return ends


def _columns(
    events: Sequence[EventView], causes: Mapping[int, EventView], line_ends: Mapping[int, int]
) -> dict[int, int]:
    """Columns by position: right of the cause, where no line of another event goes down."""
    busy_until: dict[int, int] = {}
    columns: dict[int, int] = {}
    for row, event in enumerate(events):
        cause = causes.get(event.position)
        column = 0 if cause is None else columns[cause.position] + 1
        while column < _MOST_COLUMNS and busy_until.get(column, -1) >= row:
            column += 1
        columns[event.position] = min(column, _MOST_COLUMNS)
        busy_until[column] = line_ends[event.position]
    return columns


def _causes(events: Sequence[EventView]) -> dict[int, EventView]:
    """The cause of each event, by the event's position, where it is one of these and stands before it."""
    by_id = {str(event.event_id): event for event in events}
    found = {event.position: by_id.get((event.causation_id or "").lower()) for event in events}
    return {
        position: cause
        for position, cause in found.items()
        if cause is not None and cause.position < position
    }


def _edge(cause: Node, effect: Node) -> str:
    """Down from the cause, and round the corner to its effect."""
    if cause.x == effect.x:
        return f"M{cause.x} {cause.y}V{effect.y}"
    return f"M{cause.x} {cause.y}V{effect.y - 8}Q{cause.x} {effect.y} {cause.x + 8} {effect.y}H{effect.x}"


def _tree(nodes: Sequence[Node]) -> list[Branch]:
    """Branches; what lies deeper than columns go stands beside its cause."""
    roots: list[Branch] = []
    effects_of: dict[int, list[Branch]] = {}
    for node in nodes:
        beside = roots if node.cause is None else effects_of[node.cause.position]
        branch = Branch(node)
        beside.append(branch)
        effects_of[node.event.position] = branch.effects if node.depth < _MOST_COLUMNS else beside
    return roots
