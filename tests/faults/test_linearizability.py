"""The judge itself: histories written by hand, good and bad, and small random ones judged by brute force."""

from itertools import permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k1s0_event_store import STREAM_EXISTS
from k1s0_event_store.outcome import is_met

from .history import Append, History, Outcome, Page, Read
from .linearizability import check


def append(events, version, invoked, returned, expected=None, *, visible=None, outcome=Outcome.STORED):
    """An append of letters, one for each event."""
    visible = invoked if visible is None else visible
    return Append("s", tuple(events), expected, outcome, version, invoked, returned, visible)


def refused(events, version, invoked, returned, expected):
    return append(events, version, invoked, returned, expected, outcome=Outcome.REFUSED)


def unknown(events, invoked, expected=None):
    return append(events, None, invoked, inf, expected, outcome=Outcome.UNKNOWN)


def rolled_back(events, invoked):
    return append(events, None, invoked, inf, outcome=Outcome.NOT_STORED)


def load(events, invoked, returned):
    return Read("s", len(events), invoked, returned, tuple(enumerate(events, 1)))


def version(number, invoked, returned):
    return Read("s", number, invoked, returned)


def exists(found, invoked, returned):
    return Read("s", int(found), invoked, returned, at_least=found)


def page(events, invoked, returned, complete=True, reader="r"):
    return Page(reader, tuple(events), complete, invoked, returned)


def history(*happened):
    kinds = {Append: [], Read: [], Page: []}
    for one in happened:
        kinds[type(one)].append(one)
    return History(*kinds.values())


def kinds(*happened):
    return {fault.kind for fault in check(history(*happened))}


GOOD = {
    "nothing": (),
    "one after the other": (
        append("ab", 2, 1, 2, 0), load("ab", 3, 4), append("c", 3, 5, 6, 2), load("abc", 7, 8),
    ),
    "at the same time, in the other order": (append("a", 2, 1, 9), append("b", 1, 2, 8), load("ba", 10, 11)),
    "a look may come before or after an append that is under way": (
        append("a", 1, 1, 9), load("", 2, 3), version(1, 4, 5), load("a", 6, 7), load("a", 10, 11),
    ),
    "a refusal tells of a version between call and answer": (
        append("a", 1, 1, 5, 0), refused("b", 1, 2, 4, 0), load("a", 6, 7),
    ),
    "an unknown append that is there": (unknown("a", 1), load("a", 2, 3)),
    "an unknown append that is not there": (unknown("a", 1), load("", 2, 3)),
    "an unknown append that came late": (unknown("a", 1), load("", 2, 3), load("a", 4, 5)),
    "an unknown append that was repeated": (unknown("a", 1), append("a", 1, 2, 3), load("a", 4, 5)),
    "a repeated batch has its first answer": (
        append("a", 1, 1, 2), append("b", 2, 3, 4), append("a", 1, 5, 6), load("ab", 7, 8),
    ),
    "a rolled back append that is not there": (rolled_back("a", 1), load("", 2, 3)),
    "an append of a transaction is seen after the call of commit": (
        append("a", 1, 1, 9, visible=5), load("", 2, 4), load("a", 10, 11),
    ),
    "a stream exists": (exists(False, 0, 1), append("a", 1, 2, 9), exists(True, 3, 4), load("a", 10, 11)),
    "a missing stream is refused": (refused("a", 0, 1, 2, STREAM_EXISTS), load("", 3, 4)),
    "a feed": (
        append("a", 1, 1, 2), page("a", 3, 4), append("b", 2, 5, 6), page("b", 7, 8), load("ab", 9, 10),
    ),
    "a feed that was asked before the answer may give it later": (
        append("a", 1, 1, 5), page("", 2, 6), page("a", 7, 8), load("a", 9, 10),
    ),
    "a page that is not the last one leaves the rest to the next": (
        append("a", 1, 1, 2), append("b", 2, 3, 4), page("a", 5, 6, False), page("b", 7, 8),
        load("ab", 9, 10),
    ),
}  # fmt: skip

