"""`k1s0-event-store relay` as a process, on a real database and a real Redis."""

import asyncio
import contextlib
import re
import signal
import socket
import sys
import time

import httpx
import pytest
import redis as redis_client
from tests.acceptance.commands import Process, eventually
from tests.brokers.conftest import running
from tests.brokers.servers import redis

from k1s0_event_store import (
    EventEnvelope,
    Message,
    PostgresSubscriptionStore,
    StreamId,
    SyncPostgresEventStore,
)
from k1s0_event_store.cli.metrics import prometheus_telemetry
from k1s0_event_store.testing.plugin import _execute

HIDDEN = "hunter2-not-to-be-seen"
TOPIC = "k1s0.service.order.placed.v1"
CLOUD = ("--tier", "service", "--domain", "order")
NOWHERE = "redis://127.0.0.1:1"
ORDER = StreamId("order", "o-1")


class RelayProcess(Process):
    """The command at work."""

    @property
    def url(self):
        """Where its health is."""
        return re.search(r"health at (\S+)/health", self.says("health at").log)[1]

    def stop(self):
        """A graceful stop; the exit code."""
        self.signal(signal.SIGTERM)
        return self.ends()


@pytest.fixture
def start(tmp_path, event_store_dsn):
    """Start the command on the test's database; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def one(*arguments, **environment):
            given = ("relay", "--dsn", event_store_dsn, *arguments)
            process = RelayProcess(tmp_path, given, environment)
            stack.callback(process.kill)
            return process

        yield one


@pytest.fixture
def broker():
    with running(redis) as server:
        yield server


@pytest.fixture
def client(broker):
    with redis_client.Redis.from_url(broker.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def published(client):
    """Fields of the messages of a topic, oldest first."""
    return lambda topic=TOPIC: [fields for _, fields in client.xrange(topic)]


@pytest.fixture
def held(client):
    """Have the broker hold what is published, with no answer; True as soon as the relay waits for one."""
    client.client_pause(60_000, all=False)
    return lambda: any(one["cmd"] == "xadd" for one in client.client_list())


@pytest.fixture
def store(event_store_config):
    with SyncPostgresEventStore(event_store_config) as store:
        yield store


@pytest.fixture
def append(store):
    """Append so many events, in turn to so many streams; their ids by stream."""

    def some(count=1, streams=1):
        ids = {}
        for number in range(count):
            stream_id = StreamId("order", f"o-{number % streams}")
            event = EventEnvelope(stream_id, "order.placed", {"number": number})
            store.append(stream_id, [event])
            ids.setdefault(str(stream_id), []).append(str(event.event_id))
        return ids

    return some


@pytest.fixture
def relay_of(event_store_config):
    """What the database says of the relay."""

    async def one(name):
        async with PostgresSubscriptionStore(event_store_config) as storage:
            (status,) = await storage.statuses(name)
            return status

    return lambda name="relay": asyncio.run(one(name))


def by_key(messages):
    ids = {}
    for message in messages:
        ids.setdefault(message["key"], []).append(message["message_id"])
    return ids


# What it publishes


def test_events_and_enqueued_messages_are_published_until_a_signal_comes(
    start, broker, published, append, store, relay_of
):
    process = start("--to", broker.url, *CLOUD)
    ids = append(3)
    store.enqueue(Message("mails", "ann", b"Welcome!", content_type="text/plain"))
    eventually(lambda: published("mails"))
    messages = eventually(lambda: len(found := published()) == 3 and found)
    assert by_key(messages) == ids
    assert messages[0]["ce_source"] == "/k1s0-event-store"
    assert messages[0]["body"] == '{"number":0}'
    assert process.stop() == 0
    (partition,) = relay_of().partitions
    assert (partition.owner, partition.behind, partition.handled) == (None, 0, 4)
    first, *_, last = process.log.splitlines()
    assert re.fullmatch(
        rf"\S+ \S+ INFO relay relay: postgresql://.*, schema eventstore -> {broker.url}", first
    )
    assert last.endswith("INFO relay relay: stopped")


def test_a_graceful_stop_in_the_midst_loses_nothing_and_repeats_nothing(
    start, broker, client, published, append, held, relay_of
):
    ids = append(500, streams=5)
    process = start("--to", broker.url, *CLOUD, "--partitions", 2)
    eventually(held)
    process.signal(signal.SIGTERM)
    process.says("INFO SIGTERM: stopping")
    client.client_unpause()
    assert process.ends() == 0
    assert 0 < len(published()) < 500
    assert {partition.owner for partition in relay_of().partitions} == {None}
    assert start("--to", broker.url, *CLOUD, "--partitions", 2, "--once").ends() == 0
    assert by_key(published()) == ids


@pytest.mark.parametrize(("only", "topics"), [("events", {"orders"}), ("enqueued", {"mails"})])
def test_once_publishes_what_is_there_or_the_part_that_is_wanted(
    start, broker, published, append, store, only, topics
):
    append(3)
    store.enqueue(Message("mails", "ann", b"Welcome!"))
    form = ("--topic", "orders", "--structured", "--source", "/shop") if only == "events" else ()
    assert start("--to", broker.url, "--once", "--only", only, *form).ends() == 0
    assert {topic for topic in ("mails", "orders") if published(topic)} == topics
    assert all('"source":"/shop"' in message["body"] for message in published("orders"))


def test_a_function_makes_the_messages_and_what_it_refuses_is_parked(
    start, broker, published, append, tmp_path, relay_of
):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "outbox.py").write_text(
        "from k1s0_event_store import Message\n"
        "def to_message(event):\n"
        "    number = event.payload['number']\n"
        "    if number == 3:\n"
        "        raise ValueError('no\\nsuch number')\n"
        "    return Message('numbers', 'all', str(number).encode()) if number % 2 else None\n"
    )
    append(6, streams=6)
    arguments = ("--to", broker.url, "--message", "shop.outbox:to_message", "--once")
    process = start(*arguments, "--name", "short")
    assert process.ends() == 0
    assert sorted(message["body"] for message in published("numbers")) == ["1", "5"]
    assert relay_of("short").parked == 1
    (line,) = [line for line in process.log.splitlines() if "ERROR" in line]
    assert line.endswith(
        "short version 1 partition 0 parked version 1 of order-o-3 (order.placed): ValueError: no such number"
    )


def test_debug_shows_the_traceback_of_what_is_parked(start, broker, append, tmp_path, event_store_dsn):
    (tmp_path / "outbox.py").write_text("def to_message(event):\n    return 1 / 0\n")
    append()
    arguments = ("--debug", "relay", "--dsn", event_store_dsn, "--to", broker.url, "--once")
    process = RelayProcess(tmp_path, (*arguments, "--message", "outbox:to_message"), {})
    assert process.ends() == 0
    assert "Traceback (most recent call last)" in process.log
    assert "ZeroDivisionError" in process.log


# Its end, and outages


def test_a_second_signal_ends_it_at_once_and_what_was_in_hand_comes_again(
    start, broker, client, published, append, held, relay_of
):
    ids = append(3)
    process = start("--to", broker.url, *CLOUD, "--timeout", 60)
    eventually(held)
    process.signal(signal.SIGTERM)
    process.says("SIGTERM: stopping")
    process.signal(signal.SIGINT)
    assert process.ends(within=5) == 128 + signal.SIGINT
    assert "SIGINT again" in process.log
    assert relay_of().partitions[0].owner is None
    client.client_unpause()
    assert start("--to", broker.url, *CLOUD, "--once").ends() == 0
    assert by_key(published()) == ids


def test_a_stop_while_the_broker_does_not_answer_takes_no_longer_than_its_timeout(
    start, broker, append, held
):
    append()
    process = start("--to", broker.url, *CLOUD, "--timeout", 1)
    eventually(held)
    began = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began < 4


def test_a_broker_that_is_away_is_waited_for_and_told_of_once(start, broker, published, append):
    broker.kill()
    ids = append(3, streams=3)
    process = start("--to", broker.url, *CLOUD)
    process.says("WARNING the broker is away, the relay waits for it")
    process.says("will try again")
    time.sleep(1)
    broker.start()
    process.says("INFO relay version 1 partition 0: goes on")
    process.signal(signal.SIGINT)
    assert process.ends() == 0
    assert by_key(published()) == ids
    assert process.log.count("will try again") == 1
    assert "Traceback" not in process.log


def test_health_follows_the_relay_through_an_outage(start, broker, published, append):
    options = ("--health", "127.0.0.1:0", "--alarm-after", 1)
    process = start("--to", broker.url, *CLOUD, *options)
    with httpx.Client(base_url=process.url) as probe:
        append()
        eventually(published)
        well = eventually(lambda: (answer := probe.get("/health").json())["backlog"] == 0 and answer)
        assert (well["status"], well["name"], well["parked"]) == ("ok", "relay", 0)
        broker.kill()
        append(2)
        waits = eventually(lambda: (answer := probe.get("/health").json())["backlog"] == 2 and answer)
        assert waits["oldest_seconds"] > 0
        eventually(lambda: probe.get("/health").json()["oldest_seconds"] > waits["oldest_seconds"])
        failing = eventually(lambda: (answer := probe.get("/health")).status_code == 503 and answer).json()
        assert failing["status"] == "failing"
        assert re.match(r"the oldest event has waited for \d+ s \(limit 1 s\): Broker", failing["reason"])
        assert failing["partitions"][0]["state"] == "running"
        assert probe.get("/live").status_code == 200
        broker.start()
        again = eventually(lambda: (answer := probe.get("/health")).status_code == 200 and answer).json()
        assert (again["backlog"], again["oldest_seconds"], again["reason"]) == (0, 0, None)
    assert process.stop() == 0


def test_metrics_are_served_beside_health(start, broker, append):
    process = start("--to", broker.url, *CLOUD, "--health", "127.0.0.1:0")
    with httpx.Client(base_url=process.url) as probe:
        append(3)
        for line in (
            r'k1s0_event_store_subscription_events_total\{.*outcome="handled".*\} 3\.0',
            r'messaging_client_sent_messages_total\{.*messaging_system="redis".*\} 3\.0',
            r'k1s0_event_store_subscription_lag_time_seconds\{.*subscription_name="relay".*\} ',
            r'db_client_connection_count\{.*state="idle".*\} ',
        ):
            eventually(lambda line=line: re.search(f"^{line}", probe.get("/metrics").text, re.MULTILINE))
    assert process.stop() == 0


def test_a_paused_relay_does_not_publish_once_and_says_why(start, broker, event_store_config, append):
    append()

    async def pause():
        async with PostgresSubscriptionStore(event_store_config) as storage:
            await storage.register("relay", 1, 1)
            await storage.pause("relay")

    asyncio.run(pause())
    process = start("--to", broker.url, *CLOUD, "--once")
    assert process.ends() == 1
    assert "is paused or stopped" in process.log.splitlines()[-1]


# Passwords


def test_the_url_may_come_from_the_environment_and_its_password_is_never_shown(start, broker, client, append):
    client.execute_command("ACL", "SETUSER", "app", "on", f">{HIDDEN}", "allcommands", "allkeys")
    right = broker.url.replace("redis://", f"redis://app:{HIDDEN}@")
    append()
    good = start(*CLOUD, "--once", K1S0_EVENT_STORE_RELAY_TO=right)
    assert good.ends() == 0
    assert "redis://app:***@127.0.0.1" in good.log
    bad = start(*CLOUD, "--name", "other", K1S0_EVENT_STORE_RELAY_TO=right.replace("app", "eve"))
    bad.says("will try again")
    bad.stop()
    assert HIDDEN not in good.log + bad.log


# What is refused before anything runs


@pytest.fixture
def refused(invoke, event_store_dsn, monkeypatch):
    """The one line that the command says instead of running."""
    monkeypatch.delenv("K1S0_EVENT_STORE_RELAY_TO", raising=False)

    def said(*arguments, to=NOWHERE, dsn=event_store_dsn):
        answer = invoke("relay", "--to", to, "--dsn", dsn, *arguments)
        assert answer.exit_code == 1, answer.output
        assert answer.stderr.count("\n") == 1
        return answer.stderr.removeprefix("error: ").rstrip()

    return said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the topic k1s0.{tier}.{domain}.{event-type}.{version} needs --tier and --domain; or give"),
        (("--tier", "service"), "the topic k1s0.{tier}.{domain}.{event-type}.{version} needs --domain; or"),
        (("--topic", "all.{domain}"), "the topic all.{domain} needs --domain; or"),
        (("--topic", "{stream}"), "a topic has no {stream}: use {tier}, {domain}"),
        (("--topic", ""), "a topic is 1 to 249 ASCII letters"),
        (("--topic", "all", "--source", ""), "a CloudEvent needs a source"),
        (
            ("--only", "enqueued", "--topic", "all", "--message", "shop:f"),
            "--only enqueued publishes no events: leave out --topic, --message",
        ),
        (
            ("--message", "shop:f", "--tier", "a", "--structured"),
            "--message makes the messages, not CloudEvents: leave out --tier, --structured",
        ),
        (("--message", "shop"), "--message is MODULE:FUNCTION, like shop.outbox:to_message, not 'shop'"),
        (
            ("--message", "no_shop:f"),
            "--message no_shop:f cannot be imported: ModuleNotFoundError: ",
        ),
        (
            ("--message", "json:f"),
            "--message json:f cannot be imported: AttributeError: module 'json'",
        ),
        (("--message", "sys:path"), "to_message must be a function of an event, not ["),
        ((*CLOUD, "--concurrency", 20_000), "concurrency must be a whole number from 1 to 10,000"),
        ((*CLOUD, "--name", ""), "a subscription's name"),
        ((*CLOUD, "--health", "everywhere"), "an address to listen at is HOST:PORT, :PORT or PORT"),
    ],
)
def test_options_that_make_no_sense_are_one_line(refused, arguments, said):
    assert refused(*arguments).startswith(said)


def test_a_broker_that_nobody_knows_is_one_line_without_the_password(refused):
    said = refused(*CLOUD, to=f"mqtt://eve:{HIDDEN}@127.0.0.1")
    assert "kafka://" in said
    assert HIDDEN not in said


@pytest.mark.parametrize(
    "arguments",
    [("--timeout", "0"), ("--timeout", "nan"), ("--alarm-after", "inf"), ("--only", "both"), ("x",)],
)
def test_wrong_usage_has_exit_code_2(invoke, event_store_dsn, arguments):
    assert invoke("relay", "--to", NOWHERE, "--dsn", event_store_dsn, *CLOUD, *arguments).exit_code == 2


def test_the_broker_must_be_named(invoke, event_store_dsn, monkeypatch):
    monkeypatch.delenv("K1S0_EVENT_STORE_RELAY_TO", raising=False)
    answer = invoke("relay", "--dsn", event_store_dsn, *CLOUD)
    assert answer.exit_code == 2
    assert "--to" in answer.stderr


def test_a_database_without_tables_says_how_to_make_them(refused, event_store_dsn):
    _execute(event_store_dsn, "DROP TABLE eventstore.dead_letters, eventstore.subscriptions")
    assert "k1s0-event-store db upgrade" in refused(*CLOUD)
    _execute(event_store_dsn, "DROP SCHEMA eventstore CASCADE")
    assert "k1s0-event-store db upgrade" in refused(*CLOUD)


def test_an_unreachable_server_is_one_line_without_the_password(refused):
    assert HIDDEN not in refused(*CLOUD, dsn=f"postgresql://u:{HIDDEN}@127.0.0.1:1/x")


def test_another_number_of_partitions_is_refused(refused, event_store_config):
    async def register():
        async with PostgresSubscriptionStore(event_store_config) as storage:
            await storage.register("relay", 1, 2)

    asyncio.run(register())
    assert "has run with 2 partitions, not 1" in refused(*CLOUD)


def test_a_port_in_use_is_told_before_anything_runs(refused, event_store_config):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refused(*CLOUD, "--health", port).startswith(
            f"cannot listen at {port}: Address already in use"
        )

    async def relays():
        async with PostgresSubscriptionStore(event_store_config) as storage:
            return await storage.statuses()

    assert asyncio.run(relays()) == []


def test_without_the_extra_for_metrics_only_they_are_missed(monkeypatch):
    monkeypatch.setitem(sys.modules, "k1s0_event_store.telemetry.prometheus", None)
    assert prometheus_telemetry() is None


def test_without_the_web_extra_only_health_is_missed(refused, monkeypatch, start, broker):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "k1s0_event_store.web.serving", raising=False)
    assert refused(*CLOUD, "--health", 0) == "--health needs an extra: pip install 'k1s0-event-store[web]'"
