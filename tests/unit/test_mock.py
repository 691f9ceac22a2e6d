"""The mock: a real store when nothing is scripted, and exactly the script when something is."""

from collections.abc import AsyncIterator

import pytest

from k1s0_event_store import (
    ConcurrencyError,
    Cursor,
    DuplicateEventError,
    EventEnvelope,
    EventFilter,
    EventStore,
    FeedPage,
    InMemoryEventStore,
    InMemorySnapshotStore,
    InvalidEventError,
    InvalidInputError,
    OutcomeUnknownError,
    Replay,
    StoreClosedError,
    StoreUnavailableError,
    StreamId,
    SyncEventStore,
    SyncInMemorySnapshotStore,
)
from k1s0_event_store.testing import Call, MockEventStore, SyncMockEventStore
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract
from k1s0_event_store.testing.mock import SCRIPTABLE

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")
DOWN = StoreUnavailableError("no connection")


def event(n, stream_id=ORDER, **fields):
    return EventEnvelope(stream_id, "Counted", {"n": n}, **fields)


def numbers(events):
    return [one.payload["n"] for one in events]


class TestUnscripted(EventStoreContract, RacingContract):
    @pytest.fixture
    def store(self):
        return MockEventStore()


class TestUnscriptedBlocking(EventStoreContract, RacingContract):
    @pytest.fixture
    def store(self):
        return ThreadedEventStore(SyncMockEventStore())


class Direct:
    """The async and the blocking mock behind one way to call them: every test below is for both."""

    def __init__(self, mock):
        self.mock = mock

    async def __call__(self, method, *args, **kwargs):
        answer = getattr(self.mock, method)(*args, **kwargs)
        if method in {"stream", "read_all"}:
            return [one async for one in answer] if isinstance(self.mock, EventStore) else list(answer)
        return await answer if isinstance(self.mock, EventStore) else answer


@pytest.fixture(params=[MockEventStore, SyncMockEventStore])
def mock(request):
    return request.param()


@pytest.fixture
def call(mock):
    return Direct(mock)


def test_the_mocks_are_event_stores():
    assert issubclass(MockEventStore, EventStore)
    assert issubclass(SyncMockEventStore, SyncEventStore)


async def test_a_scripted_conflict_is_a_true_one_and_the_retry_works(mock, call):
    await call("append", ORDER, [event(1)])
    mock.conflict_once(ORDER, [event(2), event(3)])
    late = [event(4)]
    with pytest.raises(ConcurrencyError) as refused:
        await call("append", ORDER, late, expected_version=1)
    assert (refused.value.expected_version, refused.value.actual_version) == (1, 3)
    assert await call("append", ORDER, late, expected_version=3) == 4
    assert numbers(await call("load", ORDER)) == [1, 2, 3, 4]
    mock.assert_all_used()


async def test_a_rival_may_create_the_stream_first(mock, call):
    mock.conflict_once(ORDER, [event(1)])
    with pytest.raises(ConcurrencyError, match="expected 0, got 1"):
        await call("append", ORDER, [event(2)], expected_version=0)


async def test_an_append_at_any_version_comes_after_the_rival(mock, call):
    mock.conflict_once(ORDER, [event(1)])
    assert await call("append", ORDER, [event(2)]) == 2
    assert numbers(await call("load", ORDER)) == [1, 2]


async def test_a_conflict_waits_for_its_own_stream(mock, call):
    mock.conflict_once(ORDER, [event(1)])
    assert await call("append", OTHER, [event(1, OTHER)], expected_version=0) == 1
    with pytest.raises(AssertionError, match=r"never used: conflict_once\(order-o-1\)"):
        mock.assert_all_used()
    with pytest.raises(ConcurrencyError):
        await call("append", ORDER, [event(2)], expected_version=0)


