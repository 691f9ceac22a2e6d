"""Looking at a store: what is shown is what is there, and costs no more than what is shown."""

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    InvalidInputError,
    PostgresEventStore,
    SchemaError,
    StoreClosedError,
    StreamId,
    caused_by,
    event_metadata,
)
from k1s0_event_store.inspection import StreamFilter
from k1s0_event_store.metadata import current_metadata
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.postgres.rights import Role, grant
from k1s0_event_store.postgres.schema import upgrade_database
from k1s0_event_store.postgres.tenants import add_tenants
from k1s0_event_store.testing.plugin import cloned_database

from ..conftest import login_dsn, new_engine

ORDER = StreamId("order", "o-1")


@pytest.fixture
async def inspector(event_store_config):
    async with PostgresInspector(event_store_config) as inspector:
        yield inspector


def event(stream_id=ORDER, event_type="Placed", payload=None, **fields):
    return EventEnvelope(stream_id, event_type, {} if payload is None else payload, **fields)


async def append(store, stream_id=ORDER, count=1, **fields):
    fields.setdefault("metadata", current_metadata())
    events = [event(stream_id, payload={"n": n}, **fields) for n in range(count)]
    await store.append(stream_id, events)
    return events


def ids(views):
    return [view.event_id for view in views]


# Streams


@pytest.fixture
async def streams(event_store):
    """Sizes by stream."""
    sizes = {
        StreamId("customer", "Ann"): 1,
        StreamId("customer", "ann"): 2,
        StreamId("customer", "bob"): 3,
        StreamId("order", "100%"): 4,
        StreamId("order", "1_0"): 5,
    }
    for stream_id, size in sizes.items():
        await append(event_store, stream_id, size)
    return sizes


async def all_pages(inspector, wanted, **sizes):
    found, after = [], None
    for _ in range(20):
        page = await inspector.streams(wanted, after, **sizes)
        found += page.streams
        after = page.next_after
        if after is None:
            return found
    raise AssertionError("there is no end")


@pytest.mark.parametrize("look_at", [1, 2, 3, 100])
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_pages_show_every_stream_once_however_they_are_cut(inspector, streams, limit, look_at):
    found = await all_pages(inspector, StreamFilter(), limit=limit, look_at=look_at)
    assert {head.stream_id: head.version for head in found} == streams
    assert len(found) == len(streams)


@pytest.mark.parametrize(
    ("wanted", "versions"),
    [
        ({"aggregate_type": "customer"}, {1, 2, 3}),
        ({"aggregate_type": "cust"}, set()),
        ({"contains": "ann"}, {2}),
        ({"contains": "%"}, {4}),
        ({"contains": "_"}, {5}),
        ({"min_events": 3}, {3, 4, 5}),
        ({"max_events": 3}, {1, 2, 3}),
        ({"aggregate_type": "order", "min_events": 5, "max_events": 5}, {5}),
        ({"changed_since": datetime(2020, 1, 1, tzinfo=UTC)}, {1, 2, 3, 4, 5}),
        ({"changed_before": datetime(2020, 1, 1, tzinfo=UTC)}, set()),
    ],
)
@pytest.mark.parametrize("look_at", [2, 100])
async def test_a_filter_leaves_what_is_wanted(inspector, streams, wanted, versions, look_at):
    found = await all_pages(inspector, StreamFilter(**wanted), look_at=look_at)
    assert {head.version for head in found} == versions


async def test_a_page_that_found_nothing_says_where_to_go_on(inspector, streams):
    page = await inspector.streams(StreamFilter(contains="bob"), look_at=1)
    assert page.streams == []
    assert page.next_after in streams


async def test_a_stream_that_is_only_locked_is_none(inspector, event_store, app_engine):
    async with app_engine.begin() as connection:
        await event_store.within(connection).lock(ORDER)
    assert (await inspector.streams()).streams == []
    assert await inspector.stream(ORDER) is None


