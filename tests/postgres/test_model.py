"""Random histories against a model of a few lines: what the stores do and what they should."""

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from k1s0_event_store import (
    STREAM_EXISTS,
    ConcurrencyError,
    EventEnvelope,
    InMemoryEventStore,
    InMemorySnapshotStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    StreamId,
)

AGGREGATES = ("a", "b")
runs = count(1)


class History(RuleBasedStateMachine):
    """Appends, conflicts, repeats, loads, snapshots and replays on two streams."""

    make = staticmethod(lambda: (InMemoryEventStore(), InMemorySnapshotStore()))
    loop: asyncio.AbstractEventLoop

    @initialize()
    def begin(self):
        self.store, self.snapshots = self.make()
        run = next(runs)  # streams of their own for each run: the database is not emptied between
        self.ids = {name: StreamId(f"run-{run}", name) for name in AGGREGATES}
        self.model: dict[str, list[int]] = {name: [] for name in AGGREGATES}
        self.last: dict[str, tuple[list[EventEnvelope], int]] = {}

    def run(self, call):
        return self.loop.run_until_complete(call)

    @rule(
        name=st.sampled_from(AGGREGATES),
        values=st.lists(st.integers(), max_size=4),
        expected=st.one_of(st.none(), st.just(STREAM_EXISTS), st.integers(0, 12), st.just("current")),
    )
    def append(self, name, values, expected):
        stream_id, history = self.ids[name], self.model[name]
        if expected == "current":
            expected = len(history)
        events = [EventEnvelope(stream_id, "Added", value) for value in values]
        allowed = expected is None or (
            len(history) > 0 if expected is STREAM_EXISTS else expected == len(history)
        )
        try:
            answer = self.run(self.store.append(stream_id, events, expected))
        except ConcurrencyError as error:
            refused = error
        else:
            refused = None
        if refused is not None:
            assert not allowed
            assert (refused.expected_version, refused.actual_version) == (expected, len(history))
        else:
            assert allowed
            history += values
            assert answer == len(history)
            if events:
                self.last[name] = events, answer

    @rule(name=st.sampled_from(AGGREGATES), how=st.sampled_from(["exact", "any", "exists"]))
    def repeat_the_last_batch(self, name, how):
        if name in self.last:
            events, answer = self.last[name]
            expected = {"exact": answer - len(events), "any": None, "exists": STREAM_EXISTS}[how]
            assert self.run(self.store.append(self.ids[name], events, expected)) == answer

    @rule(
        name=st.sampled_from(AGGREGATES),
        first=st.integers(0, 12),
        last=st.integers(0, 12),
        backwards=st.booleans(),
    )
    def load(self, name, first, last, backwards):
        found = self.run(self.store.load(self.ids[name], first, last, backwards=backwards))
        wanted = list(enumerate(self.model[name], 1))[max(first - 1, 0) : last]
        assert [(e.version, e.payload) for e in found] == (wanted[::-1] if backwards else wanted)

    @rule(name=st.sampled_from(AGGREGATES), back=st.integers(0, 5))
    def snapshot(self, name, back):
        version = len(self.model[name]) - back
        if version > 0:
            self.run(self.snapshots.save(self.ids[name], version, sum(self.model[name][:version])))

    @invariant()
    def replay_from_snapshots_equals_the_model(self):
        for name in AGGREGATES:
            replayed = self.run(
                self.store.replay(self.ids[name], lambda s, e: s + e.payload, 0, self.snapshots)
            )
            assert (replayed.state, replayed.version) == (sum(self.model[name]), len(self.model[name]))


def check(make, examples, loop):
    machine = type("Machine", (History,), {"make": staticmethod(make), "loop": loop})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_histories_in_memory_follow_the_model():
    with asyncio.Runner() as runner:
        check(lambda: (InMemoryEventStore(), InMemorySnapshotStore()), 100, runner.get_loop())


@pytest.mark.parametrize("coalesce", [False, True])
def test_histories_on_postgres_follow_the_model(event_store_config, coalesce):
    with asyncio.Runner() as runner:
        store = PostgresEventStore(event_store_config, coalesce=coalesce)
        if coalesce:
            store._coalescer._first = object()  # as if another append were always under way
        snapshots = PostgresSnapshotStore(event_store_config, bind=store.bind)
        check(lambda: (store, snapshots), 40, runner.get_loop())
        runner.run(store.close())
