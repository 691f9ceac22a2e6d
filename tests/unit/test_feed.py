"""The snapshot cursor without a server: snapshots, places, and which queries a page takes."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k1s0_event_store import ClusterChangedError, Cursor, EventFilter, InvalidInputError
from k1s0_event_store.feed import EVERYTHING, page_size
from k1s0_event_store.postgres.feed import BEGINNING, Batch, Place, TxSnapshot, parse, read_page
from k1s0_event_store.postgres.statements import statements_for

SQL = statements_for("eventstore")
CLUSTER = 7711365830831063171
IDS = range(1, 40)


@st.composite
def snapshots(draw):
    """Snapshots of small ids."""
    xmin = draw(st.integers(3, 30))
    xmax = draw(st.integers(xmin, 35))
    running = draw(st.sets(st.integers(xmin, xmax - 1), max_size=5)) if xmax > xmin else set()
    return TxSnapshot(xmin, xmax, tuple(sorted(running)))


def snapshot(text):
    return TxSnapshot.parse(text)


def seen_by(snapshot):
    """The ids that a snapshot sees, as PostgreSQL defines it."""
    return {tx for tx in IDS if tx < snapshot.xmax and tx not in snapshot.running}


@given(snapshots())
def test_a_snapshot_comes_back_from_its_text(given):
    assert TxSnapshot.parse(str(given)) == given


@given(snapshots())
def test_a_snapshot_sees_what_is_below_its_end_and_not_running(given):
    assert {tx for tx in IDS if given.sees(tx)} == seen_by(given)


@given(snapshots(), snapshots())
def test_a_snapshot_contains_those_of_which_it_sees_everything(one, other):
    # A snapshot of PostgreSQL ends after an id that is over; without that, an answer may be "no".
    assert one.contains(other) <= (seen_by(one) >= seen_by(other))
    if other.sees(other.xmax - 1):
        assert one.contains(other) == (seen_by(one) >= seen_by(other))
    assert one.contains(one)
    assert one.contains(BEGINNING)


@given(snapshots(), st.integers(3, 35))
def test_a_snapshot_without_a_transaction_sees_all_but_that(given, tx):
    without = given.without(tx)
    assert seen_by(without) == seen_by(given) - {tx}
    assert TxSnapshot.parse(str(without)) == without
    assert given.without(None) == given


@given(snapshots(), st.sets(st.sampled_from(IDS)))
def test_of_what_may_be_running_only_what_is_known_is_seen(given, known):
    narrowed = replace(given, running=()).only(known)
    below = set(range(1, given.xmin))
    assert seen_by(narrowed) == below | {tx for tx in known if tx < given.xmax}
    assert TxSnapshot.parse(str(narrowed)) == narrowed


@given(snapshots())
def test_a_barrier_sees_what_is_below_the_oldest(given):
    assert seen_by(given.barrier()) == set(range(1, given.xmin))


@pytest.mark.parametrize(
    "text",
    ["", "5", "5:6", "a:b:", "5:4:", "0:4:", "5:9:4", "5:9:9", "5:9:7,6", "5:9:6,6", "5:9:6,", "5:9:6:"],
)
def test_what_is_no_snapshot_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        TxSnapshot.parse(text)


@given(st.integers(1, 2**63 - 1), snapshots())
def test_a_place_comes_back_from_its_cursor(cluster, seen):
    place = Place(cluster, seen)
    assert parse(Cursor(str(place.cursor()))) == place


@given(snapshots(), snapshots(), st.integers(0, 2**59), st.integers(-1, 2**59), st.integers(0, 2**59))
def test_a_place_inside_a_batch_comes_back_from_its_cursor(seen, to, after, floor, last):
    batch = Batch(CLUSTER, seen, to, after, floor, last)
    back = parse(batch.cursor())
    assert back == batch
    assert (back.floor, back.last) == (floor, last)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        " ",
        "1",
        "1 ",
        "1 2",
        "x 5:6:",
        "1 5:6",
        "1 5:6: ",
        "1  5:6:",
        "1 5:6:7",
        "1 +5:6:",
        "1 5_0:60:",
        "1 5:6:\n",
        "1 ٥:٦:",  # noqa: RUF001 - digits, but not ours
        "-1 5:6:",
        "1 5:6: 5:7:",
        "1 5:6: 5:7: 1 2",
        "1 5:6: 5:7: 1 2 3 4",
        "1 5:6: 7:5: 1 2 3",
        "1 5:6: 5:7: -1 2 3",
        "1 5:6: 5:7: 1 -2 3",
        "1 5:6: 5:7: 1 2 x",
        "1 5:6: 5:7: 1 2 " + "9" * 30,
        "1 5:" + "9" * 30 + ":",
    ],
)
def test_a_cursor_with_something_else_in_it_is_refused(text):
    with pytest.raises(InvalidInputError, match="not a cursor of this store"):
        parse(Cursor(text))


@given(snapshots(), snapshots(), st.integers(0, 9))
def test_a_place_tells_what_has_been_read(seen, to, after):
    batch = Batch(CLUSTER, seen, to, after, 0, 9)
    for tx in IDS:
        assert Place(CLUSTER, seen).has_read(tx, after) == seen.sees(tx)
        assert batch.end().has_read(tx, after) == to.sees(tx)
        for position in range(10):
            has_read = seen.sees(tx) or (to.sees(tx) and position <= after)
            assert batch.has_read(tx, position) == has_read
            assert parse(batch.at(after)).has_read(tx, position) == has_read


@given(snapshots(), snapshots())
def test_late_is_what_was_running_and_is_over(seen, to):
    late = {int(tx) for tx in Batch(CLUSTER, seen, to, 0, 0, 9).late()}
    assert late == {tx for tx in seen_by(to) - seen_by(seen) if tx < seen.xmax}


def test_where_a_batch_is_looked_for_makes_no_other_place_of_it():
    batch = Batch(CLUSTER, snapshot("5:6:"), snapshot("7:7:"), 4, 0, 9)
    assert batch == replace(batch, floor=3, last=4)
    assert batch != replace(batch, after=5)


def test_pages_stay_near_four_megabytes():
    assert page_size(0) == 500
    assert page_size(100_000) == 39
    assert page_size(50_000_000) == 1
    assert page_size(0, largest=7) == 7


# A page, step by step


def now(seen, own=None, standby=False, cluster=CLUSTER, remembered=CLUSTER, last=100, writers=None):
    """What the server answers to the first look."""
    return [(seen, own, standby, cluster, remembered, last, writers)]


def rows(*positions):
    """Events at these positions; a negative one is not wanted."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        (p > 0, "order", "o-1", "Counted", "{}", "{}", uuid4(), at, abs(p), at, abs(p)) for p in positions
    ]


