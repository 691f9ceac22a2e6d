"""The pages of the stream browser: what each shows, with whatever is stored."""

import json
import re
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI

from k1s0_event_store import (
    AggregateRoot,
    ConfigurationError,
    CorruptDataError,
    Decider,
    DeciderRepository,
    EventEnvelope,
    EventRegistry,
    EventStoreConfig,
    FailurePolicy,
    Repository,
    StreamId,
    Subscriber,
    SubscriptionRunner,
)
from k1s0_event_store.web import event_browser
from k1s0_event_store.web.headers import HEADERS

from .conftest import ORDER, event, looking_at

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{191919*717171}}"
STATIC = Path(event_browser.__code__.co_filename).parent / "static"

events = EventRegistry()


@events.register("Placed")
@dataclass(frozen=True)
class Placed:
    customer: str


@events.register("Shipped")
@dataclass(frozen=True)
class Shipped:
    tracking: str


@dataclass
class Order(AggregateRoot):
    aggregate_type = "order"
    customer: str = ""
    parcels: list[str] = field(default_factory=list)

    def apply(self, event):
        match event:
            case Placed():
                self.customer = event.customer
            case Shipped():
                self.parcels.append(event.tracking)


async def place(store, stream_id=ORDER, tracking=("T-1", "T-2")):
    """An order with its parcels."""
    new = [event(stream_id, "Placed", {"customer": "Ada"})]
    new += [event(stream_id, "Shipped", {"tracking": number}) for number in tracking]
    await store.append(stream_id, new, 0)


def text_of(page):
    """What a reader sees, on one line."""
    text = re.sub("</?(?:span|bdi|code)[^>]*>", "", page.text)
    return " ".join(unescape(re.sub("<[^>]*>", " ", text)).split())


PAGES = ("/", "/streams", "/events", "/types", "/subscriptions")


@pytest.mark.parametrize("path", PAGES)
async def test_an_empty_store_has_all_its_pages(client, path):
    page = await client.get(path)
    assert page.status_code == 200
    assert "<h1>" in page.text
    assert re.search("No events|No streams|No subscriptions", page.text)


async def test_the_overview_shows_what_goes_on(client, event_store, subscription_store):
    await place(event_store)
    await subscription_store.register("mailer", 1, 1)
    page = await client.get("/")
    seen = text_of(page)
    assert "Events in 24 hours about 3 " in seen
    assert re.search(r"Shipped order (≈ )?2 ", seen)
    assert re.search(r"mailer v1 no worker 3 ", seen)
    assert seen.index("Shipped order o-1 v3") < seen.index("Placed order o-1 v1")
    assert page.text.count("<rect") >= 48
    assert "per minute" in (await client.get("/?span=hour")).text


async def test_streams_are_found_by_what_is_asked_for(client, event_store):
    for number in range(3):
        await place(event_store, StreamId("order", f"o-{number}"), ["T"] * number)
    await place(event_store, StreamId("invoice", "i-1"))

    async def found(**asked):
        page = await client.get("/streams", params=asked)
        assert page.status_code == 200
        return re.findall(r'<bdi class="id">([^<]*)</bdi>', page.text)

    assert await found() == ["i-1", "o-0", "o-1", "o-2"]
    assert await found(of="order") == ["o-0", "o-1", "o-2"]
    assert await found(contains="-1") == ["i-1", "o-1"]
    assert await found(min=2, max=2) == ["o-1"]
    assert await found(since="2000-01-01", before="2001-01-01T00:00") == []
    assert await found(since="2000-01-01T00:00", of="invoice", contains="") == ["i-1"]


async def test_streams_come_page_by_page_by_key(client, event_store):
    names = [f"o-{number:03}" for number in range(120)]
    for name in names:
        await event_store.append(StreamId("order", name), [event(StreamId("order", name), "Placed")])
    seen, path = [], "/streams?of=order&contains=o-"
    while path:
        page = await client.get(path)
        seen += re.findall(r'<bdi class="id">([^<]*)</bdi>', page.text)
        onward = re.search(r'rel="next" href="([^"]*)"', page.text)
        path = onward and onward[1].replace("&amp;", "&")
    assert seen == names


