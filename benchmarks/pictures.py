"""The pictures of the README and of docs/performance.md, from the figures that were kept.

Usage: python benchmarks/pictures.py [run] [growth]

Each is drawn twice, for pages in light and in dark. Needs matplotlib (dependency group `benchmarks`).
"""

import sys
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from report import HERE, load
from stores import COALESCED, LIMIT, OURS, PEERS

FOLDER = HERE.parent / "docs/pictures"
NAMES = {
    OURS: "k1s0-event-store",
    COALESCED: "the same, coalesce=True",
    LIMIT: "asyncpg, by hand",
    **{module: peer.rpartition(" ")[0] for module, peer in PEERS.items()},
}
# Two rows: the first is of works that coalescing changes.
PANELS = (
    {
        "append_1": "one append at a time",
        "append_1_by_16": "16 writers, one event each",
        "append_1_by_256": "256 writers, one event each",
    },
    {"append_100": "appends of 100", "load_5000": "load of 5,000", "read_all": "read everything"},
)


class Theme(NamedTuple):
    """Colours: one for ours, which blue-blind, red-blind and green-blind people tell from the greys."""

    name: str
    text: str
    faint: str
    ours: str
    other: str


THEMES = (
    Theme("light", text="#1f2328", faint="#818b98", ours="#0072b2", other="#b4bcc6"),
    Theme("dark", text="#f0f6fc", faint="#8b949e", ours="#56b4e9", other="#59626d"),
)


def draw_run():
    """Events per second of every store, for the works that most apps do."""
    figures = load("run")["figures"]
    for theme in THEMES:
        with picture(theme, "benchmark", 2, 3, (11, 6), height_ratios=(7, 6)) as axes:
            for row, works in zip(axes, PANELS, strict=True):
                stores = [store for store in NAMES if store in figures and has_any(figures[store], works)]
                for panel, (work, title) in zip(row, works.items(), strict=True):
                    bars(panel, theme, title, stores, [figures[store].get(work) for store in stores])
                    panel.tick_params(labelleft=panel is row[0])


def has_any(figures, works):
    return any(work in figures for work in works)


def bars(panel, theme, title, stores, rates):
    """A bar for each store, ours in colour, the limit as an outline, each with its figure."""
    largest = max(rate for rate in rates if rate is not None)
    for place, (store, rate) in enumerate(zip(stores, rates, strict=True)):
        outlined = store == LIMIT
        colour = theme.ours if store in (OURS, COALESCED) else theme.other
        panel.barh(
            place,
            rate or 0,
            height=0.7,
            color="none" if outlined else colour,
            edgecolor=theme.faint if outlined else colour,
            linestyle="--" if outlined else "-",
        )
        text = "not run" if rate is None else f"{rate:,.0f}"
        panel.text((rate or 0) + largest / 50, place, text, va="center", fontsize=8.5)
    panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    panel.set_yticks(range(len(stores)), [NAMES[store] for store in stores])
    panel.invert_yaxis()
    panel.set_xlim(0, largest * 1.22)
    panel.set_xlabel("events per second")
    panel.locator_params(axis="x", nbins=4)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.tick_params(axis="y", length=0)


def draw_growth():
    """Milliseconds of each operation over the number of events, and beside them those of the long stream."""
    results = load("growth")
    operations = results["operations"]
    for theme in THEMES:
        with picture(theme, "growth", 1, len(operations), (11, 2.9), sharey=True) as ((*panels,),):
            for panel, (name, title) in zip(panels, operations.items(), strict=True):
                grown(panel, theme, results, name)
                panel.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
            panels[0].set_ylabel("milliseconds, median")
            panels[0].set_ylim(bottom=0)
            legend = panels[0].get_legend_handles_labels()
            panels[0].figure.legend(*legend, loc="outside upper right", ncols=2)


def grown(panel, theme, results, name):
    """One operation."""
    sizes, stream = results["sizes"], results["stream"]
    panel.plot(sizes, results["milliseconds"][name], "o-", color=theme.ours, label="streams of 20")
    panel.plot(
        stream,
        results["milliseconds_of_stream"][name],
        "D",
        color=theme.text,
        fillstyle="none",
        label=f"one stream of {stream:,}",
    )
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(sizes))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.set_xlabel("events in the store")
    panel.margins(x=0.12)


def short(number):
    """A number of events for an axis."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


@contextmanager
def picture(theme, name, rows, columns, size, **layout):
    """Panels of a figure that is kept as SVG, with no background: it lies on the page's own."""
    settings = {
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.text,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": theme.text,
        "font.size": 9,
        "legend.frameon": False,
        "svg.hashsalt": name,  # the same figures give the same file
        "text.color": theme.text,
        "xtick.color": theme.faint,
        "xtick.labelcolor": theme.text,
        "ytick.color": theme.faint,
        "ytick.labelcolor": theme.text,
    }
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained", **layout
        )
        yield axes
        path = FOLDER / f"{name}-{theme.name}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


DRAWN = {"run": draw_run, "growth": draw_growth}

if __name__ == "__main__":
    for drawn in sys.argv[1:] or DRAWN:
        DRAWN[drawn]()
