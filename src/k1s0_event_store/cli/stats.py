"""The command `stats`: events by type and day, sizes on disk, growth."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from k1s0_event_store.cli.json_output import print_json
from k1s0_event_store.cli.options import Dsn, Json, Schema, config_of, opened
from k1s0_event_store.cli.tables import byte_size, foreign, new_table
from k1s0_event_store.config import DEFAULT_SCHEMA
from k1s0_event_store.inspection import TableSize
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.statistics import EventCount, PostgresStatistics
from k1s0_event_store.terminal import say

_BARS: Final = "▁▂▃▄▅▆▇█"

Days = Annotated[int, typer.Option("--days", min=1, max=366, help="Count so many days apart, in UTC.")]


def stats(dsn: Dsn, days: Days = 7, as_json: Json = False, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Count events by type and day, and say how large the tables are and how fast they grow.

    The counts are exact: one statement reads every event's row once, which
    takes its time on a large store.
    """
    now = _now()
    first = datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=days - 1)

    async def run() -> _Statistics:
        async with opened(PostgresInspector(config_of(dsn, schema))) as inspector:
            counts = PostgresStatistics(inspector.config, bind=inspector.bind)
            return _gather(await counts.counts(first), await inspector.sizes(), first, now)

    found = asyncio.run(run())
    if as_json:
        print_json(_fields(found))
    else:
        _print(Console(), found)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Type:
    """The events of one type: all of them, and those of each of the days."""

    aggregate_type: str
    event_type: str
    events: int = 0
    days: Counter[date] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Statistics:
    types: Sequence[_Type]
    tables: Sequence[TableSize]
    days: Mapping[date, int]
    elapsed_days: float

    @property
    def events(self) -> int:
        return sum(one.events for one in self.types)

    @property
    def events_per_day(self) -> float:
        return sum(self.days.values()) / self.elapsed_days

    @property
    def bytes_per_day(self) -> float:
        """As large as the events that are there are on average, with their indexes."""
        sizes = [table.table_bytes + table.index_bytes for table in self.tables if table.name == "events"]
        return self.events_per_day * sum(sizes) / self.events if self.events else 0.0


def _gather(
    counts: Iterable[EventCount], tables: Sequence[TableSize], first: datetime, now: datetime
) -> _Statistics:
    types: dict[tuple[str, str], _Type] = {}
    for count in counts:
        key = count.aggregate_type, count.event_type
        one = types.setdefault(key, _Type(*key))
        one.events += count.events
        if count.day is not None:
            one.days[count.day] += count.events
    by_size = sorted(types.values(), key=lambda one: (-one.events, one.aggregate_type, one.event_type))
    dates = [(first + timedelta(days=number)).date() for number in range((now - first).days + 1)]
    days = {day: sum(one.days[day] for one in by_size) for day in dates}
    elapsed = (now - first) / timedelta(days=1)
    return _Statistics(by_size, tables, days, max(1.0, elapsed))


def _fields(found: _Statistics) -> dict[str, Any]:
    return {
        "events": found.events,
        "types": [
            {
                "aggregate_type": one.aggregate_type,
                "event_type": one.event_type,
                "events": one.events,
                "days": {day.isoformat(): one.days[day] for day in found.days},
            }
            for one in found.types
        ],
        "days": {day.isoformat(): events for day, events in found.days.items()},
        "tables": [asdict(table) for table in found.tables],
        "growth": {
            "events_per_day": round(found.events_per_day, 1),
            "bytes_per_day": round(found.bytes_per_day),
        },
    }


def _print(console: Console, found: _Statistics) -> None:
    console.print(_type_table(found))
    console.print()
    console.print(_day_table(found.days))
    console.print()
    console.print(_size_table(found.tables))
    console.print()
    say(
        console,
        f"grows by about {found.events_per_day:,.1f} events and {byte_size(found.bytes_per_day)} a day "
        f"(mean of the last {len(found.days)} days)",
    )


def _type_table(found: _Statistics) -> Table:
    recent = f"last {len(found.days)} days"
    table = _table("aggregate", "event type", "events", recent, text_columns=2)
    if len(found.days) > 1:
        table.add_column("by day", no_wrap=True)
    for one in found.types:
        by_day = [one.days[day] for day in found.days]
        names = foreign(one.aggregate_type), foreign(one.event_type)
        table.add_row(*names, f"{one.events:,}", f"{sum(by_day):,}", *_picture(by_day))
    if len(found.types) > 1:
        table.add_section()
        table.add_row("all", "", f"{found.events:,}", f"{sum(found.days.values()):,}")
    return table


def _picture(counts: Sequence[int]) -> Sequence[str]:
    """A bar for each of the last 14 days, if there are several; a day without events has none."""
    most = max(counts)
    bars = "".join(_BARS[count * 7 // most] if count else " " for count in counts[-14:])
    return [bars] if len(counts) > 1 else []


def _day_table(days: Mapping[date, int]) -> Table:
    table = _table("day (UTC)", "events", text_columns=1)
    for day, events in days.items():
        table.add_row(day.isoformat(), f"{events:,}")
    return table


def _size_table(sizes: Sequence[TableSize]) -> Table:
    table = _table("table", "rows, about", "on disk", "indexes", text_columns=1)
    for size in sizes:
        rows = "" if size.rows is None else f"{size.rows:,}"
        table.add_row(size.name, rows, byte_size(size.table_bytes), byte_size(size.index_bytes))
    return table


def _table(*names: str, text_columns: int) -> Table:
    table = new_table()
    for index, name in enumerate(names):
        if index < text_columns:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table