async def test_a_stream_is_read_in_both_orders_page_by_page(client, event_store):
    await event_store.append(ORDER, [event(ORDER, "Placed", {"n": n}) for n in range(1, 61)])
    for order, versions in (("newest", range(60, 0, -1)), ("oldest", range(1, 61))):
        seen, path = [], f"/stream?type=order&id=o-1&order={order}"
        while path:
            page = await client.get(path)
            seen += map(int, re.findall(r'<span class="version">(\d+)</span>', page.text))
            onward = re.search(r'rel="next" href="([^"]*)"', page.text)
            path = onward and onward[1].replace("&amp;", "&")
        assert seen == list(versions)


async def test_the_slider_shows_a_stream_as_it_was(client, event_store, snapshot_store):
    await place(event_store)
    await snapshot_store.save(ORDER, 2, {"customer": "Ada"})
    page = await client.get("/stream?type=order&id=o-1&version=2")
    assert re.findall(r'<span class="version">(\d+)</span>', page.text) == ["2", "1"]
    assert 'type="range" min="1" max="3" value="2"' in page.text
    assert "State" not in text_of(page)
    assert re.search(r"Snapshots Version Taken .* 2 20", text_of(page))
    assert '<span class="version">3<' in (await client.get("/stream?type=order&id=o-1&version=99")).text


def cart(store):
    decider = Decider("cart", dict, lambda state, change: {**state, change.customer: 1}, lambda *_: [])
    return DeciderRepository(store, events, decider)


async def test_a_registered_aggregate_is_shown_with_what_changed(event_store_config, event_store):
    await place(event_store)
    await place(event_store, StreamId("cart", "c-1"), ())
    app = event_browser(
        event_store_config, aggregates=lambda store: [Repository(store, events, Order), cart(store)]
    )
    async with looking_at(app) as client:
        page = await client.get("/stream?type=order&id=o-1&version=3")
        first = await client.get("/stream?type=order&id=o-1&version=1")
        other = await client.get("/stream?type=cart&id=c-1")
    state = 'State at version 3 { "id": "o-1", "customer": "Ada", "parcels": [ "T-1", "T-2" ] }'
    assert state in text_of(page)
    assert 'Part Before After parcels[1] nothing "T-2"' in text_of(page)
    assert 'customer nothing "Ada"' in text_of(first)
    assert 'State at version 1 { "Ada": 1 }' in text_of(other)


class Tree:
    """A state of the app's own kind."""

    def __init__(self):
        self.customers = []
        self.odd = object()


async def test_a_state_of_any_class_is_shown_by_its_fields(event_store_config, event_store):
    await place(event_store, StreamId("tree", "t-1"), ())

    def evolve(tree, change):
        tree.customers.append(change.customer)
        return tree

    decider = Decider("tree", Tree, evolve, lambda *_: [])
    app = event_browser(event_store_config, aggregates=[DeciderRepository(event_store, events, decider)])
    async with looking_at(app) as client:
        page = await client.get("/stream?type=tree&id=t-1")
    assert 'State at version 1 { "customers": [ "Ada" ], "odd": "<object>" }' in text_of(page)


async def test_an_aggregate_that_cannot_be_loaded_is_no_error_of_the_page(event_store_config, event_store):
    await event_store.append(ORDER, [event(ORDER, "Placed", {"customer": [HOSTILE]})])
    app = event_browser(event_store_config, aggregates={"order": Repository(event_store, events, Order)})
    async with looking_at(app) as client:
        page = await client.get("/stream?type=order&id=o-1")
    assert page.status_code == 200
    assert "could not be loaded: EventDecodeError: version 1 of order-o-1" in text_of(page)


async def test_aggregates_are_repositories_one_for_a_type(event_store):
    orders = Repository(event_store, events, Order)
    with pytest.raises(ConfigurationError, match="two repositories for aggregates of type 'order'"):
        event_browser(bind=event_store.bind, aggregates=[orders, orders])
    with pytest.raises(ConfigurationError, match="aggregates are repositories"):
        event_browser(bind=event_store.bind, aggregates=[Order])


