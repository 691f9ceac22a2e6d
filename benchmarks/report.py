"""What the benchmarks print, keep and write into documents."""

import json
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PERFORMANCE = HERE.parent / "docs/performance.md"
RESULTS = HERE / "results"


def machine(server):
    """What it ran on."""
    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"PostgreSQL {server} with fsync and synchronous_commit on."
    )


def markdown(head, rows, align="---:"):
    """A table of Markdown whose first column is text."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def write_between(text, name, path=README):
    """Put `text` between the two markers called `name` of a document."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = path.read_text().partition(begin)
    if not found or end not in rest:
        sys.exit(f"{path.name} has no {begin} with {end} after it")
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def save(results, name):
    """Keep what was measured, so that tables and pictures can be made again without a new run."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


def load(name):
    """What `save` kept."""
    return json.loads((RESULTS / f"{name}.json").read_text())