async def test_a_head_says_when_it_was_made_and_changed(inspector, event_store):
    await append(event_store)
    await append(event_store)
    head = await inspector.stream(ORDER)
    assert (head.stream_id, head.version) == (ORDER, 2)
    assert head.created_at < head.updated_at
    assert head.created_at.tzinfo is UTC


async def test_types_of_streams_are_sorted_and_limited(inspector, streams):
    assert await inspector.aggregate_types() == ["customer", "order"]
    assert await inspector.aggregate_types(1) == ["customer"]


async def test_an_empty_store_shows_nothing(inspector):
    now = datetime.now(UTC)
    assert (await inspector.streams()).next_after is None
    assert await inspector.aggregate_types() == []
    assert await inspector.latest() == []
    assert await inspector.at(1) is None
    types = await inspector.types()
    assert (types.types, types.looked_at, types.exact) == ([], 0, True)
    assert [hour.events for hour in await inspector.activity(now, timedelta(hours=1), 2)] == [0, 0]


# Events


async def test_events_of_a_stream_are_shown_as_they_are_asked_for(inspector, event_store):
    events = await append(event_store, count=5)
    every = [one.event_id for one in events]
    assert ids(await inspector.events(ORDER)) == every
    assert ids(await inspector.events(ORDER, 2, 3)) == every[1:3]
    assert ids(await inspector.events(ORDER, limit=2)) == every[:2]
    assert ids(await inspector.events(ORDER, backwards=True, limit=2)) == every[:-3:-1]
    assert await inspector.events(StreamId("order", "other")) == []


async def test_a_view_has_all_that_is_stored(inspector, event_store):
    (given,) = events = [event(payload={"b": 10**30, "a": [1.5]}, metadata={"actor": "Ann"})]
    await event_store.append(ORDER, events)
    (stored,) = await event_store.load(ORDER)
    (view,) = await inspector.find(given.event_id)
    assert view == await inspector.at(stored.position)
    facts = (view.stream_id, view.version, view.event_type, view.occurred_at, view.recorded_at)
    assert facts == (ORDER, 1, "Placed", given.occurred_at, stored.recorded_at)
    assert view.payload == '{"b":1000000000000000000000000000000,"a":[1.5]}'
    assert json.loads(view.metadata) == {"actor": "Ann"}
    (line,) = await inspector.events(ORDER)
    assert line.payload == view.payload
    assert line.payload_length == view.payload_length == len(line.payload)


async def test_a_long_payload_is_cut_and_says_its_length(inspector, event_store):
    await event_store.append(ORDER, [event(payload={"a": "x" * 1_000_000})])
    (view,) = await inspector.events(ORDER, cut=20)
    assert view.payload == '{"a":"xxxxxxxxxxxxxx'
    assert view.payload_length == 1_000_008


async def test_what_nobody_can_decode_is_shown_all_the_same(inspector, sql):
    deep = "[" * 5_000 + "]" * 5_000
    sql(
        "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type, payload,"
        " metadata, occurred_at) VALUES ('order', 'o-1', 1, gen_random_uuid(), 'Deep', %s, '[1]', now())",
        deep,
    )
    (view,) = await inspector.latest()
    assert view.payload_length == 10_000
    assert (await inspector.at(view.position)).payload == deep
    assert (await inspector.relatives(view)).events == [view]


async def test_the_latest_come_first_and_go_on_before_a_position(inspector, event_store):
    first = await append(event_store, count=2)
    second = await append(event_store, StreamId("order", "o-2"), 2)
    newest = [one.event_id for one in (*first, *second)][::-1]
    page = await inspector.latest(3)
    assert ids(page) == newest[:3]
    assert ids(await inspector.latest(3, page[-1].position)) == newest[3:]


