"""The relay: a subscription that publishes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.exceptions import BrokerUnavailableError, ConfigurationError, StoreClosedError, shown
from k1s0_event_store.message import Message, from_event, is_enqueued
from k1s0_event_store.publisher import Publisher
from k1s0_event_store.subscription import FailurePolicy, Subscriber

Made: TypeAlias = Message | Sequence[Message] | None
ToMessage = Callable[[EventEnvelope], Made | Awaitable[Made]]


class Relay(Subscriber):
    """Publishes what was enqueued, and what `to_message` makes of each event: nothing, a message, or several.

    At least once: the checkpoint follows the broker's acknowledgement. Each stream stays in order:
    a message is published after the acknowledgement of the one before it, those of up to
    `concurrency` streams at the same time. A message that is refused is tried as `failure` says,
    then parked with all that follows in its stream, and other streams go on; while the broker is
    away the relay waits.

    `to_message` may be async, to decode events with a TypedEventStore. A relay runs as every
    subscription does: in a SubscriptionRunner, its `partitions` shared by as many processes as there
    are. `event_types` and `aggregate_types` would leave out enqueued messages too: let `to_message`
    return None instead. Of several relays only one should publish what is enqueued: the others are
    told `enqueued=False`.
    """

    def __init__(
        self,
        publisher: Publisher,
        to_message: ToMessage | None = None,
        *,
        name: str = "relay",
        enqueued: bool = True,
        concurrency: int = 500,
        batch_size: int = 2_000,
        checkpoint_every: int = 2_000,
        failure: FailurePolicy | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(publisher, Publisher):
            raise ConfigurationError(f"a relay needs a Publisher, not {shown(publisher)}")
        if to_message is not None and not callable(to_message):
            raise ConfigurationError(f"to_message must be a function of an event, not {shown(to_message)}")
        self._publisher = publisher
        self._to_message = to_message
        self._enqueued = enqueued
        super().__init__(
            name,
            self._publish,
            concurrency=concurrency,
            batch_size=batch_size,
            checkpoint_every=checkpoint_every,
            failure=FailurePolicy(attempts=5) if failure is None else failure,
            **options,
        )

    async def _publish(self, event: EventEnvelope) -> None:
        try:
            await self._publish_what_it_makes(event)
        except StoreClosedError as error:
            # Closed before the runner: no reason to park what it still has in hand.
            raise BrokerUnavailableError("the relay's publisher was closed") from error

    async def _publish_what_it_makes(self, event: EventEnvelope) -> None:
        if is_enqueued(event):
            if self._enqueued:
                await self._publisher.publish(from_event(event))
        elif self._to_message is not None:
            made = self._to_message(event)
            if not isinstance(made, Message):
                made = await made if isinstance(made, Awaitable) else made
            for message in (made,) if isinstance(made, Message) else made or ():
                await self._publisher.publish(message)