BAD = {
    "an acknowledged append is gone": ("lost", append("a", 1, 1, 2), load("", 3, 4)),
    "half a batch": ("torn", append("ab", 2, 1, 2), load("a", 3, 4)),
    "half an unknown batch": ("torn", unknown("ab", 1), load("a", 3, 4)),
    "a batch with another in it": (
        "torn", append("ab", 3, 1, 9), append("x", 2, 1, 9), load("axb", 10, 11),
    ),
    "half a batch was seen": (
        "never at this version", append("ab", 2, 1, 9), version(1, 3, 4), load("ab", 10, 11),
    ),
    "rolled back and there": ("stored against its answer", rolled_back("a", 1), load("a", 2, 3)),
    "refused and there": (
        "stored against its answer", append("a", 1, 1, 2), refused("b", 1, 3, 4, 0), load("ab", 5, 6),
    ),
    "nobody's event": ("from nowhere", load("a", 1, 2)),
    "one event twice": ("stored twice", unknown("a", 1), load("aa", 2, 3)),
    "a gap": ("not contiguous", append("a", 1, 1, 2), Read("s", 1, 3, 4, ((2, "a"),))),
    "two orders": (
        "no prefix", append("a", 1, 1, 9), append("b", 2, 1, 9), load("b", 2, 3), load("ab", 10, 11),
    ),
    "a wrong version as the answer": ("wrong answer", append("a", 2, 1, 2), load("a", 3, 4)),
    "two at one version": (
        "not at the expected version", append("a", 1, 1, 9, 0), append("b", 2, 1, 9, 0), load("ab", 10, 11),
    ),
    "an unknown one at another version": (
        "not at the expected version", append("a", 1, 1, 2), unknown("b", 3, 0), load("ab", 4, 5),
    ),
    "a new stream that had to exist": (
        "not at the expected version", append("a", 1, 1, 2, STREAM_EXISTS), load("a", 3, 4),
    ),
    "refused at the expected version": ("refused without a reason", refused("a", 0, 1, 2, 0), load("", 3, 4)),
    "refused at any version": ("refused without a reason", refused("a", 0, 1, 2, None), load("", 3, 4)),
    "refused because of what came later": (
        "against time", refused("b", 1, 1, 2, 0), append("a", 1, 3, 4, 0), load("a", 5, 6),
    ),
    "an old look": ("against time", append("a", 1, 1, 2), load("", 3, 4), load("a", 5, 6)),
    "an old version": ("against time", append("a", 1, 1, 2), version(0, 3, 4), load("a", 5, 6)),
    "looks that go back": (
        "against time", append("a", 1, 1, 9), load("a", 2, 3), load("", 4, 5), load("a", 10, 11),
    ),
    "versions against the order of calls": (
        "against time", append("a", 2, 1, 2), append("b", 1, 3, 4), load("ba", 5, 6),
    ),
    "seen before its commit was asked for": (
        "against time", append("a", 1, 1, 9, visible=5), load("a", 2, 4), load("a", 10, 11),
    ),
    "it exists before anything was appended": (
        "against time", exists(True, 1, 2), append("a", 1, 3, 4), load("a", 5, 6),
    ),
    "it exists and never did": ("never at this version", exists(True, 1, 2), load("", 3, 4)),
    "it does not exist any more": (
        "against time", append("a", 1, 1, 2), exists(False, 3, 4), load("a", 5, 6),
    ),
    "the feed leaves one out": ("left out", append("a", 1, 1, 2), page("", 3, 4), load("a", 5, 6)),
    "the feed leaves out what somebody saw": (
        "left out", unknown("a", 1), load("a", 2, 3), page("", 4, 5), load("a", 6, 7),
    ),
    "the feed never gives it": (
        "left out", append("a", 1, 1, 2), append("b", 2, 3, 4), page("b", 5, 6), load("ab", 7, 8),
    ),
    "the feed gives one twice": (
        "given twice", append("a", 1, 1, 2), page("a", 3, 4), page("a", 5, 6), load("a", 7, 8),
    ),
    "the feed gives what was rolled back": (
        "given and not committed", rolled_back("a", 1), page("a", 2, 3), load("", 4, 5),
    ),
    "the feed gives what is not committed yet": (
        "given before its commit", append("a", 1, 1, 9, visible=5), page("a", 2, 4), load("a", 10, 11),
    ),
    "the feed turns a stream round": (
        "out of order", append("a", 1, 1, 9), append("b", 2, 1, 9), page("ba", 10, 11), load("ab", 12, 13),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened_is_accepted(name):
    assert check(history(*GOOD[name])) == []


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_have_happened_is_found(name):
    kind, *happened = BAD[name]
    assert kind in kinds(*happened)


def other(one, stream):
    return type(one)(**{**vars(one), "stream": stream})


def test_the_feed_keeps_cause_and_effect_of_different_streams_in_order():
    cause, effect = append("a", 1, 1, 2), other(append("b", 1, 3, 4), "t")
    looks = load("a", 20, 21), other(load("b", 20, 21), "t")
    assert kinds(cause, effect, page("ab", 5, 6), *looks) == set()
    assert kinds(cause, effect, page("ba", 5, 6), *looks) == {"before its cause"}


def test_what_a_reader_was_given_is_a_cause_too():
    # The answer to the first append came late, but another reader had its event before the second was called.
    cause, effect = append("a", 1, 1, 9), other(append("b", 1, 5, 6), "t")
    looks = load("a", 20, 21), other(load("b", 20, 21), "t")
    early = page("a", 2, 3, False, "early"), page("b", 10, 11, True, "early")
    assert kinds(cause, effect, *early, page("ab", 10, 11), *looks) == set()
    assert kinds(cause, effect, *early, page("ba", 10, 11), *looks) == {"before its cause"}


TIMES = st.lists(st.integers(0, 12), min_size=2, max_size=2, unique=True).map(sorted)
APPENDED = st.sampled_from([None, None, None, 0, 1, 2, STREAM_EXISTS])
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["stored", "stored", "unknown", "refused", "load", "version", "exists"]),
        TIMES,
        st.integers(0, 3),
        APPENDED,
    ),
    min_size=2,
    max_size=5,
)


