"""The contract suite of publishers on the one without a broker; tests/brokers has the others."""

import pytest

from k1s0_event_store import InMemoryPublisher, Message, MessageRefusedError
from k1s0_event_store.testing.publisher_contract import PublisherContract


class TestInMemory(PublisherContract):
    @pytest.fixture
    def unwanted(self):
        return Message("nowhere", "order-1", b"")

    @pytest.fixture
    def publisher(self, unwanted):
        def answer(message):
            if message.topic == unwanted.topic:
                raise MessageRefusedError("there is no such topic")

        return InMemoryPublisher(answer)

    @pytest.fixture
    def topic(self):
        return "orders"

    @pytest.fixture
    def read(self, publisher):
        async def read(topic):
            return [message for message in publisher.messages if message.topic == topic]

        return read