def read(after, *answers, limit=3, until=None, checked=()):
    """Read a page with these answers of the server; the page, and the statements with their parameters."""
    known, queries = set(checked), []
    steps = read_page(SQL, after, limit, EVERYTHING, until, known)
    names = {statement: name for name, statement in vars(SQL).items()}
    try:
        query = next(steps)
        for answer in answers:
            queries.append((names[query.statement], query.args))
            query = steps.send(answer)
    except StopIteration as done:
        assert len(queries) == len(answers)
        return done.value, queries
    raise AssertionError(f"not answered: {names[query.statement]}")


def at(text):
    """The cursor of a place."""
    return Place(CLUSTER, snapshot(text)).cursor()


def inside(seen, to, after, floor=1, last=100):
    """A cursor inside a batch."""
    return Batch(CLUSTER, snapshot(seen), snapshot(to), after, floor, last).cursor()


def positions(page):
    return [event.position for event in page.events]


def names(queries):
    return [name for name, _ in queries]


def test_a_reader_that_is_caught_up_looks_once():
    page, queries = read(at("10:12:10"), now("10:12:10"))
    assert (page.events, page.cursor, page.more) == ([], at("10:12:10"), False)
    assert names(queries) == ["feed_now"]


def test_a_short_batch_is_one_page_by_position():
    page, queries = read(at("10:12:10"), now("12:14:12"), rows(8, -9, 2))
    assert positions(page) == [2, 8]
    assert (page.cursor, page.more) == (at("12:14:12"), False)
    assert page.cursor_after(page.events[0]) == inside("10:12:10", "12:14:12", 2, 0)
    assert names(queries) == ["feed_now", "feed_fresh"]
    assert queries[1][1][4:] == (4, "12:14:12", ["10"], 0, 100, "12", "14")