async def test_an_append_may_lose_several_times(mock, call):
    mock.conflict_once(ORDER, [event(1)])
    mock.conflict_once(ORDER, [event(2)])
    for expected, actual in ((0, 1), (1, 2)):
        with pytest.raises(ConcurrencyError, match=f"expected {expected}, got {actual}"):
            await call("append", ORDER, [event(3)], expected_version=expected)
    assert await call("append", ORDER, [event(3)], expected_version=2) == 3


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], InvalidInputError),
        ([event(1, OTHER)], InvalidEventError),
        ([event(1, version=1)], InvalidEventError),
        (["Counted"], InvalidEventError),
    ],
)
def test_a_rival_that_could_not_append_is_refused_at_once(mock, events, error):
    with pytest.raises(error):
        mock.conflict_once(ORDER, events)
    mock.assert_all_used()


async def test_a_failure_before_the_work_leaves_nothing_behind(mock, call):
    mock.fail_next("append", OutcomeUnknownError("gone"))
    batch = [event(1)]
    with pytest.raises(OutcomeUnknownError, match="gone"):
        await call("append", ORDER, batch, expected_version=0)
    assert await call("load", ORDER) == []
    assert await call("append", ORDER, batch, expected_version=0) == 1


async def test_a_failure_after_the_work_leaves_it_done(mock, call):
    mock.fail_next("append", OutcomeUnknownError("gone"), after_effect=True)
    batch = [event(1), event(2)]
    with pytest.raises(OutcomeUnknownError):
        await call("append", ORDER, batch, expected_version=0)
    assert numbers(await call("load", ORDER)) == [1, 2]
    assert await call("append", ORDER, batch, expected_version=0) == 2
    assert numbers(await call("load", ORDER)) == [1, 2]


async def test_what_the_work_itself_raises_comes_before_a_failure_after_it(mock, call):
    mock.fail_next("append", DOWN, after_effect=True)
    twice = event(1)
    with pytest.raises(DuplicateEventError):
        await call("append", ORDER, [twice, twice])
    mock.assert_all_used()


@pytest.mark.parametrize("skip", [0, 1, 3])
async def test_the_nth_call_fails_and_only_that(mock, call, skip):
    mock.fail_next("current_version", DOWN, skip=skip)
    for _ in range(skip):
        assert await call("current_version", ORDER) == 0
        with pytest.raises(AssertionError):
            mock.assert_all_used()
    with pytest.raises(StoreUnavailableError):
        await call("current_version", ORDER)
    mock.assert_all_used()
    assert await call("current_version", ORDER) == 0


ARGUMENTS = {
    "append": (ORDER, [event(9)]),
    "current_version": (ORDER,),
    "exists": (ORDER,),
    "import_batch": ([event(1, version=1)],),
    "latest_cursor": (),
    "load": (ORDER,),
    "lock": (ORDER,),
    "read_all": (),
    "read_page": (),
    "replay": (ORDER, lambda count, one: count + one.payload["n"], 0),
    "stream": (ORDER,),
}


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("method", sorted(SCRIPTABLE))
async def test_every_method_can_fail(mock, call, method, after_effect):
    mock.fail_next(method, DOWN, after_effect=after_effect)
    with pytest.raises(StoreUnavailableError) as failed:
        await call(method, *ARGUMENTS[method])
    assert failed.value is DOWN
    mock.assert_all_used()
    await call(method, *ARGUMENTS[method])


ANSWERS = {
    "append": 7,
    "current_version": 7,
    "exists": True,
    "import_batch": 7,
    "latest_cursor": Cursor("7"),
    "load": [event(7, version=7)],
    "lock": 7,
    "read_all": [event(7, version=7)],
    "read_page": FeedPage(Cursor("7"), False, list, Cursor),
    "replay": Replay("state", 7),
    "stream": [event(7, version=7)],
}


@pytest.mark.parametrize("method", sorted(SCRIPTABLE))
async def test_every_method_can_be_given_its_answer(mock, call, method):
    mock.answer_next(method, ANSWERS[method], skip=1)
    assert await call(method, *ARGUMENTS[method]) != ANSWERS[method]
    version = len(await call("load", ORDER)) if method != "load" else 0
    assert await call(method, *ARGUMENTS[method]) == ANSWERS[method]
    mock.assert_all_used()
    assert len(await call("load", ORDER)) == version