async def test_an_id_of_two_streams_finds_both(inspector, event_store):
    shared = uuid4()
    for name in ("o-1", "o-2"):
        stream_id = StreamId("order", name)
        await event_store.append(stream_id, [event(stream_id, event_id=shared)])
    assert [view.stream_id.aggregate_id for view in await inspector.find(shared)] == ["o-1", "o-2"]
    assert await inspector.find(uuid4()) == []


# What belongs together


async def react(store, cause, stream_id):
    with caused_by(cause):
        await append(store, stream_id)
    return (await store.load(stream_id))[-1]


@pytest.fixture
async def chain(event_store):
    """Events that caused each other, each in a stream of its own, between others."""
    chain = []
    for name in ("a", "b", "c"):
        await append(event_store, StreamId("other", name), 5)
        stream_id = StreamId("step", name)
        if chain:
            chain.append(await react(event_store, chain[-1], stream_id))
        else:
            await append(event_store, stream_id)
            chain += await event_store.load(stream_id)
    return chain


INDEX = """
CREATE INDEX ON eventstore.events ((metadata ->> 'correlation_id'))
WHERE metadata ->> 'correlation_id' IS NOT NULL"""


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_causes_and_effects_are_found_from_any_of_them(inspector, chain, sql, index, which):
    if index:
        sql(INDEX)
    (view,) = await inspector.find(chain[which].event_id)
    relatives = await inspector.relatives(view)
    assert ids(relatives.events) == [one.event_id for one in chain]
    assert relatives.complete
    causes = [one.causation_id for one in relatives.events]
    assert causes == [None, str(chain[0].event_id), str(chain[1].event_id)]


async def test_events_of_one_correlation_belong_together_without_a_cause(inspector, event_store):
    with event_metadata(correlation_id="request 7"):
        first, second = [(await append(event_store, StreamId("order", name)))[0] for name in "ab"]
    await append(event_store, StreamId("order", "c"))
    (view,) = await inspector.find(second.event_id)
    assert ids((await inspector.relatives(view)).events) == [first.event_id, second.event_id]


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr("k1s0_event_store.postgres.inspector._AROUND", 3)


async def test_without_an_index_only_the_neighbourhood_and_the_causes_are_searched(inspector, chain, narrow):
    (first, last) = [(await inspector.find(chain[which].event_id))[0] for which in (0, 2)]
    from_first, from_last = await inspector.relatives(first), await inspector.relatives(last)
    assert ids(from_first.events) == [chain[0].event_id]
    assert ids(from_last.events) == [one.event_id for one in chain]
    assert not from_first.complete
    assert not from_last.complete


async def test_with_an_index_nothing_is_too_far_away(inspector, chain, narrow, sql):
    sql(INDEX)
    (first,) = await inspector.find(chain[0].event_id)
    relatives = await inspector.relatives(first)
    assert ids(relatives.events) == [one.event_id for one in chain]
    assert relatives.complete


async def test_more_relatives_than_were_asked_for_are_not_complete(inspector, event_store):
    with event_metadata(correlation_id="many"):
        events = await append(event_store, count=5)
    (view,) = await inspector.find(events[0].event_id)
    assert not (await inspector.relatives(view, limit=3)).complete
    assert (await inspector.relatives(view, limit=6)).complete


async def test_causes_in_a_circle_end(inspector, event_store):
    one, other = uuid4(), uuid4()
    await event_store.append(
        ORDER,
        [
            event(event_id=one, metadata={"causation_id": str(other)}),
            event(event_id=other, metadata={"causation_id": str(one)}),
        ],
    )
    (view,) = await inspector.find(one)
    assert ids((await inspector.relatives(view)).events) == [one, other]


@pytest.mark.parametrize("cause", ["nobody", "", 5, None, {"a": 1}, "'; --", str(UUID(int=0))])
async def test_a_cause_that_is_no_event_is_no_cause(inspector, event_store, cause):
    (given,) = await append(event_store, metadata={"causation_id": cause, "correlation_id": cause})
    (view,) = await inspector.find(given.event_id)
    assert ids((await inspector.relatives(view)).events) == [given.event_id]


