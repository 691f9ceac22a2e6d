"""A publisher without a broker: for tests, and the specimen for those of brokers."""

from __future__ import annotations

from collections.abc import Callable

from k1s0_event_store.exceptions import StoreClosedError
from k1s0_event_store.message import Message
from k1s0_event_store.publisher import Publisher


class InMemoryPublisher(Publisher):
    """Keeps what was published in `messages`; `answer` sees each one first, and may raise as brokers do."""

    def __init__(self, answer: Callable[[Message], object] | None = None) -> None:
        self.messages: list[Message] = []
        self.answer = answer
        self._is_closed = False

    async def publish(self, message: Message) -> None:
        if self._is_closed:
            raise StoreClosedError("this publisher was closed; make a new one")
        if self.answer is not None:
            self.answer(message)
        self.messages.append(message)

    async def close(self) -> None:
        self._is_closed = True
