"""The relay on every store: everything committed is published, in order, and nothing else."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from k1s0_event_store import (
    BrokerUnavailableError,
    CloudEvents,
    ConfigurationError,
    DuplicateEventError,
    EventEnvelope,
    EventRegistry,
    InMemoryPublisher,
    InvalidInputError,
    Message,
    MessageRefusedError,
    Relay,
    StreamId,
    SubscriptionRunner,
    TypedEventStore,
)
from k1s0_event_store.testing.runner_contract import FAST, eventually

from .stores import InMemory, Postgres

ORDER, OTHER = StreamId("order", "o-1"), StreamId("order", "o-2")
EVENTS = CloudEvents("/shop", topic="orders")


def placed(stream_id, number):
    return EventEnvelope(stream_id, "Placed", {"n": number})


def published(publisher):
    return [(message.key, message.body) for message in publisher.messages]


class RelayContract:
    """Fixtures: store, storage."""

    @pytest.fixture
    def publisher(self):
        return InMemoryPublisher()

    @pytest.fixture
    def run(self, store, storage):
        async def until_caught_up(relay):
            await SubscriptionRunner(store, storage, [relay], poll=(0.001, 0.05)).run_until_caught_up()

        return until_caught_up

    async def test_every_event_is_published_once_and_each_stream_in_order(self, store, run, publisher):
        for number in range(20):
            await store.append(ORDER, [placed(ORDER, number)])
            await store.append(OTHER, [placed(OTHER, number)])
        for _ in range(2):
            await run(Relay(publisher, EVENTS))
        for stream_id in (ORDER, OTHER):
            bodies = [body for key, body in published(publisher) if key == str(stream_id)]
            assert bodies == [b'{"n":%d}' % number for number in range(20)]
        assert {message.topic for message in publisher.messages} == {"orders"}
        ids = [event.event_id async for event in store.read_all()]
        assert {message.message_id for message in publisher.messages} == set(map(str, ids))

    async def test_what_becomes_no_message_is_passed_by_and_one_event_may_become_several(
        self, store, run, publisher
    ):
        for number in range(3):
            await store.append(ORDER, [placed(ORDER, number)])

        async def to_message(event):
            await asyncio.sleep(0)
            times = event.payload["n"]
            return None if times == 0 else [Message("t", "k", b"%d" % times)] * times

        await run(Relay(publisher, to_message))
        assert [message.body for message in publisher.messages] == [b"1", b"2", b"2"]

    async def test_messages_that_are_no_events_are_published_in_the_order_of_their_key(
        self, store, run, publisher
    ):
        first = [Message("mails", key, b"1") for key in ("a", "b")]
        await store.enqueue(*first)
        await store.enqueue(Message("mails", "a", b"\x00\xff", {"h": "v"}, {"id": "x"}, "text/plain", "m-1"))
        await store.append(ORDER, [placed(ORDER, 1)])
        await run(Relay(publisher))
        assert [m.body for m in publisher.messages if m.key == "a"] == [b"1", b"\x00\xff"]
        assert sorted(first, key=str) == sorted((m for m in publisher.messages if m.body == b"1"), key=str)
        last = next(m for m in publisher.messages if m.message_id == "m-1")
        assert last == Message("mails", "a", b"\x00\xff", {"h": "v"}, {"id": "x"}, "text/plain", "m-1")
        assert len(publisher.messages) == 3

    async def test_a_message_that_is_enqueued_again_is_published_once(self, store, run, publisher):
        message = Message("mails", "a", b"1")
        for _ in range(2):
            await store.enqueue(message)
        await run(Relay(publisher))
        assert publisher.messages == [message]
        with pytest.raises(DuplicateEventError):
            await store.enqueue(Message("mails", "a", b"2"), message)

    async def test_of_two_relays_one_can_leave_enqueued_messages_to_the_other(self, store, run, publisher):
        await store.enqueue(Message("mails", "a", b"1"))
        await store.append(ORDER, [placed(ORDER, 1)])
        await run(Relay(publisher, EVENTS, enqueued=False))
        assert published(publisher) == [(str(ORDER), b'{"n":1}')]
        await run(Relay(publisher, name="mails"))
        assert published(publisher)[1:] == [("a", b"1")]

    async def test_what_cannot_be_kept_is_refused_before_anything_is(self, store):
        with pytest.raises(InvalidInputError):
            await store.enqueue(Message("t", "a", b""), Message("t", "k" * 256, b""))
        assert [event async for event in store.read_all()] == []

    async def test_typed_readers_do_not_meet_enqueued_messages(self, store):
        await store.enqueue(Message("t", "a", b""))
        assert [event async for event in TypedEventStore(store, EventRegistry()).read_all()] == []

    async def test_while_the_broker_is_away_the_relay_waits_and_repeats_nothing(self, store, run, publisher):
        for number in range(10):
            await store.append(ORDER, [placed(ORDER, number)])
            await store.append(OTHER, [placed(OTHER, number)])
        refusals = []

        def away(message):
            if message.body == b'{"n":5}' and len(refusals) < 4:
                refusals.append(message)
                raise BrokerUnavailableError("down")

        publisher.answer = away
        await run(Relay(publisher, EVENTS))
        assert len(refusals) == 4
        assert sorted(published(publisher)) == sorted(
            (str(stream_id), b'{"n":%d}' % number) for stream_id in (ORDER, OTHER) for number in range(10)
        )
        for stream_id in (ORDER, OTHER):
            bodies = [body for key, body in published(publisher) if key == str(stream_id)]
            assert bodies == [b'{"n":%d}' % number for number in range(10)]

    async def test_a_message_that_is_refused_holds_up_its_stream_only(self, store, storage, run, publisher):
        for number in range(4):
            await store.append(ORDER, [placed(ORDER, number)])
            await store.append(OTHER, [placed(OTHER, number)])
        attempts = []

        def refuse(message):
            if message.key == str(ORDER) and message.body == b'{"n":1}':
                attempts.append(message)
                raise MessageRefusedError("too large")

        publisher.answer = refuse
        relay = Relay(publisher, EVENTS, failure=FAST)
        await run(relay)
        assert len(attempts) == FAST.attempts
        assert [body for key, body in published(publisher) if key == str(ORDER)] == [b'{"n":0}']
        assert len([body for key, body in published(publisher) if key == str(OTHER)]) == 4
        parked = await storage.parked("relay")
        assert [(one.event_version, one.error) for one in parked] == [
            (2, "MessageRefusedError: too large"),
            (3, None),
            (4, None),
        ]
        publisher.answer = None
        await storage.retry_parked("relay")
        await run(relay)
        assert [body for key, body in published(publisher) if key == str(ORDER)] == [
            b'{"n":%d}' % number for number in range(4)
        ]

    async def test_an_event_that_makes_no_good_message_is_parked_with_the_reason(
        self, store, storage, run, publisher
    ):
        await store.append(ORDER, [placed(ORDER, 1)])
        await run(Relay(publisher, lambda event: Message("no topic", "k", b""), failure=FAST))
        (parked,) = await storage.parked("relay")
        assert "a topic is" in parked.error

    async def test_a_publisher_that_is_closed_too_early_has_nothing_parked(self, store, storage, publisher):
        notices = []
        runner = SubscriptionRunner(
            store, storage, [Relay(publisher, EVENTS)], poll=(0.001, 0.05), observe=notices.append
        )
        async with runner:
            await publisher.close()
            await store.append(ORDER, [placed(ORDER, 1)])
            await eventually(lambda: len([one for one in notices if one.kind == "waiting"]) > 5)
        assert await storage.parked("relay") == []
        async with SubscriptionRunner(store, storage, [Relay(InMemoryPublisher(), EVENTS)]):
            await storage.wait_until("relay", ORDER, 1)

    async def test_relays_of_several_processes_share_the_partitions(self, store, storage, publisher):
        streams = [StreamId("order", f"o-{number}") for number in range(30)]
        for number in range(3):
            for stream_id in streams:
                await store.append(stream_id, [placed(stream_id, number)])
        runners = [
            SubscriptionRunner(store, storage, [Relay(publisher, EVENTS, partitions=4)], poll=(0.001, 0.05))
            for _ in range(2)
        ]
        async with runners[0], runners[1]:
            for stream_id in streams:
                await storage.wait_until("relay", stream_id, 3, within=20)
        assert len(publisher.messages) == 90
        for stream_id in streams:
            bodies = [body for key, body in published(publisher) if key == str(stream_id)]
            assert bodies == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


class TestInMemory(InMemory, RelayContract):
    pass


class TestPostgres(Postgres, RelayContract):
    async def test_what_is_rolled_back_is_never_published(self, store, run, publisher):
        async with AsyncSession(store.bind) as session:
            bound = store.within(session)
            await bound.enqueue(Message("t", "a", b"lost"))
            await bound.append(ORDER, [placed(ORDER, 1)])
            await session.rollback()
            await bound.enqueue(Message("t", "a", b"kept"))
            await session.commit()
        await run(Relay(publisher, EVENTS))
        assert published(publisher) == [("a", b"kept")]


@pytest.mark.parametrize(
    "options", [{"publisher": None}, {"to_message": "topic"}, {"concurrency": 0}], ids=str
)
def test_a_relay_that_cannot_work_is_refused(options):
    with pytest.raises(ConfigurationError):
        Relay(**{"publisher": InMemoryPublisher(), **options})


async def test_a_closed_publisher_refuses():
    async with InMemoryPublisher() as publisher:
        await publisher.publish(Message("t", "k", b""))
    with pytest.raises(Exception, match="was closed"):
        await publisher.publish(Message("t", "k", b""))
