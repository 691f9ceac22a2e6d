"""Health: what it says of a subscription, and how it is served."""

import asyncio
import json
import signal
import socket
from dataclasses import replace

import httpx
import pytest

from k1s0_event_store import ConfigurationError, EventEnvelope, StoreUnavailableError, StreamId
from k1s0_event_store import subscription_health as module
from k1s0_event_store.memory import InMemoryEventStore, InMemorySubscriptionStore
from k1s0_event_store.subscription import PartitionState, PartitionStatus, SubscriptionStatus
from k1s0_event_store.subscription_health import SubscriptionHealth
from k1s0_event_store.web.health import health_app
from k1s0_event_store.web.serving import serve

ORDER = StreamId("order", "o-1")
CALM = PartitionStatus(0, PartitionState.RUNNING, "web-1", None, 7, 0, 0.0, False, None, None)
LATE = replace(CALM, partition=1, behind=12, behind_seconds=90.5, error="BrokerUnavailableError: away")


class Storage:
    """In the place of a subscription store: tells one status, and counts who asks."""

    def __init__(self, *partitions, error=None, parked=0, version=1):
        self.asked = 0
        self._status = SubscriptionStatus("relay", version, True, partitions, parked)
        self._error = error

    async def statuses(self, name):
        self.asked += 1
        await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        return [self._status]


async def health_of(*partitions, **options):
    return await SubscriptionHealth(Storage(*partitions, **options), "relay", alarm_after=60)()


async def test_a_subscription_that_keeps_up_is_well():
    assert await health_of(CALM, replace(CALM, partition=1, behind=3, behind_seconds=0.12345), parked=2) == {
        "status": "ok",
        "reason": None,
        "name": "relay",
        "backlog": 3,
        "oldest_seconds": 0.123,
        "parked": 2,
        "partitions": [
            {
                "partition": number,
                "state": "running",
                "owner": "web-1",
                "behind": behind,
                "behind_seconds": seconds,
                "error": None,
            }
            for number, behind, seconds in ((0, 0, 0.0), (1, 3, 0.123))
        ],
    }


async def test_an_event_that_waits_for_too_long_is_an_alarm_with_its_cause():
    answer = await health_of(CALM, LATE)
    assert (answer["status"], answer["backlog"], answer["oldest_seconds"]) == ("failing", 12, 90.5)
    assert answer["reason"] == (
        "the oldest event has waited for 90 s (limit 60 s): BrokerUnavailableError: away"
    )
    assert (await health_of(replace(LATE, error=None)))["reason"].endswith("(limit 60 s)")


async def test_a_partition_that_is_stopped_is_an_alarm_at_once():
    answer = await health_of(CALM, replace(LATE, state=PartitionState.STOPPED, behind_seconds=0.1))
    assert answer["status"] == "failing"
    assert answer["reason"] == "partition 1 is stopped: BrokerUnavailableError: away"


async def test_what_an_operator_has_paused_is_shown_and_no_alarm():
    answer = await health_of(CALM, replace(LATE, state=PartitionState.PAUSED))
    assert (answer["status"], answer["oldest_seconds"]) == ("ok", 90.5)
    assert answer["partitions"][1]["state"] == "paused"


@pytest.mark.parametrize("error", [StoreUnavailableError("no route to host"), RuntimeError("odd")], ids=str)
async def test_a_database_that_fails_is_an_alarm(error):
    answer = await health_of(error=error)
    assert answer["reason"] == f"the database does not answer: {type(error).__name__}: {error}"
    unknown = {"backlog": None, "oldest_seconds": None, "parked": None, "partitions": []}
    assert answer.items() >= unknown.items()


async def test_a_database_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "_DATABASE_SECONDS", 0.01)
    storage = Storage()
    storage.statuses = lambda name: asyncio.sleep(60)
    answer = await SubscriptionHealth(storage, "relay")()
    assert answer["reason"] == "the database has not answered within 0.01 s"