async def test_an_answer_is_not_shared_with_the_code_under_test(mock, call):
    answer = [event(1, version=1)]
    mock.answer_next("load", answer)
    (await call("load", ORDER)).clear()
    assert len(answer) == 1


async def test_answers_none_and_empty_are_answers(mock, call):
    await call("append", ORDER, [event(1)])
    mock.answer_next("load", [])
    mock.answer_next("current_version", None)
    assert await call("load", ORDER) == []
    assert await call("current_version", ORDER) is None


@pytest.mark.parametrize("method", ["stream", "read_all"])
async def test_a_stream_can_break_after_its_events(mock, call, method):
    await call("append", ORDER, [event(1), event(2)])
    mock.fail_next(method, DOWN, after_effect=True)
    seen = []
    with pytest.raises(StoreUnavailableError):
        await consume(getattr(mock, method)(*ARGUMENTS[method]), seen)
    assert numbers(seen) == [1, 2]


async def consume(events, seen):
    if isinstance(events, AsyncIterator):
        async for one in events:
            seen.append(one)
    else:
        for one in events:
            seen.append(one)


async def test_a_reading_that_broke_can_go_on_from_its_cursor(mock, call):
    await call("append", ORDER, [event(1), event(2)])
    mock.fail_next("read_all", DOWN, after_effect=True)
    events, seen = mock.read_all(), []
    with pytest.raises(StoreUnavailableError):
        await consume(events, seen)
    await call("append", ORDER, [event(3)])
    assert numbers(seen) == [1, 2]
    assert numbers(await call("read_all", events.cursor)) == [3]


async def test_scripts_of_one_method_happen_in_the_order_they_were_written(mock, call):
    mock.answer_next("load", [])
    mock.fail_next("load", DOWN)
    mock.answer_next("load", [event(5, version=5)])
    await call("append", ORDER, [event(1)])
    assert await call("load", ORDER) == []
    with pytest.raises(StoreUnavailableError):
        await call("load", ORDER)
    assert numbers(await call("load", ORDER)) == [5]
    assert numbers(await call("load", ORDER)) == [1]


@pytest.mark.parametrize("method", ["apend", "close", "within", "_called", "", None, 5])
def test_a_method_that_cannot_be_scripted_is_refused_with_those_that_can(mock, method):
    with pytest.raises(
        InvalidInputError, match="there are append, current_version, exists, import_batch, latest_cursor"
    ):
        mock.fail_next(method, DOWN)
    with pytest.raises(InvalidInputError, match=f"no method {method!r} to script"):
        mock.answer_next(method, [])
    mock.assert_all_used()


@pytest.mark.parametrize("error", [StoreUnavailableError, "down", None])
def test_a_failure_is_an_exception_object(mock, error):
    with pytest.raises(InvalidInputError, match="error must be an exception like"):
        mock.fail_next("append", error)


@pytest.mark.parametrize("skip", [-1, True, "1"])
def test_calls_to_skip_are_counted_in_whole_numbers(mock, skip):
    with pytest.raises(InvalidInputError, match="skip must be a whole number"):
        mock.fail_next("append", DOWN, skip=skip)
    with pytest.raises(InvalidInputError, match="skip must be a whole number"):
        mock.answer_next("load", [], skip=skip)


def test_everything_unused_is_named(mock):
    mock.assert_all_used()
    mock.conflict_once(ORDER, [event(1)])
    mock.fail_next("load", DOWN)
    mock.answer_next("lock", 5)
    with pytest.raises(AssertionError) as unused:
        mock.assert_all_used()
    for script in (
        "conflict_once(order-o-1)",
        "fail_next('load', StoreUnavailableError",
        "answer_next('lock')",
    ):
        assert script in str(unused.value)


