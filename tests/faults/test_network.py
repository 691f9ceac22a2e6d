"""The short form of network.py, and each kind of append whose answer gets lost."""

import pytest

from k1s0_event_store import OutcomeUnknownError

from ..postgres.wire import Cut, Moment, proxy_before
from .audit import IN_SESSION
from .batches import Batch
from .clients import KINDS, Stores, may_pass
from .kills import prepare
from .network import WEATHERS, endure, late_and_in_pieces

SEED = 2026
LOST = (Moment.UNSENT, Moment.SENT, Moment.EXECUTED)


@pytest.fixture
def proxy(event_store_dsn):
    prepare(event_store_dsn)
    with proxy_before(event_store_dsn) as proxy:
        yield proxy


def cut_once(proxy, wanted):
    """The connection of the next COMMIT is cut at this moment of it."""

    def cut(moment):
        if moment is wanted:
            proxy.at = lambda moment: None
            raise Cut

    proxy.at = cut


def batch_of(kind, name, version):
    options = KINDS[kind]
    return Batch(
        name, kind, ("a", "b")[: options.streams], options.sizes[0], version if options.exact else None
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_an_append_of_any_kind_whose_answer_was_lost_is_settled_once_by_repeating_it(proxy, sql, kind):
    async with Stores.on(proxy.dsn) as stores:
        store = KINDS[kind].store
        version = await store(stores, batch_of(kind, "warm", 0))
        for moment in LOST:
            batch = batch_of(kind, f"lost {moment}", version)
            cut_once(proxy, moment)
            with pytest.raises(Exception) as lost:  # noqa: PT011 - a session's error is SQLAlchemy's
                await store(stores, batch)
            # Only who has sent the COMMIT himself knows that a transaction without one is rolled back.
            assert isinstance(lost.value, OutcomeUnknownError) or kind == IN_SESSION
            assert may_pass(lost.value)
            version = await store(stores, batch)
            assert await store(stores, batch) == version
        stored = sql("SELECT payload->>'batch', count(*) FROM eventstore.events GROUP BY 1")
    names = ["warm", *(f"lost {moment}" for moment in LOST)]
    assert dict(stored) == dict.fromkeys(names, batch.total)
    assert version * len(batch.streams) == batch.total * len(names)
    assert sql("SELECT count(*) FROM business") == [(len(names) if kind == IN_SESSION else 0,)]


@pytest.mark.parametrize("weather", WEATHERS)
async def test_in_any_weather_what_was_acknowledged_is_there_once_and_nothing_by_half(
    event_store_dsn, weather
):
    prepare(event_store_dsn)
    result = await endure(weather, event_store_dsn, weather.__name__, SEED)
    assert result.wrong == [], f"seed {SEED}"
    assert result.claims.unsettled == []
    assert bool(result.cuts) == bool(result.claims.unknown) == (weather is not late_and_in_pieces)