async def test_a_subscription_or_version_that_has_not_run_is_an_alarm():
    storage = InMemorySubscriptionStore(InMemoryEventStore())
    assert "no subscription 'relay'" in (await SubscriptionHealth(storage, "relay")())["reason"]
    assert "'relay' version 1" in (await health_of(CALM, version=2))["reason"]


async def test_the_numbers_are_those_of_the_store():
    store = InMemoryEventStore()
    storage = InMemorySubscriptionStore(store)
    await storage.register("relay", 1, 2)
    await store.append(ORDER, [EventEnvelope(ORDER, "Placed", {}) for _ in range(3)])
    answer = await SubscriptionHealth(storage, "relay")()
    assert (answer["status"], answer["backlog"], len(answer["partitions"])) == ("ok", 3, 2)
    assert answer["partitions"][0]["state"] == "no worker"


async def test_many_probes_are_one_question_to_the_database(monkeypatch):
    storage = Storage(CALM)
    health = SubscriptionHealth(storage, "relay")
    first, *others = await asyncio.gather(*(health() for _ in range(20)))
    assert storage.asked == 1
    assert all(answer == first for answer in others)
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0)
    health = SubscriptionHealth(storage, "relay")
    await health()
    await health()
    assert storage.asked == 3


# Over HTTP


def app_saying(**answer):
    async def check():
        return answer

    return health_app(check)


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("failing", 503)])
async def test_probes_get_the_answer_and_a_code(status, code):
    async with (
        serve(app_saying(status=status, backlog=3), "0") as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        health, live, head = (
            await client.get("/health"),
            await client.get("/live"),
            await client.head("/health"),
        )
        other, written = await client.get("/"), await client.post("/health")
    assert (health.status_code, json.loads(health.text)) == (code, {"status": status, "backlog": 3})
    assert (live.status_code, live.json()) == (200, {"status": "ok"})
    assert (head.status_code, other.status_code, written.status_code) == (code, 404, 405)
    assert all(answer.headers["cache-control"] == "no-store" for answer in (health, live, head))
    assert "server" not in health.headers


async def test_the_server_leaves_signals_to_the_process():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serve(app_saying(status="ok"), "0") as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/live")).status_code == 200
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_it_ends_while_somebody_still_waits_for_an_answer(caplog):
    asked = asyncio.Event()

    async def check():
        asked.set()
        await asyncio.sleep(60)

    async with serve(health_app(check), "0") as url, httpx.AsyncClient() as client:
        waiting = asyncio.create_task(client.get(f"{url}/health", timeout=60))
        await asked.wait()
    assert (await asyncio.gather(waiting, return_exceptions=True))[0] is not None


async def test_it_ends_before_it_has_begun():
    async with serve(app_saying(status="ok"), "0"):
        pass


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("0", "http://127.0.0.1:"),
        (":0", "http://127.0.0.1:"),
        ("127.0.0.1:0", "http://127.0.0.1:"),
        ("0.0.0.0:0", "http://0.0.0.0:"),
        pytest.param(
            "[::1]:0", "http://[::1]:", marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
        ),
    ],
)
async def test_an_address_may_be_a_host_and_a_port_or_a_port(address, shown):
    async with serve(app_saying(status="ok"), address) as url:
        assert url.startswith(shown)
        assert int(url.removeprefix(shown)) > 0


@pytest.mark.parametrize(
    "address", ["", "localhost", "1.2.3.4:", ":x", "65536", "-1", "::1:80", "http://a:80"]
)
async def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        async with serve(app_saying(status="ok"), address):
            pass


async def test_an_address_where_nobody_can_listen_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen at :{port}: Address already in use"):
            async with serve(app_saying(status="ok"), f":{port}"):
                pass
    with pytest.raises(ConfigurationError, match=r"cannot listen at nobody\.invalid:80: "):
        async with serve(app_saying(status="ok"), "nobody.invalid:80"):
            pass
