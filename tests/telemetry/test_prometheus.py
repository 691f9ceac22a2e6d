"""The text for Prometheus, who serves it, and the dashboard that reads it."""

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from k1s0_event_store import (
    InMemoryEventStore,
    Projection,
    StreamId,
    Subscriber,
    SubscriptionRunner,
)
from k1s0_event_store.memory import InMemorySubscriptionStore
from k1s0_event_store.telemetry import conventions
from k1s0_event_store.telemetry.prometheus import PrometheusTelemetry
from k1s0_event_store.testing.contract import new_events
from k1s0_event_store.web.health import health_app
from k1s0_event_store.web.service import run_service
from k1s0_event_store.web.serving import serve

from .exercise import SECRET, exercise

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ORDER = StreamId("order", "o-1")

MATCHERS = re.compile(r"\{([^{}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
NAME = re.compile(r"\b(?:k1s0_event_store|db_client|messaging)_\w+")


@pytest.fixture
def telemetry():
    return PrometheusTelemetry()


def samples_in(text):
    """The labels of each sample, by its name."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_the_text_has_every_metric_that_the_page_lists(telemetry, event_store):
    await exercise(telemetry, event_store)
    text, content_type = await telemetry.render()
    assert content_type.startswith("text/plain; version=")
    assert SECRET not in text.decode()
    exposed = {re.sub("_(bucket|count|sum)$", "", name) for name in samples_in(text.decode())}
    exposed -= {"target_info", *(name for name in exposed if name.endswith("_created"))}
    # What ends in _count is not the count of a histogram.
    exposed = {"db_client_connection_count" if name == "db_client_connection" else name for name in exposed}
    page = (DOCS / "telemetry.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `((?:db|messaging|k1s0)_\w+)` ", page, re.MULTILINE)) == exposed


async def test_every_query_of_the_dashboard_finds_its_metrics_and_labels(telemetry, event_store):
    await exercise(telemetry, event_store)
    text, _ = await telemetry.render()
    exposed = samples_in(text.decode())
    for panel in PANELS:
        for target in panel["targets"]:
            names, labels = names_and_labels(target["expr"], target["legendFormat"])
            assert names, target["expr"]
            for name in names:
                assert name in exposed, name
                missing = labels - exposed[name]
                assert not missing, f"{name} has no {missing}"
    (query,) = [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert label in exposed[name]


def names_and_labels(expression, legend):
    """What a query reads: names of metrics, and all the labels that it uses."""
    matched = [
        part.split("=")[0].rstrip("!~ ") for one in MATCHERS.findall(expression) for part in one.split(", ")
    ]
    grouped = [label.strip() for one in GROUPING.findall(expression) for label in one.split(",")]
    shown = re.findall(r"\{\{(\w+)\}\}", legend)
    assert set(shown) <= set(grouped), legend
    rest = GROUPING.sub("", MATCHERS.sub("", expression))
    return set(NAME.findall(rest)), {*matched, *grouped}


def test_the_dashboard_is_one_that_grafana_can_show():
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        variables = set(re.findall(r"\$(\w+)", json.dumps(panel["targets"]))) - {"__rate_interval"}
        assert variables <= {one["name"] for one in DASHBOARD["templating"]["list"]}


def test_the_names_are_unique():
    names = [value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)]
    assert len(set(names)) == len(names)


async def check():
    return {"status": "ok"}


async def test_metrics_are_served_beside_health():
    async def metrics():
        return b"a 1\n", "text/plain; version=1.0.0"

    async with serve(health_app(check, metrics), "0") as url, httpx.AsyncClient(base_url=url) as client:
        answer, health = await client.get("/metrics"), await client.get("/health")
    assert (answer.status_code, answer.text, health.status_code) == (200, "a 1\n", 200)
    assert answer.headers["content-type"] == "text/plain; version=1.0.0"
    assert answer.headers["cache-control"] == "no-store"


async def test_without_metrics_there_is_no_such_page():
    async with serve(health_app(check), "0") as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/metrics")).status_code == 404


def a_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def answers(client, path, condition):
    """The answer that meets the condition, as soon as there is one."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.get(path)
                if condition(answer):
                    return answer
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.01)


async def test_a_runner_is_a_service_until_a_signal_comes(telemetry):
    async def handle(event, session):
        pass

    async def stops(event):
        raise ValueError("no")

    memory = InMemoryEventStore()
    store, storage = telemetry.store(memory), InMemorySubscriptionStore(memory)
    subscriptions = [Projection("table", handle), Subscriber("mail", stops)]
    subscriptions[1].failure = type(subscriptions[1].failure)(attempts=1, park=False)
    runner = SubscriptionRunner(
        store, storage, [telemetry.subscription(one) for one in subscriptions], observe=telemetry.observe
    )
    telemetry.watch(storage)
    address = f"127.0.0.1:{a_port()}"
    service = asyncio.create_task(run_service(runner, address, metrics=telemetry.render))
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        well = await answers(client, "/health", lambda answer: answer.status_code == 200)
        assert [one["name"] for one in well.json()["subscriptions"]] == ["table", "mail"]
        await store.append(ORDER, new_events(ORDER, 3))
        failing = await answers(client, "/health", lambda answer: answer.status_code == 503)
        assert failing.json()["reason"].startswith("mail: partition 0 is stopped: version 1 of order-o-1")
        lag = "k1s0_event_store_subscription_lag_events"
        metrics = await answers(client, "/metrics", lambda answer: lag in answer.text)
        assert lag in samples_in(metrics.text)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await service == 0
