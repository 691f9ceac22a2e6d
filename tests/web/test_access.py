"""Who may look at the stream browser, and who may act: refusals, tokens, forms of other sites."""

import re

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from k1s0_event_store import (
    ConfigurationError,
    EventStoreConfig,
    FailurePolicy,
    StreamId,
    Subscriber,
    SubscriptionRunner,
)
from k1s0_event_store.web import event_browser
from k1s0_event_store.web.access import WrongTokens
from k1s0_event_store.web.headers import HEADERS
from k1s0_event_store.web.serving import serve_browser
from k1s0_event_store.web.sessions import COOKIE, Sessions

from .conftest import TOKEN, event, fields_of, looking_at

PAGE = {"Accept": "text/html"}


def act(client, fields, **options):
    return client.post("/subscription/action", data=fields, **options)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8021", "127.0.0.1:8021", "[::1]:8021", "LOCALHOST."]
)
async def test_this_machine_may_look(client, host):
    assert (await client.get("/streams", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # DNS rebinding: its name was made to point to 127.0.0.1
        {"Host": "localhost.evil.example:8021"},
        {"Host": "192.168.0.7"},
        {"Host": ""},
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/live", "/nothing", "/subscription/action"])
async def test_others_may_not_look(client, path, headers):
    page = await client.get(path, headers=headers)
    assert page.status_code == 403
    assert "Only this machine may look" in page.text


@pytest.mark.parametrize("client", [("192.168.0.9", 1234), None], ids=["another", "unknown"])
async def test_another_machine_may_not_look_by_any_name(event_store_config, client):
    app = event_browser(event_store_config)
    transport = httpx.ASGITransport(app, client=client)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        assert (await client.get("/")).status_code == 403


async def test_with_a_token_one_logs_in_first(event_store_config):
    app = event_browser(event_store_config, token=TOKEN)
    async with looking_at(app, "https://store.example", headers=PAGE) as client:
        turned_away = await client.get("/streams?of=order")
        assert turned_away.status_code == 303
        login = await client.get(turned_away.headers["location"])
        assert (login.status_code, fields_of(login)) == (200, {"next": "/streams?of=order"})
        assert TOKEN not in login.text
        assert "Log out" not in login.text
        wrong = await client.post("/login", data={"token": "wrong", "next": "/"})
        assert (wrong.status_code, COOKIE in client.cookies) == (401, False)
        right = await client.post("/login", data={"token": TOKEN, **fields_of(login)})
        assert (right.status_code, right.headers["location"]) == (303, "/streams?of=order")
        cookie = right.headers["set-cookie"]
        assert re.search(r"; HttpOnly; Max-Age=43200; Path=/; SameSite=strict; Secure$", cookie)
        page = await client.get("/streams?of=order")
        assert page.status_code == 200
        assert TOKEN not in page.text
        assert "Log out" in page.text
        out = await client.post("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "/login")
        assert (await client.get("/")).status_code == 303


async def test_what_is_no_page_gets_401_without_a_token(event_store_config):
    async with looking_at(event_browser(event_store_config, token=TOKEN)) as client:
        for headers in ({}, {"Accept": "text/event-stream"}, {**PAGE, "HX-Request": "true"}):
            assert (await client.get("/", headers=headers)).status_code == 401
        assert (await act(client, {})).status_code == 401
        assert (await client.get("/static/browser.css")).status_code == 200
        assert (await client.get("/static/../app.py")).status_code in (401, 404)


async def test_programs_send_the_token_along(event_store_config):
    async with looking_at(event_browser(event_store_config, token=TOKEN)) as client:
        right = await client.get("/types", headers={"Authorization": f"Bearer {TOKEN}"})
        wrong = await client.get("/types", headers={"Authorization": f"Bearer {TOKEN}x"})
    assert (right.status_code, wrong.status_code) == (200, 401)


async def test_wrong_tokens_are_limited(event_store_config):
    async with looking_at(event_browser(event_store_config, token=TOKEN)) as client:
        codes = [(await client.post("/login", data={"token": f"guess {n}"})).status_code for n in range(11)]
        assert codes == [401] * 10 + [429]
        assert (await client.post("/login", data={"token": TOKEN})).status_code == 429
        assert (await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 401


def test_after_a_minute_one_may_try_again():
    now = 0.0
    wrong = WrongTokens(lambda: now)
    for _ in range(10):
        assert not wrong.must_wait("10.0.0.1")
        wrong.add("10.0.0.1")
    assert wrong.must_wait("10.0.0.1")
    assert not wrong.must_wait("10.0.0.2")
    now = 61.0
    assert not wrong.must_wait("10.0.0.1")


def test_clients_that_guess_do_not_fill_the_memory():
    wrong = WrongTokens()
    for number in range(5_000):
        wrong.add(f"10.0.{number}")
    assert len(wrong._times) == 1_000


@pytest.mark.parametrize(
    "onward", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/\n/x"]
)
async def test_a_login_leads_to_no_other_site(event_store_config, onward):
    async with looking_at(event_browser(event_store_config, token=TOKEN)) as client:
        answer = await client.post("/login", data={"token": TOKEN, "next": onward})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_proxy_says_who_asks(event_store_config):
    app = event_browser(event_store_config, user_header="X-Forwarded-User")
    async with looking_at(app, "https://store.example") as client:
        assert (await client.get("/types")).status_code == 403
        assert (await client.get("/types", headers={"X-Forwarded-User": " "})).status_code == 403
        assert (await client.get("/types", headers={"X-Forwarded-User": "ada"})).status_code == 200


async def test_the_app_decides(event_store_config):
    async def allow(request):
        return request.headers.get("x-role") == "operator"

    async with looking_at(event_browser(event_store_config, allow=allow), "https://store.example") as client:
        assert (await client.get("/types")).status_code == 403
        assert (await client.get("/types", headers={"X-Role": "operator"})).status_code == 200


def test_contradictions_and_weak_tokens_are_refused(event_store_config):
    with pytest.raises(ConfigurationError, match="one of token and user_header"):
        event_browser(event_store_config, token=TOKEN, user_header="X-User")
    with pytest.raises(ConfigurationError, match="at least 16 characters"):
        event_browser(event_store_config, token="x" * 15)
    with pytest.raises(ConfigurationError, match="name like X-Forwarded-User"):
        event_browser(event_store_config, user_header="X User")


async def test_it_is_not_served_to_other_machines_without_asking_who_comes(event_store_config):
    with pytest.raises(ConfigurationError, match="other machines could look"):
        async with serve_browser(event_browser(event_store_config), "0.0.0.0:0"):
            pass
    async with (
        serve_browser(event_browser(event_store_config, token=TOKEN), "0.0.0.0:0") as url,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{url.rpartition(':')[2]}") as client,
    ):
        assert (await client.get("/streams")).status_code == 401


async def test_every_answer_is_strict(client):
    for path in ("/", "/static/browser.css", "/static/none", "/nothing", "/streams?min=x", "/go?to=1"):
        answer = await client.get(path)
        assert answer.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    refused = await client.post("/")
    assert refused.status_code == 405
    assert refused.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")


async def test_no_page_shows_a_password(event_store_config, event_store_dsn):
    with_password = event_store_dsn.replace("postgres@", "postgres:s3cret@")
    assert with_password != event_store_dsn
    config = EventStoreConfig(dsn=with_password)
    async with looking_at(event_browser(config, token=TOKEN, secret="s3cret" * 3)) as client:
        await client.post("/login", data={"token": TOKEN})
        for path in ("/", "/streams", "/events", "/types", "/subscriptions", "/nothing", "/login"):
            answer = await client.get(path)
            assert "s3cret" not in answer.text + str(answer.headers)
            assert TOKEN not in answer.text + str(answer.headers)


# Actions


@pytest.fixture
async def mailer(subscription_store):
    """A subscription."""
    await subscription_store.register("mailer", 1, 1)

    async def state():
        (status,) = await subscription_store.statuses("mailer")
        return status.partitions[0].state.value

    return state


PAUSE = {"do": "pause", "name": "mailer", "version": "1"}


async def test_a_browser_only_looks_unless_it_is_allowed_to_act(client, mailer):
    page = await client.get("/subscription?name=mailer&version=1")
    assert "/subscription/action" not in page.text
    assert (await client.get("/subscription/action", params=PAUSE)).status_code == 403
    assert (await act(client, PAUSE)).status_code == 403
    assert await mailer() == "no worker"


async def test_a_browser_that_only_looks_has_read_only_connections(event_store_config):
    app = event_browser(event_store_config)
    async with looking_at(app):
        connection = app.state.browser.inspector.bind
        async with connection.connect() as open_connection:
            settings = [
                (await open_connection.exec_driver_sql(f"SHOW {name}")).scalar_one()
                for name in ("default_transaction_read_only", "statement_timeout")
            ]
    assert settings == ["on", "10s"]


async def test_an_action_is_confirmed_first(acting, mailer):
    page = await acting.get("/subscription?name=mailer&version=1")
    assert "do=pause" in page.text
    confirmation = await acting.get("/subscription/action", params=PAUSE)
    assert "It rests at once, in all processes." in confirmation.text
    assert await mailer() == "no worker"
    done = await act(acting, fields_of(confirmation))
    assert done.status_code == 303
    assert await mailer() == "paused"
    assert "It is paused." in (await acting.get(done.headers["location"])).text


async def do(client, **wanted):
    """Confirm an action; the page that comes of it."""
    asked = await client.get("/subscription/action", params={"name": "mailer", "version": 1, **wanted})
    return await act(client, fields_of(asked), follow_redirects=True)


async def test_every_action_does_what_it_says(acting, event_store, subscription_store):
    async def failing(_event):
        raise ValueError("no price")

    for name in ("o-1", "o-2"):
        await event_store.append(StreamId("order", name), [event(StreamId("order", name), "Placed")])
    mailer = Subscriber("mailer", failing, failure=FailurePolicy(attempts=1))
    await SubscriptionRunner(event_store, subscription_store, [mailer]).run_until_caught_up()

    async def status():
        (found,) = await subscription_store.statuses("mailer")
        return found

    assert "Parked events will be retried: 1." in (await do(acting, do="retry", type="order", id="o-1")).text
    assert "Parked events dropped: 1." in (await do(acting, do="drop", type="order", id="o-2")).text
    assert (await status()).parked == 1
    assert "Parked events dropped: 1." in (await do(acting, do="drop")).text
    assert (await status()).parked == 0
    assert "It is paused." in (await do(acting, do="pause")).text
    assert "It goes on." in (await do(acting, do="resume")).text
    assert (await status()).partitions[0].behind == 0
    assert "It went back to the beginning" in (await do(acting, do="rebuild")).text
    assert (await status()).partitions[0].behind == 2


async def test_a_form_needs_the_token_of_its_own_session(event_store_config, acting, mailer):
    fields = fields_of(await acting.get("/subscription/action", params=PAUSE))
    token = fields.pop("form_token")
    async with looking_at(event_browser(event_store_config, allow_actions=True)) as other:
        others = fields_of(await other.get("/subscription/action", params=PAUSE))["form_token"]
    again = Sessions().form_token("guessed")
    for wrong in ({}, {"form_token": ""}, {"form_token": others}, {"form_token": again}, {"form_token": "é"}):
        assert (await act(acting, {**fields, **wrong})).status_code == 403
    acting.cookies.clear()
    assert (await act(acting, {**fields, "form_token": token})).status_code == 403
    acting.cookies.set(COOKIE, "forged.99999999999.0123")
    assert (await act(acting, {**fields, "form_token": token})).status_code == 403
    assert await mailer() == "no worker"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
async def test_a_form_of_another_site_is_refused(acting, mailer, headers):
    fields = fields_of(await acting.get("/subscription/action", params=PAUSE))
    assert (await act(acting, fields, headers=headers)).status_code == 403
    assert await mailer() == "no worker"
    for good in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}):
        assert (await act(acting, fields, headers=good)).status_code == 303
    assert await mailer() == "paused"


async def test_forms_are_short_and_of_one_kind(acting):
    form = "application/x-www-form-urlencoded"
    for content_type, body, status in (
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/json", b"{}", 415),
        (form, b"a=" + b"x" * 20_000, 413),
        (form, b"&".join([b"a=b"] * 1_000), 400),
        (form, b"\xff=1", 400),
    ):
        answer = await acting.post(
            "/subscription/action", content=body, headers={"Content-Type": content_type}
        )
        assert answer.status_code == status


async def test_an_action_that_there_is_not_is_refused(acting, mailer):
    fields = fields_of(await acting.get("/subscription/action", params=PAUSE))
    assert (await act(acting, {**fields, "do": "remove"})).status_code == 400
    assert (await act(acting, {**fields, "name": "none"})).status_code == 404
    assert (await acting.get("/subscription/action?do=pause&name=none&version=1")).status_code == 404


async def test_sessions_of_one_secret_are_shared_by_processes(event_store_config, mailer):
    def process(**options):
        return looking_at(event_browser(event_store_config, allow_actions=True, **options))

    for options, status in (({"secret": "shared"}, 303), ({}, 403)):
        async with process(**options) as one, process(**options) as other:
            fields = fields_of(await one.get("/subscription/action", params=PAUSE))
            other.cookies.update(one.cookies)
            assert (await act(other, fields)).status_code == status


def test_a_session_ends(monkeypatch):
    sessions = Sessions()
    now = 1_000.0
    monkeypatch.setattr("k1s0_event_store.web.sessions.time", lambda: now)
    scope = {"type": "http", "headers": [], "scheme": "http", "path": "/", "server": ("localhost", 80)}
    answer = Response()
    session = sessions.new()
    sessions.keep(session, Request(scope), answer)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    with_cookie = Request({**scope, "headers": [(b"cookie", cookie.encode())]})
    assert sessions.current(with_cookie) == session
    now += 12 * 3600 + 1
    assert sessions.current(with_cookie) is None