async def test_an_event_is_shown_among_its_causes_and_effects(client, event_store):
    first = event(ORDER, "Placed", correlation_id="c-1")
    payment, mail = StreamId("payment", "p-1"), StreamId("mail", "m-1")
    await event_store.append(ORDER, [first])
    paid = event(payment, "Paid", correlation_id="c-1", causation_id=str(first.event_id))
    await event_store.append(payment, [paid])
    await event_store.append(mail, [event(mail, "Other", correlation_id="c-2")])
    sent = event(mail, "Sent", correlation_id="c-1", causation_id=str(paid.event_id).upper())
    await event_store.append(mail, [sent])
    at = {stored.event_type: stored.position async for stored in event_store.read_all()}
    page = await client.get(f"/events/{at['Paid']}")
    nodes = re.findall(r'<a href="/events/(\d+)"[^>]*>\s*<title>(\w+) ', page.text)
    assert nodes == [(str(at[name]), name) for name in ("Placed", "Paid", "Sent")]
    assert "Sent mail-m-1 v2, caused by Paid payment-p-1 v1, 20" in page.text
    columns = [int(x) for x in re.findall(r'<circle cx="(\d+)"', page.text)]
    assert columns == sorted(set(columns))
    assert page.text.count('<path class="edge"') == 2
    assert re.search(r"As a list Placed order-o-1 v1 Paid payment-p-1 v1 Sent mail-m-1 v2", text_of(page))
    assert "Correlation c-1 Caused by " + str(first.event_id) in text_of(page)


async def test_a_long_chain_of_causes_is_shown(client, event_store):
    chain = [event(ORDER, "Step0", correlation_id="c")]
    for number in range(1, 150):
        cause = str(chain[-1].event_id)
        chain.append(event(ORDER, f"Step{number}", correlation_id="c", causation_id=cause))
    await event_store.append(ORDER, chain)
    page = await client.get("/go?to=order o-1", follow_redirects=True)
    position = re.search(r'href="/events/(\d+)"', page.text)[1]
    page = await client.get(f"/events/{position}")
    assert page.status_code == 200
    assert all(f">Step{number}<" in page.text for number in range(150))


async def test_types_are_shown_by_share_with_ways_on(client, event_store):
    await place(event_store)
    await event_store.append(StreamId("cart", "c"), [event(StreamId("cart", "c"), "Opened")])
    page = await client.get("/types")
    seen = text_of(page)
    assert "Counted from all 4 events." in seen
    assert seen.index("order 3 events, 75.0 % ") < seen.index("cart 1 event, 25.0 % ")
    assert 'href="/streams?of=cart"' in page.text
    newest = await client.get("/events?type=Shipped")
    assert re.findall(r'<bdi class="type">(\w+)<', newest.text) == ["Shipped", "Shipped"]


async def test_older_events_come_page_by_page(client, event_store):
    await event_store.append(ORDER, [event(ORDER, "A" if n % 3 else "B") for n in range(120)])
    for path, expected in (("/events", 120), ("/events?type=B", 40)):
        seen = []
        while path:
            page = await client.get(path)
            seen += map(int, re.findall(r'<td class="number"><a href="/events/(\d+)"', page.text))
            onward = re.search(r'rel="next" href="([^"]*)"', page.text)
            path = onward and onward[1].replace("&amp;", "&")
        assert len(seen) == expected
        assert seen == sorted(set(seen), reverse=True)


async def park(event_store, subscription_store, error="no price"):
    """A subscription with one event that failed, and one that waits for it."""

    async def failing(_event):
        raise ValueError(error)

    once = FailurePolicy(attempts=1)
    subscription = Subscriber("mailer", failing, failure=once)
    await SubscriptionRunner(event_store, subscription_store, [subscription]).run_until_caught_up()


async def test_subscriptions_are_shown_with_their_errors(client, event_store, subscription_store):
    await place(event_store, tracking=["T-1"])
    await park(event_store, subscription_store)
    listed = text_of(await client.get("/subscriptions"))
    assert re.search(r"mailer 1 no worker live 0 0 s only one look so far 0 2 Lag over time", listed)
    page = await client.get("/subscription?name=mailer&version=1")
    seen = text_of(page)
    assert re.search(r"Placed order o-1 v1 .* 1 ValueError: no price", seen)
    assert "waits for an earlier event of its stream" in seen
    assert "Actions" not in seen.replace("Actions are allowed", "")
    assert "/subscription/action" not in page.text


