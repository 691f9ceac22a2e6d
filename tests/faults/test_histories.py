"""Histories of real races are linearisable and causal; those of stores with planted bugs are found out."""

from collections import Counter

import pytest

from .histories import all_stores, kinds_of_faults, mutated_stores, race
from .mutants import ALL

SEEDS = (1, 2, 3)


async def test_races_on_every_kind_of_store_are_linearisable_and_the_feed_is_causal(event_store_dsn):
    done = Counter()
    async with all_stores(event_store_dsn) as stores:
        for seed in SEEDS:
            history, faults = await race(stores, seed)
            assert faults == [], f"race {seed}"
            done += history.summary()
    # They were races: there was something to judge of every kind.
    assert {"stored", "refused", "not stored", "unknown", "reads", "pages", "events in pages"} <= done.keys()


@pytest.mark.parametrize("mutant", ALL)
async def test_a_planted_bug_is_found(event_store_dsn, sql, mutant):
    planted = ALL[mutant]
    for change in planted.tables:
        sql(change)
    async with mutated_stores(event_store_dsn, planted.statements) as stores:
        found = await kinds_of_faults(stores, mutant, planted.shows, planted.reader)
    assert planted.shows in found
