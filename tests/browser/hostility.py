"""Events that were written to break the pages that show them."""

import asyncio
import json
from urllib.parse import urlencode

import psycopg

from k1s0_event_store import (
    EventEnvelope,
    EventStoreConfig,
    PostgresEventStore,
    PostgresSubscriptionStore,
    StreamId,
)
from k1s0_event_store.config import DEFAULT_SCHEMA

from .scenes import park

SCRIPT = """<script>window.pwned="script"</script>"""
IMAGE = """"'><img src=/x onerror="window.pwned='image'">"""
CLOSING = """</title></textarea></pre></script><svg onload="window.pwned='svg'">"""
ADDRESS = "javascript:window.pwned='address'"
HTMX = """<b hx-get=/x hx-trigger=load hx-on:click="window.pwned='htmx'">{{ 7 * 7 }}</b>"""
BACKWARDS = "\u202egnissem \u2066x"
EVERYTHING = SCRIPT + IMAGE + ADDRESS

MARKUP = StreamId(SCRIPT + IMAGE, ADDRESS + CLOSING)
ODD = StreamId("../?a=b&c#d", "%2e%2e/ \t\n'`;--\u202e\u0007\u200b")
LONG = StreamId("T" * 255, "i" * 255)
BIG = StreamId("big", "payload")
DEEP = StreamId("deep", "payload")
WIDE = StreamId("wide", "payload")
MEGABYTE = 1_000_000
LEVELS = 1_000

NAME = IMAGE + ADDRESS
"""Of a subscription."""


def _query(path, **values):
    return f"{path}?{urlencode(values)}"


def _stream(stream_id):
    return _query("/stream", type=stream_id.aggregate_type, id=stream_id.aggregate_id)


PAGES = {
    "overview": "/",
    "streams": "/streams",
    "streams of a type": _query("/streams", of=MARKUP.aggregate_type, contains=MARKUP.aggregate_id),
    "stream: markup": _stream(MARKUP),
    "stream: odd": _stream(ODD),
    "stream: long": _stream(LONG),
    "stream: big": _stream(BIG),
    "stream: deep": _stream(DEEP),
    "events": "/events",
    "events of a type": _query("/events", type=EVERYTHING),
    "event: markup": "/events/{markup}",
    "event: odd": "/events/{odd}",
    "event: long": "/events/{long}",
    "event: big": "/events/{big}",
    "event: deep": "/events/{deep}",
    "event: wide": "/events/{wide}",
    "types": "/types",
    "subscriptions": "/subscriptions",
    "subscription": _query("/subscription", name=NAME, version=1),
    "confirmation": _query(
        "/subscription/action",
        do="drop", name=NAME, version=1, type=MARKUP.aggregate_type, id=MARKUP.aggregate_id,
    ),
}  # fmt: skip


def events():
    """By name: markup in each field, odd and long ids, and payloads that are big, deep and wide."""
    metadata = {
        "correlation_id": EVERYTHING,
        "causation_id": SCRIPT,
        SCRIPT: IMAGE,
        "deep": {HTMX: [CLOSING]},
    }
    payload = {SCRIPT: IMAGE, "address": ADDRESS, "closing": [CLOSING, HTMX], BACKWARDS: BACKWARDS}
    return {
        "big": EventEnvelope(BIG, "Big", {"text": "<b>" * (MEGABYTE // 3)}, {"many": ["x"] * 50_000}),
        "deep": EventEnvelope(DEEP, "Deep", {}),  # the store refuses it: see _deepen
        "wide": EventEnvelope(WIDE, "Wide", {f"k{i}": "v" * 2_000 for i in range(30)}),
        "odd": EventEnvelope(ODD, BACKWARDS, {"a": BACKWARDS}),
        "long": EventEnvelope(LONG, "E" * 255, {"long": "x" * 3_000}, {"correlation_id": "c" * 3_000}),
        "markup": EventEnvelope(MARKUP, EVERYTHING, payload, metadata),
    }


def _deepen(dsn):
    """Give the deep event its payload, as somebody with SQL could."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        nested = "[" * LEVELS + json.dumps(SCRIPT) + "]" * LEVELS
        connection.execute(
            f"UPDATE {DEFAULT_SCHEMA}.events SET payload = %s::jsonb WHERE aggregate_type = 'deep'", [nested]
        )


async def fill(dsn):
    """Append all of them, and park some; returns positions by name."""
    positions = {}
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        for name, event in events().items():
            await store.append(event.stream_id, [event])
            positions[name] = (await store.load(event.stream_id))[-1].position
        storage = PostgresSubscriptionStore(store.config, bind=store.bind)
        await park(store, storage, NAME, [MARKUP, LONG, BIG], f"{EVERYTHING}{CLOSING}{'e' * 500}")
    await asyncio.to_thread(_deepen, dsn)
    return positions
