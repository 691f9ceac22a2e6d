"""Event stores for unit tests: real ones in memory, with scripted answers and failures in front.

    mock = MockEventStore()
    mock.conflict_once(order, [EventEnvelope(order, "OrderCancelled", {})])
    await ship(mock, order)  # the code under test: load, decide, append, and again after a conflict
    mock.assert_all_used()
    assert [call.method for call in mock.calls].count("append") == 2

A call takes the oldest script that is for its method (and stream); without one it simply works.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, Self, TypeVar

from k1s0_event_store.batch import encode_batch
from k1s0_event_store.envelope import EventEnvelope, EventVersion, ExpectedVersion, StreamId, check_version
from k1s0_event_store.exceptions import InvalidInputError
from k1s0_event_store.feed import (
    EVERYTHING,
    LARGEST_PAGE,
    AllEvents,
    Cursor,
    EventFilter,
    FeedPage,
    SyncAllEvents,
    Where,
)
from k1s0_event_store.memory import InMemoryEventStore, SyncInMemoryEventStore
from k1s0_event_store.snapshot import SnapshotStore, SyncSnapshotStore
from k1s0_event_store.store import EventStore, Replay, SyncEventStore

S = TypeVar("S")
T = TypeVar("T")

SCRIPTABLE: Final = frozenset(
    {
        "append",
        "current_version",
        "exists",
        "import_batch",
        "latest_cursor",
        "load",
        "lock",
        "read_all",
        "read_page",
        "replay",
        "stream",
    }
)
_NO_ANSWER: Final = object()


@dataclass(frozen=True)
class Call:
    """One call of the store: the method's name, and every argument by its name, defaults included."""

    method: str
    arguments: dict[str, Any]


@dataclass
class _Script:
    """What one call is to meet, after `skip` calls that it lets through."""

    title: str
    method: str
    stream_id: StreamId | None = None
    skip: int = 0
    rivals: list[EventEnvelope] = field(default_factory=list)
    answer: Any = _NO_ANSWER
    error: BaseException | None = None
    after_effect: bool = False

    def fits(self, call: Call) -> bool:
        return self.method == call.method and self.stream_id in {None, call.arguments.get("stream_id")}

    @property
    def has_answer(self) -> bool:
        return self.answer is not _NO_ANSWER

    def before(self) -> None:
        """Fail instead of the call, if that is the script."""
        if self.error is not None and not self.after_effect:
            raise self.error

    def after(self) -> None:
        """Fail although the call has worked, if that is the script."""
        if self.error is not None and self.after_effect:
            raise self.error


_NOTHING: Final = _Script("nothing", "")