async def test_go_to_finds_streams_events_and_positions(client, event_store):
    await place(event_store)
    odd = StreamId("a-b", "c d-e")
    await place(event_store, odd)
    stored = (await event_store.load(ORDER))[0]
    where = {
        "order o-1": "/stream?type=order&id=o-1",
        "order-o-1": "/stream?type=order&id=o-1",
        "a-b-c d-e": "/stream?type=a-b&id=c+d-e",
        "a-b c d-e": "/stream?type=a-b&id=c+d-e",
        str(stored.position): f"/events/{stored.position}",
        str(stored.event_id): f"/event?id={stored.event_id}",
    }
    for text, expected in where.items():
        answer = await client.get("/go", params={"to": text})
        assert (answer.status_code, answer.headers["location"]) == (303, expected)
    by_id = await client.get(f"/event?id={stored.event_id}", follow_redirects=True)
    assert by_id.url.path == f"/events/{stored.position}"
    lost = await client.get("/go", params={"to": HOSTILE})
    assert lost.status_code == 404
    assert "Nothing is called" in lost.text


async def test_an_id_that_streams_share_is_a_choice(client, event_store):
    shared = uuid4()
    for name in ("o-1", "o-2"):
        stream_id = StreamId("order", name)
        await event_store.append(stream_id, [EventEnvelope(stream_id, "Placed", {}, event_id=shared)])
    page = await client.get(f"/event?id={shared}")
    assert page.text.count('<bdi class="type">Placed') == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/stream?type=order&id=none", 404),
        ("/events/123", 404),
        ("/events/99999999999999999999999", 404),
        ("/events/123/raw", 404),
        ("/event?id=none", 404),
        ("/event?id=01a20ab0-fa3e-72ec-8f6b-7f043388185e", 404),
        ("/subscription?name=none&version=1", 404),
        ("/subscription?name=none", 400),
        ("/subscription?name=none&version=99999999999", 400),
        ("/stream", 400),
        ("/stream?type=order", 400),
        ("/stream?type=%00&id=x", 400),
        ("/stream?type=order&id=o-1&version=x", 400),
        ("/stream?type=order&id=o-1&version=0", 400),
        ("/stream?type=order&id=o-1&version=٣", 400),
        ("/stream?type=order&id=o-1&at=9223372036854775808", 400),
        ("/stream?type=order&id=o-1&order=odd", 400),
        ("/events?before=-1", 400),
        ("/streams?min=x", 400),
        ("/streams?since=yesterday", 400),
        ("/streams?since=0001-01-01T00:00%2B14:00", 400),
        ("/streams?contains=%00", 400),
        ("/streams?of=%00", 400),
        ("/streams?after_type=x", 400),
        ("/streams?of=a&after_type=b&after_id=c", 400),
        ("/?span=year", 400),
        ("/go", 400),
        ("/go?to=%00", 400),
        ("/login", 404),
    ],
)
async def test_what_does_not_exist_or_cannot_be_meant_is_a_page_with_a_way_on(
    client, event_store, path, status
):
    await place(event_store)
    page = await client.get(path)
    assert page.status_code == status
    assert '<a class="button" href="/streams">' in page.text
    assert page.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


async def store_hostile(event_store, subscription_store):
    stream_id = StreamId(f"t{HOSTILE}", f"i{HOSTILE}/../?#\r\n%2F")
    hostile = EventEnvelope(
        stream_id,
        f"e{HOSTILE}",
        {HOSTILE: HOSTILE},
        {"correlation_id": HOSTILE, "causation_id": HOSTILE, HOSTILE: [HOSTILE]},
    )
    await event_store.append(stream_id, [hostile, event(stream_id, f"f{HOSTILE}", correlation_id=HOSTILE)])
    await park(event_store, subscription_store, HOSTILE)
    await subscription_store.register(HOSTILE, 1, 1)
    return stream_id