# Figures


async def test_types_of_a_small_store_are_counted(inspector, event_store):
    await append(event_store, count=3)
    await append(event_store, StreamId("mail", "m"), event_type="Sent")
    types = await inspector.types()
    found = [(one.aggregate_type, one.event_type, one.events) for one in types.types]
    assert found == [("order", "Placed", 3), ("mail", "Sent", 1)]
    assert (types.looked_at, types.exact) == (4, True)
    assert types.types[1].last_seen == (await inspector.latest(1))[0].recorded_at


async def test_types_of_a_large_store_are_estimated_and_a_new_one_is_seen(inspector, event_store, sql):
    for number in range(20):
        await append(event_store, StreamId("order", str(number)), 500)
    sql("ANALYZE eventstore.events")
    await append(event_store, StreamId("mail", "m"), event_type="Sent")
    types = await inspector.types(2_000)
    shares = {one.event_type: one.events for one in types.types}
    assert 5_000 < shares["Placed"] < 20_000
    assert shares["Sent"] >= 1
    assert not types.exact
    assert 200 < types.looked_at < 9_000


async def test_activity_counts_by_when_events_were_recorded(inspector, event_store, sql):
    await append(event_store, count=10)
    sql("SET session_replication_role = replica")  # past the trigger that refuses changes
    sql(
        "UPDATE eventstore.events SET recorded_at = '2026-01-01 00:00Z'::timestamptz"
        " + (position - (SELECT min(position) FROM eventstore.events)) * interval '20 minutes'"
    )
    begin = datetime(2025, 12, 31, 23, tzinfo=UTC)
    hours = await inspector.activity(begin, timedelta(hours=1), 6)
    assert [hour.events for hour in hours] == [0, 3, 3, 3, 1, 0]
    assert [hour.begins for hour in hours] == [begin + timedelta(hours=n) for n in range(6)]


async def test_sizes_name_every_table(inspector, event_store, sql):
    await append(event_store, count=500)
    sql("ANALYZE eventstore.events")
    sizes = {size.name: size for size in await inspector.sizes()}
    tables = sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'eventstore'")
    assert sizes.keys() == {name for (name,) in tables} - {"k1s0_event_store_version"}
    assert sizes["events"].rows == 500
    assert sizes["events"].table_bytes > 10_000
    assert sizes["events"].index_bytes > 10_000
    assert sizes["inbox"].rows is None


async def test_snapshots_come_newest_first(inspector, snapshot_store):
    await snapshot_store.save(ORDER, 5, {"total": 1})
    await snapshot_store.save(ORDER, 9, {"total": 22}, schema_version=2)
    found = [(one.version, one.schema_version, one.length) for one in await inspector.snapshots(ORDER)]
    assert found == [(9, 2, 12), (5, 1, 11)]


# What is new


async def test_arrivals_are_what_was_committed_since_in_order(inspector, event_store):
    await append(event_store)
    first = await inspector.arrivals()
    assert (first.events, first.more) == ((), 0)
    events = await append(event_store, count=3)
    second = await inspector.arrivals(first.seen)
    assert ids(second.events) == [one.event_id for one in events]
    assert second.more == 0
    assert (await inspector.arrivals(second.seen)).events == []


async def test_arrivals_beyond_the_limit_are_counted_and_the_newest_shown(inspector, event_store):
    start = await inspector.arrivals()
    events = await append(event_store, count=10)
    found = await inspector.arrivals(start.seen, limit=3)
    assert ids(found.events) == [one.event_id for one in events[-3:]]
    assert found.more == 7


