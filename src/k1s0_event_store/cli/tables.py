"""How tables look, and what stands in them: names, spans of time, sizes."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from k1s0_event_store.terminal import plain


def new_table() -> Table:
    """A table with a head and no frame."""
    return Table(
        box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )


def foreign(name: str) -> Text:
    """A cell with a name that is not ours: nothing in it is markup."""
    return Text(one_line(name))


def one_line(name: str) -> str:
    """A name that is not ours, harmless and without breaks: it cannot pretend to be another line."""
    return plain(name).replace("\n", "\\n")


def duration(seconds: float) -> str:
    """A span of time, about."""
    if seconds < 1:
        return "<1 s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def byte_size(count: float) -> str:
    """A number of bytes, about."""
    for size, unit in ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