async def test_calls_are_remembered_with_every_argument(mock, call):
    batch, begin, end = [event(1)], await call("latest_cursor"), Cursor("later")
    mock.calls.clear()
    mock.answer_next("read_page", FeedPage(end, False, list, Cursor))
    await call("append", ORDER, batch, expected_version=0)
    await call("load", ORDER, 1, limit=5)
    await call("stream", ORDER)
    await call("read_all")
    await call("read_all", begin, aggregate_types=["order"], event_types=["Counted"], where=bool)
    await call("read_page", begin, 5, only=EventFilter(partition=1, partitions=2), until=end)
    assert mock.calls == [
        Call("append", {"stream_id": ORDER, "events": batch, "expected_version": 0}),
        Call(
            "load",
            {"stream_id": ORDER, "from_version": 1, "to_version": None, "limit": 5, "backwards": False},
        ),
        Call("stream", {"stream_id": ORDER, "from_version": 0, "to_version": None}),
        Call("read_all", {"after": None, "aggregate_types": None, "event_types": None, "where": None}),
        Call(
            "read_all",
            {
                "after": begin,
                "aggregate_types": ["order"],
                "event_types": ["Counted"],
                "where": bool,
            },
        ),
        Call(
            "read_page",
            {
                "after": begin,
                "limit": 5,
                "only": EventFilter(partition=1, partitions=2),
                "until": end,
            },
        ),
    ]


async def test_a_failed_call_is_remembered_too(mock, call):
    mock.fail_next("load", DOWN)
    with pytest.raises(StoreUnavailableError):
        await call("load", ORDER)
    assert [one.method for one in mock.calls] == ["load"]


async def test_remembered_events_do_not_change_with_the_callers_list(mock, call):
    batch = [event(1)]
    await call("append", ORDER, batch)
    batch.clear()
    assert numbers(mock.calls[0].arguments["events"]) == [1]


async def test_replay_and_exists_are_one_call_each(mock, call):
    await call("append", ORDER, [event(1), event(2)])
    mock.calls.clear()
    assert await call("replay", ORDER, lambda total, one: total + one.payload["n"], 10) == Replay(13, 2)
    assert await call("exists", ORDER) is True
    assert [one.method for one in mock.calls] == ["replay", "exists"]


async def test_replay_begins_at_a_snapshot():
    mock, snapshots = MockEventStore(), InMemorySnapshotStore()
    await mock.append(ORDER, [event(1), event(2)])
    await snapshots.save(ORDER, 1, 100)
    replayed = await mock.replay(ORDER, lambda total, one: total + one.payload["n"], 0, snapshots)
    assert replayed == Replay(102, 2, 1)


def test_blocking_replay_begins_at_a_snapshot():
    mock, snapshots = SyncMockEventStore(), SyncInMemorySnapshotStore()
    mock.append(ORDER, [event(1), event(2)])
    snapshots.save(ORDER, 1, [100])
    replayed = mock.replay(
        ORDER, lambda t, one: t + one.payload["n"], 0, snapshots, restore=lambda state: state[0]
    )
    assert replayed == Replay(102, 2, 1)


async def test_within_shares_the_script_the_calls_and_the_events(mock):
    session = object()
    joined = mock.within(session)
    assert type(joined) is type(mock)
    mock.fail_next("append", DOWN)
    with pytest.raises(StoreUnavailableError):
        await Direct(joined)("append", ORDER, [event(1)])
    await Direct(joined)("append", ORDER, [event(2)])
    assert numbers(await Direct(mock)("load", ORDER)) == [2]
    assert [one.method for one in mock.calls] == ["within", "append", "append", "load"]
    assert mock.calls[0].arguments == {"session": session}
    mock.assert_all_used()


async def test_a_store_of_the_tests_own_stands_behind_the_script():
    real = InMemoryEventStore()
    mock = MockEventStore(real)
    await mock.append(ORDER, [event(1)])
    assert numbers(await real.load(ORDER)) == [1]


async def test_closing_the_mock_closes_the_store():
    async with MockEventStore() as mock:
        assert await mock.load(ORDER) == []
    with pytest.raises(StoreClosedError):
        await mock.load(ORDER)
    with SyncMockEventStore() as blocking:
        assert blocking.load(ORDER) == []
    with pytest.raises(StoreClosedError):
        blocking.load(ORDER)