async def test_what_commits_late_arrives_late_and_once(inspector, event_store, app_engine):
    start = await inspector.arrivals()
    async with app_engine.connect() as connection, connection.begin() as late:
        (slow,) = await append(event_store.within(connection), StreamId("order", "slow"))
        (fast,) = await append(event_store)
        found = await inspector.arrivals(start.seen)
        assert ids(found.events) == [fast.event_id]
        await late.commit()
    found = await inspector.arrivals(found.seen)
    assert ids(found.events) == [slow.event_id]
    assert (await inspector.arrivals(found.seen)).events == []


# As other stores


async def test_it_works_on_an_engine_of_the_apps_and_in_any_schema(event_store_dsn):
    schema = 'odd "schema"; %s'
    engine = create_async_engine(event_store_dsn.replace("postgresql://", "postgresql+asyncpg://"))
    config = EventStoreConfig(schema=schema)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_database, schema, "head")
    async with PostgresEventStore(config, bind=engine) as store:
        await append(store)
    async with PostgresInspector(config, bind=engine) as inspector:
        now = datetime.now(UTC)
        (view,) = await inspector.latest()
        assert (await inspector.relatives(view)).complete
        assert (await inspector.types()).looked_at == 1
        assert len(await inspector.sizes()) == 9
        assert len((await inspector.streams(StreamFilter(aggregate_type="order"))).streams) == 1
        (hours,) = await inspector.activity(now - timedelta(hours=1), timedelta(hours=2), 1)
        assert hours.events == 1
    await engine.dispose()


async def test_without_tables_the_error_says_what_to_do(event_store_dsn):
    async with PostgresInspector(EventStoreConfig(dsn=event_store_dsn, schema="nothing_here")) as inspector:
        with pytest.raises(SchemaError, match="upgrade"):
            await inspector.streams()
        with pytest.raises(SchemaError, match="upgrade"):
            await inspector.types()


async def test_a_closed_one_says_so(inspector):
    await inspector.close()
    with pytest.raises(StoreClosedError):
        await inspector.latest()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "5", None])
async def test_a_number_that_is_none_is_refused(inspector, number):
    with pytest.raises(InvalidInputError, match="limit must be a whole number of at least 1"):
        await inspector.latest(number)
    with pytest.raises(InvalidInputError, match="look_at must be"):
        await inspector.streams(look_at=number)


async def test_a_place_in_another_type_is_refused(inspector):
    with pytest.raises(InvalidInputError, match="of the type 'order'"):
        await inspector.streams(StreamFilter(aggregate_type="order"), StreamId("mail", "m"))


# What it costs

EVENTS, STREAMS = 200_000, 50_000


