"""Events for the eye and for programs."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console

from k1s0_event_store.cli.json_output import escaped
from k1s0_event_store.cli.tables import one_line
from k1s0_event_store.inspection import EventView
from k1s0_event_store.jsontext import indented
from k1s0_event_store.terminal import say

SHOWN: Final = 2_000
"""Characters of a payload that are shown. Ask for one more to see whether it was cut."""
_ONE_LINE: Final = 76


def event_json(event: EventView) -> str:
    """An event with all of its fields as JSON on one line; payload and metadata must not be cut."""
    fields = {
        "aggregate_type": event.stream_id.aggregate_type,
        "aggregate_id": event.stream_id.aggregate_id,
        "version": event.version,
        "event_id": str(event.event_id),
        "event_type": event.event_type,
        "occurred_at": event.occurred_at.isoformat(),
        "recorded_at": event.recorded_at.isoformat(),
        "position": event.position,
    }
    # As text, so that numbers which Python has no type for stay what they are.
    stored = f'"metadata": {escaped(event.metadata)}, "payload": {escaped(event.payload)}'
    return f"{json.dumps(fields)[:-1]}, {stored}}}"


def show_event(console: Console, event: EventView, stream: str = "") -> None:
    """An event in some lines; `stream` is said where events of several are shown."""
    name = one_line(f"{stream} " if stream else "")
    time = f"{event.occurred_at:%Y-%m-%d %H:%M:%S}.{event.occurred_at.microsecond // 1000:03} UTC"
    say(console, f"{name}version {event.version:,}  {one_line(event.event_type)}", "bold")
    say(console, f"  {time}  {event.event_id}", "dim")
    _show_json(console, event.payload)
    if event.metadata != "{}":
        _show_json(console, event.metadata, "metadata ", "dim")


def _show_json(console: Console, text: str, title: str = "", style: str = "") -> None:
    shown = text if len(text) <= _ONE_LINE else indented(text[:SHOWN])
    lines = f"{title}{shown}".split("\n")
    say(console, "\n".join(f"  {line}" for line in lines), style)
    if len(text) > SHOWN:
        say(console, "  ... and more: --json prints all of it", "dim")
