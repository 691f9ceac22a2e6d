"""The contract suite of publishers: what every one must show. For authors of publishers.

Subclass the class in a test module and provide four fixtures: `publisher`, new for each test, which
has published nothing yet; `topic`, the name of a topic that is empty and can be published to; `read`,
an async function that gives what has arrived in a topic as Messages, those of each key in their order;
`unwanted`, a Message for any topic that the broker will never take.

    class TestMyPublisher(PublisherContract):
        @pytest.fixture
        async def publisher(self): ...

        @pytest.fixture
        async def topic(self): ...

        @pytest.fixture
        def read(self): ...

        @pytest.fixture
        def unwanted(self): ...

A publisher may refuse text that its protocol cannot carry, as long as it changes none. Needs
pytest-asyncio in auto mode.
"""

# ruff: noqa: S101 - a test suite that is shipped

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import pytest

from k1s0_event_store.exceptions import BrokerUnavailableError, MessageRefusedError, StoreClosedError
from k1s0_event_store.message import Message
from k1s0_event_store.publisher import Publisher
from k1s0_event_store.testing.contract import ODD_NAMES

Read: TypeAlias = Callable[[str], Awaitable[Sequence[Message]]]

WITHIN: Final = 30.0
"""Seconds in which everything ends that must not hang."""

CLOUD_EVENT: Final = {
    "specversion": "1.0",
    "id": "5f0c",
    "source": "/shop/orders",
    "type": "order.placed",
    "subject": 'order-1 "Ærø" 100% 😀',
    "time": "2026-01-02T03:04:05.678901Z",
    "datacontenttype": "application/json",
    "partitionkey": "order-1",
    "sequence": "7",
}


def messages_of(topic: str, key: str, count: int) -> list[Message]:
    """New messages of one key; their bodies are numbers."""
    return [Message(topic, key, b"%d" % number) for number in range(count)]


def by_key(messages: Iterable[Message]) -> dict[str, list[Message]]:
    """The messages of each key."""
    found: dict[str, list[Message]] = {}
    for message in messages:
        found.setdefault(message.key, []).append(message)
    return found


def firsts(messages: Iterable[Message]) -> list[Message]:
    """Without repetitions: what a consumer sees that has an inbox."""
    found: dict[str, Message] = {}
    for message in messages:
        found.setdefault(message.message_id, message)
    return list(found.values())


async def publish_all(publisher: Publisher, messages: Iterable[Message]) -> None:
    """One after the other."""
    for message in messages:
        await publisher.publish(message)


async def outcomes(publisher: Publisher, messages: Iterable[Message]) -> list[BaseException | None]:
    """Publish side by side: None for each that was acknowledged, else its error."""
    publishing = (publisher.publish(message) for message in messages)
    async with asyncio.timeout(WITHIN):
        return await asyncio.gather(*publishing, return_exceptions=True)


async def publish_as_relay(publisher: Publisher, messages: Iterable[Message]) -> None:
    """One after the other; a message of which nobody knows is published again."""
    for message in messages:
        while True:
            try:
                await publisher.publish(message)
            except BrokerUnavailableError:
                await asyncio.sleep(0.05)
            else:
                break


async def is_taken(publisher: Publisher, message: Message) -> bool:
    """Publish as the relay does; False if the message was refused."""
    try:
        await publish_as_relay(publisher, [message])
    except MessageRefusedError:
        return False
    return True