class Scripted:
    """What both mocks can be told, and what they remember: `calls`, oldest first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._scripts: list[_Script] = []
        self._lock = Lock()

    def conflict_once(self, stream_id: StreamId, events: Sequence[EventEnvelope]) -> None:
        """Let another writer append `events` just before the next append to `stream_id`.

        That append then meets the stream as it really is: one that expects a version raises
        ConcurrencyError with the true `actual_version`, and its retry works.
        """
        rivals = list(events)
        if not len(encode_batch(stream_id, rivals)):
            raise InvalidInputError("conflict_once needs the events that the other writer appends")
        self._add(_Script(f"conflict_once({stream_id})", "append", stream_id, rivals=rivals))

    def fail_next(
        self, method: str, error: BaseException, *, after_effect: bool = False, skip: int = 0
    ) -> None:
        """Let the next call of `method` raise `error`, after `skip` calls that work.

        `after_effect`: the call does its work first (an append is stored, a stream gives all its
        events), as when the connection breaks before the answer arrives.
        """
        if not isinstance(error, BaseException):
            raise InvalidInputError(
                f"error must be an exception like StoreUnavailableError('down'), not {error!r}"
            )
        title = f"fail_next({method!r}, {error!r})"
        check_version(skip, "skip")
        self._add(_Script(title, method, skip=skip, error=error, after_effect=after_effect))

    def answer_next(self, method: str, answer: Any, *, skip: int = 0) -> None:
        """Let the next call of `method` answer `answer` and do nothing, after `skip` calls that work.

        `load`, `stream` and `read_all` take the events to give.
        """
        check_version(skip, "skip")
        self._add(_Script(f"answer_next({method!r})", method, skip=skip, answer=answer))

    def assert_all_used(self) -> None:
        """Raise AssertionError if something scripted has not happened."""
        if self._scripts:
            unused = ", ".join(script.title for script in self._scripts)
            raise AssertionError(f"scripted, but never used: {unused}")

    def _add(self, script: _Script) -> None:
        if script.method not in SCRIPTABLE:
            raise InvalidInputError(
                f"no method {script.method!r} to script; there are {', '.join(sorted(SCRIPTABLE))}"
            )
        with self._lock:
            self._scripts.append(script)

    def _called(self, method: str, **arguments: Any) -> _Script:
        """Remember a call and take its script."""
        call = Call(method, {name: _as_given_now(value) for name, value in arguments.items()})
        with self._lock:
            self.calls.append(call)
            script = next((script for script in self._scripts if script.fits(call)), _NOTHING)
            if script is _NOTHING:
                return script
            if script.skip:
                script.skip -= 1
                return _NOTHING
            self._scripts.remove(script)
            return script


def _as_given_now(value: Any) -> Any:
    """A list of events may be changed by the caller later; its copy may not."""
    return list(value) if isinstance(value, list) else value


class MockEventStore(Scripted, EventStore):
    """An event store for tests: `store` (default: a new one in memory) behind a script."""

    def __init__(self, store: EventStore | None = None) -> None:
        super().__init__()
        self._store = InMemoryEventStore() if store is None else store

    def within(self, session: Any) -> Self:
        self._called("within", session=session)
        joined = copy.copy(self)  # shares the script and the calls
        joined._store = self._store.within(session)
        return joined

    async def close(self) -> None:
        await self._store.close()

    async def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        script = self._called("append", stream_id=stream_id, events=events, expected_version=expected_version)
        if script.rivals:
            await self._store.append(stream_id, script.rivals)
        return await _play(script, lambda: self._store.append(stream_id, events, expected_version))

    async def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        script = self._called("import_batch", events=events)
        return await _play(script, lambda: self._store.import_batch(events))

    async def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        script = self._called(
            "load",
            stream_id=stream_id,
            from_version=from_version,
            to_version=to_version,
            limit=limit,
            backwards=backwards,
        )
        events = await _play(
            script,
            lambda: self._store.load(stream_id, from_version, to_version, limit=limit, backwards=backwards),
        )
        return list(events)

    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> AsyncIterator[EventEnvelope]:
        script = self._called("stream", stream_id=stream_id, from_version=from_version, to_version=to_version)
        return _play_events(script, lambda: self._store.stream(stream_id, from_version, to_version))

    async def current_version(self, stream_id: StreamId) -> EventVersion:
        script = self._called("current_version", stream_id=stream_id)
        return await _play(script, lambda: self._store.current_version(stream_id))

    async def exists(self, stream_id: StreamId) -> bool:
        script = self._called("exists", stream_id=stream_id)
        return await _play(script, lambda: self._store.exists(stream_id))

    async def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        script = self._called("lock", stream_id=stream_id, wait=wait)
        return await _play(script, lambda: self._store.lock(stream_id, wait))

    async def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        script = self._called("read_page", after=after, limit=limit, only=only, until=until)
        return await _play(script, lambda: self._store.read_page(after, limit, only=only, until=until))

    async def latest_cursor(self) -> Cursor:
        return await _play(self._called("latest_cursor"), self._store.latest_cursor)

    def read_all(
        self,
        after: Cursor | None = None,
        *,
        aggregate_types: Sequence[str] | None = None,
        event_types: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> AllEvents:
        filters: dict[str, Any] = {
            "aggregate_types": aggregate_types,
            "event_types": event_types,
            "where": where,
        }
        script = self._called("read_all", after=after, **filters)
        return _PlayedEvents(script, self._store.read_all(after, **filters))

    async def replay(
        self,
        stream_id: StreamId,
        apply: Callable[[S, EventEnvelope], S],
        initial: S,
        snapshots: SnapshotStore | None = None,
        *,
        restore: Callable[[Any], S] | None = None,
        schema_version: int = 1,
        to_version: int | None = None,
    ) -> Replay[S]:
        options: dict[str, Any] = {
            "restore": restore,
            "schema_version": schema_version,
            "to_version": to_version,
        }
        script = self._called(
            "replay", stream_id=stream_id, apply=apply, initial=initial, snapshots=snapshots, **options
        )
        return await _play(
            script, lambda: self._store.replay(stream_id, apply, initial, snapshots, **options)
        )


class SyncMockEventStore(Scripted, SyncEventStore):
    """MockEventStore for blocking code."""

    def __init__(self, store: SyncEventStore | None = None) -> None:
        super().__init__()
        self._store = SyncInMemoryEventStore() if store is None else store

    def within(self, session: Any) -> Self:
        self._called("within", session=session)
        joined = copy.copy(self)  # shares the script and the calls
        joined._store = self._store.within(session)
        return joined

    def close(self) -> None:
        self._store.close()

    def append(
        self, stream_id: StreamId, events: Sequence[EventEnvelope], expected_version: ExpectedVersion = None
    ) -> EventVersion:
        script = self._called("append", stream_id=stream_id, events=events, expected_version=expected_version)
        if script.rivals:
            self._store.append(stream_id, script.rivals)
        return _play_sync(script, lambda: self._store.append(stream_id, events, expected_version))

    def import_batch(self, events: Iterable[EventEnvelope]) -> int:
        script = self._called("import_batch", events=events)
        return _play_sync(script, lambda: self._store.import_batch(events))

    def load(
        self,
        stream_id: StreamId,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        limit: int | None = None,
        backwards: bool = False,
    ) -> list[EventEnvelope]:
        script = self._called(
            "load",
            stream_id=stream_id,
            from_version=from_version,
            to_version=to_version,
            limit=limit,
            backwards=backwards,
        )
        events = _play_sync(
            script,
            lambda: self._store.load(stream_id, from_version, to_version, limit=limit, backwards=backwards),
        )
        return list(events)

    def stream(
        self, stream_id: StreamId, from_version: int = 0, to_version: int | None = None
    ) -> Iterator[EventEnvelope]:
        script = self._called("stream", stream_id=stream_id, from_version=from_version, to_version=to_version)
        return _play_events_sync(script, lambda: self._store.stream(stream_id, from_version, to_version))

    def current_version(self, stream_id: StreamId) -> EventVersion:
        script = self._called("current_version", stream_id=stream_id)
        return _play_sync(script, lambda: self._store.current_version(stream_id))

    def exists(self, stream_id: StreamId) -> bool:
        script = self._called("exists", stream_id=stream_id)
        return _play_sync(script, lambda: self._store.exists(stream_id))

    def lock(self, stream_id: StreamId, wait: float | None = None) -> EventVersion:
        script = self._called("lock", stream_id=stream_id, wait=wait)
        return _play_sync(script, lambda: self._store.lock(stream_id, wait))

    def read_page(
        self,
        after: Cursor | None = None,
        limit: int = LARGEST_PAGE,
        *,
        only: EventFilter = EVERYTHING,
        until: Cursor | None = None,
    ) -> FeedPage:
        script = self._called("read_page", after=after, limit=limit, only=only, until=until)
        return _play_sync(script, lambda: self._store.read_page(after, limit, only=only, until=until))

    def latest_cursor(self) -> Cursor:
        return _play_sync(self._called("latest_cursor"), self._store.latest_cursor)

    def read_all(
        self,
        after: Cursor | None = None,
        *,
        aggregate_types: Sequence[str] | None = None,
        event_types: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> SyncAllEvents:
        filters: dict[str, Any] = {
            "aggregate_types": aggregate_types,
            "event_types": event_types,
            "where": where,
        }
        script = self._called("read_all", after=after, **filters)
        return _SyncPlayedEvents(script, self._store.read_all(after, **filters))

    def replay(
        self,
        stream_id: StreamId,
        apply: Callable[[S, EventEnvelope], S],
        initial: S,
        snapshots: SyncSnapshotStore | None = None,
        *,
        restore: Callable[[Any], S] | None = None,
        schema_version: int = 1,
        to_version: int | None = None,
    ) -> Replay[S]:
        options: dict[str, Any] = {
            "restore": restore,
            "schema_version": schema_version,
            "to_version": to_version,
        }
        script = self._called(
            "replay", stream_id=stream_id, apply=apply, initial=initial, snapshots=snapshots, **options
        )
        return _play_sync(script, lambda: self._store.replay(stream_id, apply, initial, snapshots, **options))


class _PlayedEvents(AllEvents):
    """A reading behind a script; its cursor is the one of the reading."""

    def __init__(self, script: _Script, events: AllEvents) -> None:
        self._played = events
        self._events = _play_events(script, lambda: events)

    @property
    def cursor(self) -> Cursor | None:
        return self._played.cursor


class _SyncPlayedEvents(SyncAllEvents):
    """_PlayedEvents for blocking code."""

    def __init__(self, script: _Script, events: SyncAllEvents) -> None:
        self._played = events
        self._events = _play_events_sync(script, lambda: events)

    @property
    def cursor(self) -> Cursor | None:
        return self._played.cursor


async def _play(script: _Script, call: Callable[[], Awaitable[T]]) -> T:
    script.before()
    answer: T = script.answer if script.has_answer else await call()
    script.after()
    return answer


def _play_sync(script: _Script, call: Callable[[], T]) -> T:
    script.before()
    answer: T = script.answer if script.has_answer else call()
    script.after()
    return answer


async def _play_events(
    script: _Script, call: Callable[[], AsyncIterator[EventEnvelope]]
) -> AsyncGenerator[EventEnvelope, None]:
    script.before()
    if script.has_answer:
        for event in script.answer:
            yield event
    else:
        async for event in call():
            yield event
    script.after()


def _play_events_sync(
    script: _Script, call: Callable[[], Iterator[EventEnvelope]]
) -> Iterator[EventEnvelope]:
    script.before()
    yield from script.answer if script.has_answer else call()
    script.after()
