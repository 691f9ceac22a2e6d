"""A few seconds of soak.py work, and its judgement tells growth from noise."""

import random

from .kills import prepare
from .soak import LIMITS, Sample, judge, soak

SEED = 2026


def sampled(**growing):
    """Samples of half an hour: all swings, and only what is named here grows, by so much per minute."""
    chooser = random.Random(SEED)
    samples = []
    for seconds in range(5, 1_800, 5):
        values = {
            name: 40 + chooser.choice((-1, 0, 1)) + growing.get(name, 0) * seconds / 60
            for name in LIMITS
            if name != "temporary_files"
        }
        samples.append(
            Sample(seconds, temporary_files=growing.get("temporary_files", 0) * seconds // 60, **values)
        )
    return samples


def test_what_only_swings_has_not_grown():
    assert [one.name for one in judge(sampled()) if one.has_grown] == []


def test_what_grows_is_told_by_its_name():
    for name in LIMITS:
        assert [one.name for one in judge(sampled(**{name: 5})) if one.has_grown] == [name]


async def test_the_load_of_the_soak_works_and_leaves_a_store_without_faults(event_store_dsn):
    prepare(event_store_dsn)
    work, faults = await soak(event_store_dsn, 3, 0.5, SEED)
    assert faults == []
    assert all(work.done.values()), work.done
    assert len(work.samples) > 2
    assert all(sample.memory_mb > 1 and sample.backends > 0 for sample in work.samples)