class PublisherContract:
    """Everything of a message arrives, in order, once it is acknowledged."""

    async def test_everything_of_a_message_arrives(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        headers = {
            "correlation_id": "c-1",
            "causation_id": "c-0",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "x-unicode": 'Grüße "😀" 100%',
            "x-empty": "",
        }
        message = Message(
            topic, "order-Ø 1", b'{"n":1}', headers, CLOUD_EVENT, "text/plain; charset=utf-8", "m-ü 1"
        )
        before = replace(message, headers=dict(headers), attributes=dict(CLOUD_EVENT))
        await publisher.publish(message)
        assert message == before
        assert await read(topic) == [before]

    async def test_any_bytes_are_a_body(self, publisher: Publisher, topic: str, read: Read) -> None:
        bodies = [b"", b"\x00", bytes(range(256)), b"null", b'{"n": 1}', b"\xff\xfe", b"\r\n", b"0" * 500_000]
        messages = [Message(topic, "order-1", body) for body in bodies]
        await publish_all(publisher, messages)
        assert await read(topic) == messages

    async def test_any_text_arrives_as_it_is_or_is_refused(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        messages = [Message(topic, "plain", b"", {"x-plain": "v"}, {"id": "1"})]
        for text in [*ODD_NAMES, "a b", "a:b", "tab\t", "\r\n", "\x7f", "k" * 300]:
            short = text[:255]
            messages += [
                Message(topic, text, b"key"),
                Message(topic, "id", b"", message_id=short),
                Message(topic, "type", b"", content_type=short),
                Message(topic, "header", b"", {"x-odd": text}),
                Message(topic, "name", b"", {text: "v"}),
                Message(topic, "attribute", b"", {}, {"subject": text}),
            ]
        messages += [
            Message(topic, "header", b"", {"x-odd": "\ud800"}),
            Message(topic, "attribute", b"", {}, {"subject": "\ud800"}),
            Message(topic, "nul", b"", {"x-odd": "nul\x00"}, {"subject": "nul\x00"}),
            Message(topic, "\ud800", b"key"),
        ]
        async with asyncio.timeout(WITHIN):
            taken = await asyncio.gather(*(is_taken(publisher, message) for message in messages))
        assert taken[0]
        expected = [message for message, there in zip(messages, taken, strict=True) if there]
        assert sorted(map(repr, firsts(await read(topic)))) == sorted(map(repr, expected))

    async def test_an_acknowledged_message_has_arrived(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        messages = messages_of(topic, "order-1", 3)
        for number, message in enumerate(messages, start=1):
            await publisher.publish(message)
            assert await read(topic) == messages[:number]

    async def test_messages_that_are_published_one_after_the_other_arrive_in_that_order(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        keys = [messages_of(topic, f"order-{number}", 10) for number in range(7)]
        await publish_all(publisher, [message for turn in zip(*keys, strict=True) for message in turn])
        arrived = by_key(await read(topic))
        assert arrived == {key[0].key: key for key in keys}

    async def test_hundreds_side_by_side_arrive_once_each(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        messages = [Message(topic, f"order-{number}", b"%d" % number) for number in range(700)]
        assert await outcomes(publisher, messages) == [None] * 700
        arrived = await read(topic)
        assert len(arrived) == 700
        assert by_key(arrived) == by_key(messages)

    async def test_each_key_is_in_order_while_many_are_published_side_by_side(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        keys = [messages_of(topic, f"order-{number}", 20) for number in range(40)]
        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(publish_all(publisher, key))
        assert by_key(await read(topic)) == {key[0].key: key for key in keys}

    async def test_large_and_small_messages_side_by_side_all_arrive(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        sizes = [1, 500_000, 10, 300_000, 100, 70_000, 1_000, 40_000] * 5
        messages = [
            Message(topic, f"order-{number}", b"%d" % (number % 10) * size)
            for number, size in enumerate(sizes)
        ]
        assert await outcomes(publisher, messages) == [None] * len(sizes)
        arrived = await read(topic)
        assert len(arrived) == len(sizes)
        assert by_key(arrived) == by_key(messages)

    async def test_a_message_may_be_published_again(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        first, second = messages_of(topic, "order-1", 2)
        await publish_all(publisher, [first, first, second])
        arrived = await read(topic)
        assert arrived in ([first, second], [first, first, second])

    async def test_a_message_that_is_refused_says_so_and_the_next_ones_arrive(
        self, publisher: Publisher, topic: str, read: Read, unwanted: Message
    ) -> None:
        first, second = messages_of(topic, unwanted.key, 2)
        for message in (first, second):
            for _ in range(2):
                with pytest.raises(MessageRefusedError):
                    await publisher.publish(unwanted)
            await publisher.publish(message)
        assert await read(topic) == [first, second]

    async def test_a_message_that_is_refused_harms_no_other(
        self, publisher: Publisher, topic: str, read: Read, unwanted: Message
    ) -> None:
        keys = [messages_of(topic, f"order-{number}", 5) for number in range(50)]
        bad = [replace(unwanted, key=f"bad-{number}", message_id=f"bad-{number}") for number in range(3)]

        refusing = []
        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            for number, key in enumerate(keys):
                group.create_task(publish_as_relay(publisher, key))
                if number in (0, 20, 49):
                    refusing.append(group.create_task(is_taken(publisher, bad.pop())))
        assert [task.result() for task in refusing] == [False] * 3
        arrived = by_key(firsts(await read(topic)))
        assert arrived == {key[0].key: key for key in keys}
        assert await outcomes(publisher, [last := Message(topic, "last", b"")]) == [None]
        assert (await read(topic)).count(last) == 1

    @pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
    async def test_a_publish_that_is_cancelled_harms_no_other_and_overtakes_nothing(
        self, publisher: Publisher, topic: str, read: Read, turns: int
    ) -> None:
        # The first ones of all are among them: for those the publisher connects.
        given_up = [Message(topic, f"order-{number}", b"given up") for number in range(30)]
        others = [Message(topic, f"other-{number}", b"") for number in range(30)]
        publishing = [asyncio.create_task(publisher.publish(message)) for message in given_up]
        innocent = asyncio.create_task(outcomes(publisher, others))
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in publishing:
            task.cancel()
        ends = await asyncio.gather(*publishing, return_exceptions=True)
        assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
        next_ones = [Message(topic, message.key, b"next") for message in given_up]
        assert await outcomes(publisher, next_ones) == [None] * 30
        assert await innocent == [None] * 30
        arrived = by_key(await read(topic))
        assert [arrived[message.key] for message in others] == [[message] for message in others]
        for first, end, second in zip(given_up, ends, next_ones, strict=True):
            whole = ([first, second],) if end is None else ([first, second], [second])
            assert arrived[first.key] in whole

    async def test_a_closed_publisher_refuses_and_what_it_published_is_there(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        first, second = messages_of(topic, "order-1", 2)
        async with publisher as entered:
            assert entered is publisher
            await publisher.publish(first)
        for _ in range(2):
            with pytest.raises(StoreClosedError):
                await publisher.publish(second)
            await asyncio.gather(publisher.close(), publisher.close())
        assert await read(topic) == [first]

    async def test_a_publisher_that_was_never_used_can_be_closed(
        self, publisher: Publisher, topic: str, read: Read
    ) -> None:
        await publisher.close()
        with pytest.raises(StoreClosedError):
            await publisher.publish(Message(topic, "order-1", b""))
        assert await read(topic) == []

    @pytest.mark.parametrize("is_first", [True, False], ids=["still connecting", "connected"])
    async def test_closing_while_messages_are_under_way_loses_none_that_was_acknowledged(
        self, publisher: Publisher, topic: str, read: Read, is_first: bool
    ) -> None:
        messages = [Message(topic, f"order-{number}", b"%d" % number) for number in range(300)]
        if not is_first:
            await publisher.publish(Message(topic, "before", b""))
        publishing = [asyncio.create_task(publisher.publish(message)) for message in messages]
        if is_first:
            await asyncio.sleep(0)
        else:
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(WITHIN):
            await publisher.close()
            ends = await asyncio.gather(*publishing, return_exceptions=True)
        allowed = {type(None), BrokerUnavailableError, StoreClosedError}
        assert {type(end) for end in ends} <= allowed
        acknowledged = {m.message_id for m, end in zip(messages, ends, strict=True) if end is None}
        assert acknowledged or is_first
        arrived = Counter(message.message_id for message in await read(topic) if message.key != "before")
        assert acknowledged <= arrived.keys() <= {message.message_id for message in messages}
        assert set(arrived.values()) <= {1}
