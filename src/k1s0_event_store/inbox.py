"""An inbox: a message that is delivered twice has its effect once. And the contract of what keeps one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

from k1s0_event_store.envelope import check_name
from k1s0_event_store.exceptions import InvalidInputError, shown


class Inbox(ABC):
    """Marks the messages that one consumer has handled, in the transaction of their effect.

    Brokers deliver at least once. The name of the consumer and the id of a message have 1 to 255
    characters; consumers of other names know nothing of each other's marks.
    """

    def __init__(self, consumer: str) -> None:
        self.consumer = check_name(consumer, "the name of a consumer")

    @abstractmethod
    def once(self, session: Any, message_id: str) -> AbstractAsyncContextManager[bool]:
        """Handle a message in the caller's transaction: True where it is new, False where it was handled.

            async with sessions.begin() as session, inbox.once(session, message_id) as is_new:
                if is_new:
                    session.add(...)

        The mark commits, or not, with everything else in the transaction: acknowledge the message
        after the commit. If the block raises, mark and effect of the block are both taken back (it
        runs in a savepoint), so that whoever catches the error may commit the rest.

        Of consumers that race for a message the second one waits for the first one's transaction,
        and then gets False, or True if that was rolled back. The block must not end the transaction.
        Raises InvalidInputError for what is no message id.
        """

    @abstractmethod
    async def forget(self, session: Any, before: datetime) -> int:
        """Delete this consumer's marks of before that time, in the caller's transaction; how many they were.

        A message that comes once more after that is handled once more: keep marks for longer than
        the broker may deliver again. Raises InvalidInputError.
        """


def check_message_id(message_id: object) -> str:
    """Return `message_id` if it is one, else raise InvalidInputError."""
    return check_name(message_id, "a message's id")


def check_before(before: object) -> datetime:
    """Return `before` if it is a time, else raise InvalidInputError."""
    if not isinstance(before, datetime) or before.utcoffset() is None:
        raise InvalidInputError(f"before must be a timezone-aware datetime, not {shown(before)}")
    return before