def test_a_long_batch_is_walked_from_below_its_first_event():
    page, queries = read(at("10:12:10"), now("20:20:"), rows(5, 6, 7, 8), [(5,)], rows(2, 5, 6))
    assert positions(page) == [2, 5, 6]
    assert (page.cursor, page.more) == (inside("10:12:10", "20:20:", 6, 4), True)
    assert names(queries) == ["feed_now", "feed_fresh", "feed_floor", "feed_walk"]
    assert queries[3][1][4:] == (3, "20:20:", ["10"], 0, 4, "10:12:10", 100)
    page, queries = read(page.cursor, rows(7, 100), checked={CLUSTER})
    assert (positions(page), page.cursor) == ([7, 100], at("20:20:"))
    assert names(queries) == ["feed_walk"]


def test_a_walk_that_reaches_its_last_event_ends_the_batch_with_a_full_page():
    page, _ = read(inside("10:12:10", "20:20:", 6, 4), rows(7, 8, 100), checked={CLUSTER})
    assert page.cursor == at("20:20:")


def test_the_first_event_of_all_is_not_looked_for_again():
    page, _ = read(at("10:10:"), now("20:20:"), rows(1, 2, 3, 4), [(1,)], rows(1, 2, 3))
    assert parse(page.cursor).floor == -1
    _, queries = read(page.cursor, rows(4), checked={CLUSTER})
    assert names(queries) == ["feed_walk"]
    assert queries[0][1][8] == 3


def test_a_batch_that_others_began_may_have_something_after_it():
    cursor = inside("10:10:", "20:20:", 50)
    for page in (
        read(cursor, rows(60), checked={CLUSTER})[0],
        read(cursor, now("30:30:"), rows(60))[0],
    ):
        assert (page.cursor, page.more, page.end) == (at("20:20:"), True, None)


def test_a_reading_ends_with_what_was_committed_when_it_began():
    page, _ = read(at("10:10:"), now("20:20:"), rows(1, 2, 3, 4), [(1,)], rows(1, 2, 3))
    assert page.end == at("20:20:")
    page, _ = read(page.cursor, rows(4), until=page.end, checked={CLUSTER})
    assert (page.cursor, page.more) == (at("20:20:"), False)


def test_a_page_of_nothing_that_is_wanted_moves_on():
    page, _ = read(None, now("20:20:"), rows(-1, -2, -3))
    assert (page.events, page.more) == ([], True)
    assert page.cursor == inside("3:3:", "20:20:", 3, 0)


def test_the_transaction_that_reads_is_not_over_yet():
    page, queries = read(at("10:12:10"), now("11:14:", own=12), rows(8))
    assert page.cursor == at("11:14:12")
    assert queries[1][1][5] == "11:14:12"


def test_on_a_standby_all_may_be_running_that_is_not_seen():
    page, queries = read(at("9:9:"), now("10:15:", standby=True, writers=[11, 13]), rows(8))
    assert page.cursor == at("10:15:10,12,14")
    assert queries[1][1][5] == "10:15:10,12,14"


def test_a_standby_waits_where_too_much_may_be_running():
    page, queries = read(at("9:9:"), now("10:9000:", standby=True, writers=[11, 13]))
    assert (page.events, page.cursor, page.more) == ([], at("9:9:"), False)
    assert names(queries) == ["feed_now"]


def test_a_standby_is_looked_at_before_every_page():
    cursor, known = inside("10:10:", "20:20:", 50), set()
    for standby in (True, False, False):
        steps = read_page(SQL, cursor, 3, EVERYTHING, None, known)
        assert next(steps).statement is (SQL.feed_walk if known else SQL.feed_now)
        if not known:
            query = steps.send(now("30:30:", standby=standby, writers=[] if standby else None))
            assert query.statement is SQL.feed_walk
        steps.close()
    assert known == {CLUSTER}


@pytest.mark.parametrize("behind", ["9:9:", "12:12:", "10:15:11", "12:14:12"])
def test_a_server_that_is_behind_a_place_waits_there(behind):
    page, _ = read(at("12:14:"), now(behind))
    assert (page.events, page.cursor, page.more) == ([], at("12:14:"), False)
    page, _ = read(inside("5:5:", "12:14:", 7), now(behind))
    assert (page.events, page.cursor, page.more) == ([], inside("5:5:", "12:14:", 7), False)
    page, _ = read(at("5:5:"), now(behind), until=at("12:14:"))
    assert (page.events, page.cursor, page.more) == ([], at("5:5:"), False)


