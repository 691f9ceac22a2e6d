"""What every publisher provides: a message is handed to a broker, and known to be there."""

from __future__ import annotations

from abc import ABC, abstractmethod

from k1s0_event_store.closing import AsyncClosing
from k1s0_event_store.message import Message


class Publisher(AsyncClosing, ABC):
    """Publishes messages to a broker. Used as `async with`, which connects and closes.

    Many `publish` may wait at the same time. Messages that are published one after the other (the
    next one after the return of the one before) arrive in that order.
    """

    @abstractmethod
    async def publish(self, message: Message) -> None:
        """Publish one message; returns once the broker has acknowledged that it keeps it.

        Raises BrokerUnavailableError if that is not known (the message may be there, or not: publish
        it again), and MessageRefusedError if the broker will not take this message.
        """
