"""Subscriptions for the eye and for programs: tables that fit 80 columns, and JSON with all fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from k1s0_event_store.cli.tables import duration, foreign, new_table
from k1s0_event_store.subscription import (
    MOST_COUNTED,
    ParkedEvent,
    PartitionState,
    PartitionStatus,
    SubscriptionStatus,
)
from k1s0_event_store.terminal import plain, say

_STYLES: Final = {
    "caught up": "green",
    "running": "cyan",
    "replaying": "cyan",
    "no worker": "yellow",
    "paused": "yellow",
    "stopped": "red",
}


def status_fields(status: SubscriptionStatus) -> dict[str, Any]:
    """A version of a subscription as JSON; `behind` is counted up to 100,000."""
    return {
        "name": status.name,
        "version": status.version,
        "live": status.live,
        "caught_up": status.caught_up,
        "parked": status.parked,
        "partitions": [_partition_fields(partition) for partition in status.partitions],
    }


def _partition_fields(partition: PartitionStatus) -> dict[str, Any]:
    return {
        "partition": partition.partition,
        "state": partition.state.value,
        "caught_up": partition.caught_up,
        "behind": partition.behind,
        "behind_seconds": partition.behind_seconds,
        "replaying": partition.replaying,
        "handled": partition.handled,
        "owner": partition.owner,
        "cursor": None if partition.cursor is None else str(partition.cursor),
        "error": partition.error,
        "failed_at": _iso(partition.failed_at),
    }


def parked_fields(event: ParkedEvent) -> dict[str, Any]:
    """A parked event as JSON."""
    return {
        "name": event.name,
        "version": event.version,
        "aggregate_type": event.stream_id.aggregate_type,
        "aggregate_id": event.stream_id.aggregate_id,
        "event_version": event.event_version,
        "event_type": event.event_type,
        "position": event.position,
        "attempts": event.attempts,
        "error": event.error,
        "parked_at": _iso(event.parked_at),
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def show_statuses(console: Console, statuses: Sequence[SubscriptionStatus]) -> None:
    """A table with a line per partition, and below it what has no room in it: workers and errors."""
    owners = dict.fromkeys(p.owner for status in statuses for p in status.partitions if p.owner is not None)
    workers = {owner: str(number) for number, owner in enumerate(owners, 1)}
    console.print(_status_table(statuses, workers))
    console.print()
    for owner, number in workers.items():
        say(console, f"worker {number} is {owner}")
    for status in statuses:
        for partition in status.partitions:
            if partition.error is not None:
                _show_error(console, _where(status, partition), partition.error)
    if any(p.state is PartitionState.STOPPED for status in statuses for p in status.partitions):
        say(console, "what is stopped goes on after `k1s0-event-store subscriptions resume NAME`")
    if any(status.parked for status in statuses):
        say(console, "see the parked events with `k1s0-event-store subscriptions parked`")


def _status_table(statuses: Sequence[SubscriptionStatus], workers: dict[str, str]) -> Table:
    table = new_table()
    table.add_column("subscription", overflow="fold")
    for name in ("version", "part", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("behind", "for", "handled", "parked", "worker"):
        table.add_column(name, no_wrap=True, justify="right")
    for status in statuses:
        for index, partition in enumerate(status.partitions):
            first = index == 0
            state = _state(partition)
            table.add_row(
                foreign(status.name if first else ""),
                (f"{status.version} live" if status.live else str(status.version)) if first else "",
                str(partition.partition),
                Text(state, style=_STYLES[state]),
                _behind(partition.behind),
                duration(partition.behind_seconds) if partition.behind else "",
                f"{partition.handled:,}",
                (f"{status.parked:,}" if status.parked else "") if first else "",
                workers.get(partition.owner or "", ""),
            )
    return table


def _state(partition: PartitionStatus) -> str:
    if partition.state is not PartitionState.RUNNING:
        return partition.state.value
    if partition.replaying:
        return "replaying"
    return "caught up" if partition.caught_up else "running"


def _behind(events: int) -> str:
    if not events:
        return ""
    return f"{events:,}+" if events >= MOST_COUNTED else f"{events:,}"


def _where(status: SubscriptionStatus, partition: PartitionStatus) -> str:
    title = f"{status.name} version {status.version}, partition {partition.partition}"
    return title if partition.failed_at is None else f"{title}, {partition.failed_at:%Y-%m-%d %H:%M:%S} UTC"


def show_parked(console: Console, events: Iterable[ParkedEvent]) -> None:
    """A table for each subscription, and below it the errors."""
    now = datetime.now(UTC)
    by_subscription = sorted(events, key=lambda event: (event.name, event.version))
    for (name, version), group in groupby(by_subscription, key=lambda event: (event.name, event.version)):
        members = list(group)
        say(console, f"{name} version {version}", "bold")
        console.print(_parked_table(members, now))
        console.print()
        for event in members:
            if event.error is not None:
                _show_error(console, f"{event.stream_id} event {event.event_version}", event.error)
    say(console, "next: `subscriptions retry NAME`, or `subscriptions drop NAME` to forget them")


def _parked_table(events: Iterable[ParkedEvent], now: datetime) -> Table:
    table = new_table()
    table.add_column("aggregate", overflow="fold")
    table.add_column("id", overflow="fold")
    table.add_column("event", justify="right", no_wrap=True)
    table.add_column("type", overflow="fold")
    table.add_column("tries", justify="right", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    for event in events:
        table.add_row(
            foreign(event.stream_id.aggregate_type),
            foreign(event.stream_id.aggregate_id),
            f"{event.event_version:,}",
            foreign(event.event_type),
            "waits" if event.error is None else f"{event.attempts:,}",
            duration((now - event.parked_at).total_seconds()),
        )
    return table


def _show_error(console: Console, title: str, error: str) -> None:
    say(console, f"{title}:", "red")
    console.print(Padding(Text(plain(error), overflow="fold"), (0, 0, 0, 2), expand=False))