async def test_nothing_that_is_stored_is_markup(event_store_config, event_store, subscription_store):
    await store_hostile(event_store, subscription_store)
    seen, todo = set(), ["/", f"/streams?contains={HOSTILE}", f"/go?to={HOSTILE}"]
    app = event_browser(event_store_config, allow_actions=True)
    async with looking_at(app, follow_redirects=True) as client:
        while todo:
            path = todo.pop().replace("&amp;", "&").replace("&#39;", "'")
            shape = re.sub(r"=[^&]*", "", path)
            if shape in seen or path.startswith("/static"):
                continue
            seen.add(shape)
            page = await client.get(path)
            assert page.status_code in (200, 404), path
            if page.headers["content-type"].startswith("text/html"):
                assert "<script>" not in page.text
                assert "<img" not in page.text
                assert str(191919 * 717171) not in page.text
                assert " style=" not in page.text
                todo += re.findall(r'href="([^"#]*)"', page.text)
    assert {"/subscription?name&version", "/stream?type&id", "/types", "/events"} <= seen


async def test_a_payload_of_a_megabyte_is_cut_and_can_be_had_whole(client, event_store):
    payload = {"text": HOSTILE + "x" * 1_000_000}
    await event_store.append(ORDER, [event(ORDER, "Large", payload, note="kept")])
    (stored,) = await event_store.load(ORDER)
    stream = await client.get("/stream?type=order&id=o-1")
    page = await client.get(f"/events/{stored.position}")
    assert len(stream.content) < 100_000
    assert len(page.content) < 400_000
    assert "Only the beginning is shown" in stream.text
    assert "Only the beginning is shown" in page.text
    assert "1.0 million characters" in page.text
    raw = await client.get(f"/events/{stored.position}/raw")
    assert json.loads(raw.text) == payload
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["content-disposition"].startswith("attachment;")
    assert raw.headers["x-content-type-options"] == "nosniff"
    metadata = await client.get(f"/events/{stored.position}/raw?part=metadata")
    assert json.loads(metadata.text) == {"note": "kept"}


async def test_a_thousand_levels_are_shown(client, event_store, sql):
    await event_store.append(ORDER, [event(ORDER, "Flat")])
    deep = '{"a": ' * 1_000 + "1" + "}" * 1_000
    sql("UPDATE eventstore.streams SET version = 2")
    sql(
        "INSERT INTO eventstore.events (aggregate_type, aggregate_id, version, event_id, event_type,"
        " payload, metadata, occurred_at)"
        " VALUES ('order', 'o-1', 2, gen_random_uuid(), 'Deep', %s::jsonb, '{}', now())",
        deep,
    )
    ((position,),) = sql("SELECT max(position) FROM eventstore.events")
    for path in ("/", "/events", "/stream?type=order&id=o-1", f"/events/{position}"):
        page = await client.get(path)
        assert page.status_code == 200
        assert "Deep" in page.text
    assert (await client.get(f"/events/{position}/raw")).text == deep


async def test_a_mounted_browser_keeps_to_its_path(event_store_config, event_store):
    await place(event_store)
    browser = event_browser(event_store_config)
    app = FastAPI()
    app.mount("/admin/events", browser)
    seen, todo = set(), ["/admin/events"]
    async with browser.router.lifespan_context(browser), looking_at(app, follow_redirects=True) as client:
        while todo:
            path = todo.pop().replace("&amp;", "&")
            if path in seen:
                continue
            seen.add(path)
            page = await client.get(path)
            assert page.status_code == 200, path
            if page.headers["content-type"].startswith("text/html"):
                links = re.findall(r' (href|src|action|hx-get|sse-connect)="([^"#]+)"', page.text)
                assert all(link.startswith("/admin/events/") for _, link in links)
                todo += [link for kind, link in links if kind in ("href", "src")]
        assert (await client.get("/admin/events/go?to=order o-1")).url.path == "/admin/events/stream"
    assert "/admin/events/static/htmx.min.js" in seen


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("prefix", ["/proxy", ""], ids=["kept", "taken away"])
async def test_a_mounted_browser_stands_behind_a_proxy_with_a_prefix(event_store, prefix):
    app = FastAPI(root_path="/proxy")
    app.mount("/admin", event_browser(bind=event_store.bind))
    async with looking_at(app) as client:
        page = await client.get(f"{prefix}/admin/streams")
    assert page.status_code == 200
    assert 'href="/proxy/admin/streams" aria-current="page"' in page.text


