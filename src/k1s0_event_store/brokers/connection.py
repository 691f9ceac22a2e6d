"""One connection to a broker, from its opening to its first failure."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from k1s0_event_store.exceptions import MessageRefusedError
from k1s0_event_store.message import Message

T = TypeVar("T")
Errors: TypeAlias = tuple[type[BaseException], ...]

CORRELATION: Final = "correlation_id"


class Connection(ABC):
    """A connection that is never mended: what failed is published again on a new one.

    Libraries that reconnect by themselves send late what the caller has given up, and it overtakes
    what was published since. The errors of the library are sorted by what they mean.
    """

    outages: ClassVar[Errors] = (OSError, TimeoutError)
    """Nobody knows what has arrived; the connection is of no more use."""
    busy: ClassVar[Errors] = ()
    """Not taken now, and perhaps later: asked first. The connection is good."""
    refusals: ClassVar[Errors] = (UnicodeError,)
    """This message is not taken. The connection is good."""
    collective: ClassVar[Errors] = ()
    """A message is not taken, and others that were under way with it get the same error."""

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        self.timeout = timeout
        self._waiting: dict[asyncio.Future[Any], float] = {}
        self._reason: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Future[Any] | None = None

    @abstractmethod
    async def open(self) -> None:
        """Connect; raises what the library raises."""

    async def connected(self, connecting: Awaitable[T]) -> T:
        """What the library's `connect` gives, which must end in time by itself.

        It is not cancelled with who waits for it: libraries leave tasks behind that nobody ends.
        """
        self._connecting = asyncio.ensure_future(connecting)
        # It may fail when nobody waits for it any more.
        self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._connecting)

    async def settled(self) -> None:
        """Wait until it has connected, or has failed to: then it can be closed."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting])

    @abstractmethod
    async def publish(self, message: Message) -> None:
        """Hand over a message; returns when it is acknowledged. Raises what the library raises."""

    @abstractmethod
    async def close(self) -> None:
        """Close without waiting for an answer that may never come: nothing is under way any more."""

    def abort(self, reason: BaseException) -> None:
        """At once, before anything else runs: what is not sent yet is never sent."""
        self._reason = self._reason or reason
        if self._timer is not None:
            self._timer.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionAbortedError(str(reason)))

    async def acknowledged(self, future: asyncio.Future[Any]) -> None:
        """Wait for an acknowledgement, or for the end of the connection."""
        if self._reason is not None:
            future.cancel()
            raise ConnectionAbortedError(str(self._reason))
        self._waiting[future] = monotonic()
        try:
            await future
        finally:
            del self._waiting[future]

    def watch(self) -> None:
        """From now on end the connection if an acknowledgement takes too long: cheaper than a timer each."""
        since = next(iter(self._waiting.values()), None)
        if since is not None and monotonic() - since > self.timeout:
            self.abort(TimeoutError(f"no acknowledgement within {self.timeout:g} s"))
        else:
            self._timer = asyncio.get_running_loop().call_later(self.timeout / 20, self.watch)


def headers_of(
    message: Message, own: Mapping[str, str], prefix: str, encode: Callable[[str], str] = str
) -> dict[str, str]:
    """All headers under which a message travels; raises MessageRefusedError where two have one name."""
    headers = dict(own)
    for name, value in message.attributes.items():
        headers[prefix + name] = encode(value)
    headers.update(message.headers)
    if len(headers) < len(own) + len(message.attributes) + len(message.headers):
        taken = [name for name in message.headers if name in own or name.startswith(prefix)]
        raise MessageRefusedError(f"the header {taken[0]!r} has a name that the publisher itself uses")
    return headers
