"""Which types of aggregates and events there are, and how many of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store.inspection import TypeShare
from k1s0_event_store.web.browser import browser_of
from k1s0_event_store.web.rendering import render

_MOST: Final = 500


async def show(request: Request) -> Response:
    """Aggregate types with their event types, by share."""
    browser = browser_of(request)
    shares = await browser.types.get()
    seen = {share.aggregate_type for share in shares.types}
    return render(
        request,
        "types.html",
        shares=shares,
        all_events=sum(share.events for share in shares.types),
        categories=_categories(shares.types[:_MOST]),
        left_out=max(0, len(shares.types) - _MOST),
        others=[name for name in await browser.aggregate_types.get() if name not in seen],
    )


def _categories(shares: Sequence[TypeShare]) -> list[tuple[str, int, list[TypeShare]]]:
    """Aggregate types with their number of events and their event types, the largest first."""
    by_name = sorted(shares, key=lambda share: share.aggregate_type)
    found = []
    for name, group in groupby(by_name, key=lambda share: share.aggregate_type):
        members = sorted(group, key=lambda share: -share.events)
        found.append((name, sum(share.events for share in members), members))
    return sorted(found, key=lambda category: -category[1])