async def test_events_of_a_rare_type_are_looked_for_step_by_step(client, event_store):
    await event_store.append(ORDER, [event(ORDER, "Rare"), *(event(ORDER, "Often") for _ in range(2_100))])
    page = await client.get("/events?type=Rare")
    assert "None among the 2,000 that were looked at." in page.text
    onward = re.search(r'rel="next" href="([^"]*)"', page.text)[1].replace("&amp;", "&")
    page = await client.get(onward)
    assert page.text.count('<bdi class="type">Rare<') == 1
    assert 'rel="next"' not in page.text


async def test_a_browser_shares_the_engine_of_the_app_and_leaves_it_open(event_store):
    await place(event_store)
    async with looking_at(event_browser(bind=event_store.bind)) as client:
        assert (await client.get("/")).status_code == 200
    assert await event_store.current_version(ORDER) == 3


async def test_another_schema_is_looked_at(event_store_dsn, event_store):
    config = EventStoreConfig(dsn=event_store_dsn, schema="elsewhere")
    async with looking_at(event_browser(config)) as client:
        page = await client.get("/streams")
    assert page.status_code == 503
    assert "k1s0-event-store db upgrade" in page.text


async def test_a_database_that_is_away_is_a_page_that_comes_back(event_store_config):
    config = EventStoreConfig(dsn="postgresql://nobody:s3cret@127.0.0.1:1/none", connect_timeout=5)
    async with looking_at(event_browser(config)) as client:
        for path in (*PAGES, "/stream?type=a&id=b", "/events/1"):
            page = await client.get(path)
            assert page.status_code == 503
            assert '<meta http-equiv="refresh" content="5">' in page.text
            assert page.headers["retry-after"] == "5"
            assert "s3cret" not in page.text


async def test_a_question_that_takes_too_long_is_given_up(event_store_config, event_store, sql, monkeypatch):
    await place(event_store)
    sql("ALTER TABLE eventstore.streams RENAME TO hidden")
    sql("CREATE VIEW eventstore.streams AS SELECT h.* FROM eventstore.hidden h, pg_sleep(60)")
    monkeypatch.setattr("k1s0_event_store.web.app._STATEMENT_MILLISECONDS", 200)
    async with looking_at(event_browser(event_store_config)) as client:
        page = await client.get("/stream?type=order&id=o-1")
    assert page.status_code == 503
    assert "took too long" in page.text
    monkeypatch.setattr("k1s0_event_store.web.app._PAGE_SECONDS", 0.2)
    async with looking_at(event_browser(bind=event_store.bind)) as client:
        page = await client.get("/stream?type=order&id=o-1")
    assert page.status_code == 503


def test_a_pooler_is_sent_no_settings(event_store_dsn):
    config = EventStoreConfig(dsn=event_store_dsn, transaction_pooler=True)
    assert event_browser(config).state.browser.inspector.config == config


@pytest.mark.parametrize("error", [RuntimeError("s3cret"), CorruptDataError("s3cret")], ids=repr)
async def test_an_error_of_ours_is_a_page_that_tells_nothing(event_store_config, monkeypatch, error):
    app = event_browser(event_store_config)

    async def broken(*_args, **_options):
        raise error

    monkeypatch.setattr(app.state.browser.inspector, "streams", broken)
    async with looking_at(app) as client:
        page = await client.get("/streams")
    assert page.status_code == 500
    assert "s3cret" not in page.text
    assert page.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


async def test_no_page_asks_for_anything_outside():
    for path in [*STATIC.glob("*.css"), *STATIC.glob("browser.js"), *STATIC.parent.glob("templates/*.html")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//\w+\.|@import|url\(http", text.replace("http://www.w3.org", "")), (
            path
        )
    for path in STATIC.parent.glob("templates/*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<script(?! src=)|\sstyle=|\son\w+=|\|\s*safe|hx-on", text), path