def test_another_cluster_is_refused():
    other = CLUSTER + 1
    elsewhere = Place(other, BEGINNING).cursor()
    for after, until, answer in (
        (None, None, now("20:20:", remembered=other)),
        (None, None, now("20:20:", remembered=None)),
        (None, None, now("20:20:", cluster=other)),
        (elsewhere, None, now("20:20:")),
        (None, elsewhere, now("20:20:")),
        (inside("5:5:", "12:14:", 7), elsewhere, now("20:20:")),
        (inside("5:5:", "12:14:", 7), None, now("20:20:", cluster=other, remembered=other)),
    ):
        with pytest.raises(ClusterChangedError):
            read(after, answer, until=until, checked={other} - {parse(after).cluster if after else 0})


def test_nothing_is_asked_where_the_end_is_reached():
    for cursor in (at("12:14:12"), inside("5:5:", "12:14:", 7)):
        page, queries = read(cursor, until=cursor)
        assert (page.events, page.cursor, page.more, queries) == ([], cursor, False, [])
    until = inside("5:5:", "12:14:", 7, last=100)
    page, queries = read(inside("5:5:", "12:14:", 7, last=7), until=until)
    assert (str(page.cursor), queries) == (str(until), [])


def test_on_the_way_to_a_place_inside_a_batch_comes_the_beginning_of_that_batch():
    until = inside("12:14:13", "20:20:", 50, 30)
    page, queries = read(at("5:5:"), now("30:30:"), rows(1), until=until)
    assert (page.cursor, page.more, queries[1][1][5]) == (at("12:14:13"), True, "12:14:13")
    page, queries = read(page.cursor, now("30:30:"), rows(31), until=until)
    assert (positions(page), page.cursor, page.more) == ([31], until, False)
    assert queries[1][1][4:] == (3, "20:20:", ["13"], 0, 30, "12:14:13", 50)


@pytest.mark.parametrize(
    ("after", "until", "walked"),
    [
        (inside("5:5:", "9:9:", 7), at("12:14:12"), ("9:9:", 100)),
        (inside("5:5:", "9:9:", 7), inside("9:9:", "20:20:", 50), ("9:9:", 100)),
        (inside("5:5:", "20:20:", 7), at("12:14:12"), ("12:14:12", 100)),
        (inside("5:5:", "20:20:", 7), inside("5:5:", "20:20:", 9), ("20:20:", 9)),
        (inside("5:5:", "20:20:", 7), inside("5:5:", "18:18:", 9), ("18:18:", 9)),
    ],
)
def test_a_batch_is_read_no_further_than_to_the_end_that_was_given(after, until, walked):
    _, queries = read(after, rows(8), until=until, checked={CLUSTER})
    assert names(queries) == ["feed_walk"]
    assert (queries[0][1][5], queries[0][1][-1]) == walked


@pytest.mark.parametrize(
    "until",
    [
        at("5:5:"),
        at("3:3:"),
        inside("3:3:", "5:5:", 50),
        inside("5:5:", "20:20:", 6),
        inside("5:5:", "9:9:", 7),
    ],
)
def test_an_end_that_was_passed_gives_nothing(until):
    after = inside("5:5:", "20:20:", 7)
    page, queries = read(after, until=until, checked={CLUSTER})
    assert (page.events, page.cursor, page.more, queries) == ([], after, False, [])


@pytest.mark.parametrize(
    "until", [inside("9:9:", "18:18:", 50), inside("5:5:", "25:25:", 50), inside("9:9:", "25:25:", 50)]
)
def test_an_end_that_cannot_be_reached_exactly_is_refused(until):
    with pytest.raises(InvalidInputError, match="not on the way"):
        read(inside("5:5:", "20:20:", 7), until=until, checked={CLUSTER})


def test_filters_are_sent_as_lists_and_numbers():
    only = EventFilter(("order",), ("Paid", "Placed"), partition=2, partitions=5)
    steps = read_page(SQL, None, 3, only, None, set())
    next(steps)
    assert steps.send(now("20:20:")).args[:5] == (["order"], ["Paid", "Placed"], 5, 2, 3)