def made(operations, order):
    """A history of appends of one event, of which `order` are in the log at the end."""
    happened = []
    for number, (kind, (invoked, returned), state, expected) in enumerate(operations):
        state = min(state, len(order))
        if kind == "stored":
            happened.append(append([number], order.index(number) + 1, invoked, returned, expected))
        elif kind == "unknown":
            happened.append(unknown([number], invoked, expected))
        elif kind == "refused":
            happened.append(refused([number], state, invoked, returned, expected or 0))
        elif kind == "load":
            happened.append(load(order[:state], invoked, returned))
        elif kind == "version":
            happened.append(version(state, invoked, returned))
        else:
            happened.append(exists(state > 0, invoked, returned))
    return [*happened, load(order, 20, 21)]


def follows(state, one):
    """The state after it, if it can happen in this state (a tuple of events); else None."""
    if isinstance(one, Read):
        told = len(state) > 0 if one.at_least else len(state) == one.version
        same = one.events is None or tuple(event for _, event in one.events) == state
        return state if told and same else None
    if one.outcome is Outcome.REFUSED:
        is_right = len(state) == one.version and not is_met(one.expected, len(state))
        return state if is_right else None
    after = (*state, *one.events)
    is_right = is_met(one.expected, len(state)) and one.version in (None, len(after))
    return after if is_right else None


def has_an_order(happened):
    """What the judge says too, by trying every order, and every choice of unknown appends that happened."""
    sure = [one for one in happened if not (isinstance(one, Append) and one.outcome is Outcome.UNKNOWN)]
    maybe = [one for one in happened if one not in sure]
    chosen = [[one for bit, one in enumerate(maybe) if mask >> bit & 1] for mask in range(2 ** len(maybe))]
    return any(
        keeps_time(order) and is_legal(order) for more in chosen for order in permutations([*sure, *more])
    )


def keeps_time(order):
    return all(
        later.returned >= earlier.invoked
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def is_legal(order):
    state = ()
    for one in order:
        state = follows(state, one)
        if state is None:
            return False
    return True


@settings(max_examples=400, derandomize=True, database=None)
@given(OPERATIONS, st.data())
def test_it_judges_small_histories_as_trying_every_order_does(operations, data):
    appended = [number for number, one in enumerate(operations) if one[0] in ("stored", "unknown")]
    order = data.draw(st.permutations(appended))
    order = [number for number in order if operations[number][0] == "stored" or data.draw(st.booleans())]
    happened = made(operations, order)
    assert (check(history(*happened)) == []) == has_an_order(happened)
