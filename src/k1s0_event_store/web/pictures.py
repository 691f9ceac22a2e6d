"""Pictures as numbers: where bars and lines stand. The templates draw them as SVG, without any style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from k1s0_event_store.inspection import Interval
from k1s0_event_store.web.lag import Lag

CHART_WIDTH: Final = 720
CHART_HEIGHT: Final = 120
LINE_WIDTH: Final = 240
LINE_HEIGHT: Final = 40
_LEAST_VISIBLE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One interval of a chart, with the place and size of its bar."""

    begins: datetime
    ends: datetime
    events: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points of a line through samples, from the first to the last of them."""

    points: str
    first: datetime
    last: datetime
    most: int


def bars(intervals: Sequence[Interval], step: timedelta) -> list[Bar]:
    """A bar for each interval; one with any events can be seen."""
    most = max((one.events for one in intervals), default=0)
    width = CHART_WIDTH / max(1, len(intervals))
    found = []
    for index, one in enumerate(intervals):
        height = max(_LEAST_VISIBLE, CHART_HEIGHT * one.events / most) if one.events > 0 else 0.0
        x, y = round(index * width + 1, 2), round(CHART_HEIGHT - height, 2)
        bar = Bar(one.begins, one.begins + step, one.events, x, y, round(width - 2, 2), round(height, 2))
        found.append(bar)
    return found


def line(samples: Sequence[Lag]) -> Line | None:
    """How many events a subscription was behind, over time; None before there are two samples."""
    if len(samples) < 2:
        return None
    first, last = samples[0].at, samples[-1].at
    most = max(sample.events for sample in samples)
    seconds = max(0.001, (last - first).total_seconds())
    points = (
        f"{LINE_WIDTH * (sample.at - first).total_seconds() / seconds:.1f},"
        f"{LINE_HEIGHT - 2 - (LINE_HEIGHT - 4) * sample.events / max(1, most):.1f}"
        for sample in samples
    )
    return Line(" ".join(points), first, last, most)


def percent(part: float, whole: float) -> float:
    """A share in percent with one decimal, never above 100."""
    return min(100.0, round(100 * part / whole, 1)) if whole > 0 else 0.0