@pytest.fixture(scope="module")
def large(event_store_server, event_store_template):
    with cloned_database(event_store_server, event_store_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE eventstore.events SET (autovacuum_enabled = off)")
            connection.execute("ALTER TABLE eventstore.streams SET (autovacuum_enabled = off)")
            connection.execute(
                "INSERT INTO eventstore.streams SELECT CASE WHEN n % 2 = 0 THEN 'order' ELSE 'mail' END, n, 4"
                f" FROM generate_series(1, {STREAMS}) AS n"
            )
            connection.execute(
                "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,"
                " payload, metadata, occurred_at) SELECT 'order', n / 4, n % 4 + 1,"
                " ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'T' || n % 7, '{\"a\": 1}',"
                " jsonb_build_object('correlation_id', n % 1000, 'causation_id',"
                " '00000000-0000-0000-0000-' || lpad((n - 1000)::text, 12, '0')), now()"
                f" FROM generate_series(0, {EVENTS - 1}) AS n"
            )
            name = connection.info.dbname
        yield name


@pytest.fixture(scope="module", params=["without statistics", "with statistics", "of a tenant"])
def large_config(request, event_store_server, large, tenants_login):
    with cloned_database(event_store_server, large) as dsn:
        if request.param == "with statistics":
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("ANALYZE")
        if request.param != "of a tenant":
            yield EventStoreConfig(dsn=dsn)
            return
        with new_engine(dsn).begin() as connection:
            add_tenants(connection, existing="acme")
            grant(connection, [Role.READER, Role.WRITER], tenants_login)
        yield EventStoreConfig(dsn=login_dsn(dsn, tenants_login), tenant="acme")


@asynccontextmanager
async def watched(config):
    """An inspector, and the blocks that its statements have touched so far, by EXPLAIN."""
    async with PostgresInspector(config) as inspector:
        queries, fetch = [], inspector._runner.fetch

        async def noted(query):
            queries.append(query)
            return await fetch(query)

        inspector._runner.fetch = noted

        async def plans():
            found = []
            async with inspector._own_engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                if config.tenant is not None:
                    await driver.execute(
                        f"SELECT set_config('k1s0_event_store.tenant', '{config.tenant}', false)"
                    )
                for query in queries:
                    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query.statement.dollar
                    (row,) = await driver.fetch(explain, *query.args)
                    found.append(row[0][0]["Plan"])
            queries.clear()
            return found

        yield inspector, plans


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def blocks(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


MIDDLE = EVENTS // 2
LOOKS = {
    "streams": (lambda i: i.streams(), 300),
    "streams on and on": (lambda i: i.streams(after=StreamId("order", "5")), 300),
    "streams of a type": (lambda i: i.streams(StreamFilter(aggregate_type="order")), 300),
    "streams that are none": (lambda i: i.streams(StreamFilter(contains="none"), look_at=2_000), 3_000),
    "stream": (lambda i: i.stream(StreamId("order", "6")), 10),
    "aggregate types": (lambda i: i.aggregate_types(), 30),
    "events": (lambda i: i.events(StreamId("order", "6")), 20),
    "events backwards": (lambda i: i.events(StreamId("order", "6"), backwards=True), 20),
    "latest": (lambda i: i.latest(), 20),
    "latest before": (lambda i: i.latest(before=MIDDLE), 20),
    "find": (lambda i: i.find(UUID(int=1)), 10),
    "at": (lambda i: i.at(MIDDLE), 10),
    "activity": (
        lambda i: i.activity(datetime.now(UTC) - timedelta(hours=24), timedelta(hours=1), 24),
        25 * 20 * 6,
    ),
    "sizes": (lambda i: i.sizes(), 500),
    "snapshots": (lambda i: i.snapshots(ORDER), 10),
    "types": (lambda i: i.types(2_000), 500),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_a_look_reads_what_it_shows(large_config, look):
    ask, most = LOOKS[look]
    async with watched(large_config) as (inspector, plans):
        await ask(inspector)
        for plan in await plans():
            scans = [node for node in nodes(plan) if node.get("Relation Name") in {"events", "streams"}]
            assert "Seq Scan" not in {node["Node Type"] for node in scans}
            assert blocks(plan) <= most


@pytest.mark.parametrize("index", [False, True])
async def test_relatives_read_the_neighbourhood_or_the_index(event_store_server, large, index):
    with cloned_database(event_store_server, large) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            if index:
                connection.execute(INDEX)
            connection.execute("ANALYZE eventstore.events")
        async with watched(EventStoreConfig(dsn=dsn)) as (inspector, plans):
            view = await inspector.at(MIDDLE)
            relatives = await inspector.relatives(view)
            assert len(relatives.events) >= 100
            assert relatives.complete is (index and EVENTS // 1000 < 200)
            for plan in await plans():
                scans = [node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "events"]
                assert "Seq Scan" not in scans
                assert blocks(plan) <= 3_000


async def test_arrivals_read_what_is_new(large_config):
    async with watched(large_config) as (inspector, plans), PostgresEventStore(inspector.config) as store:
        start = await inspector.arrivals()
        await append(store, StreamId("new", str(uuid4())), 10)
        assert len((await inspector.arrivals(start.seen)).events) == 10
        for plan in await plans():
            scans = [node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "events"]
            assert "Seq Scan" not in scans
            assert blocks(plan) <= 100
