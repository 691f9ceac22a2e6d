"""What the subscription store does, without I/O: each operation is steps that a runner executes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import groupby
from typing import Any

from k1s0_event_store.envelope import EventEnvelope, StreamId
from k1s0_event_store.exceptions import (
    ConfigurationError,
    EventParkedError,
    LeaseLostError,
    SubscriptionNotFoundError,
)
from k1s0_event_store.feed import Cursor
from k1s0_event_store.postgres.connection import Steps
from k1s0_event_store.postgres.feed import Place, covers, parse
from k1s0_event_store.postgres.statements import Query, Statement
from k1s0_event_store.postgres.subscription_statements import SubscriptionStatements
from k1s0_event_store.subscription import (
    MOST_COUNTED,
    Lease,
    ParkedEvent,
    PartitionState,
    PartitionStatus,
    Progress,
    SubscriptionStatus,
    fair_share,
    storable,
)


def register(
    sql: SubscriptionStatements, name: str, version: int, partitions: int, repeats: bool
) -> Steps[None]:
    """Make the partitions where there are none."""
    found = 0
    while not found:
        ((found,),) = yield Query(sql.count, (name, version))
        if not found:
            # Nothing is inserted where another version became live in the same moment: look again.
            yield Query(sql.register, (name, version, partitions))
    if found != partitions:
        raise ConfigurationError(
            f"{name!r} version {version} has run with {found} partitions, not {partitions}: keep their "
            "number, or raise the version to begin anew"
        )
    yield Query(sql.set_repeats, (name, version, repeats))


@dataclass(frozen=True, slots=True)
class _Partition:
    """A row of the lease table."""

    number: int
    token: int
    cursor: str | None
    replay_until: str | None
    live: bool
    active: bool
    owner: str | None
    leased: bool

    @property
    def handled(self) -> str | None:
        """How far its side effects were fired, also before it went back."""
        return self.replay_until or self.cursor


def _partitions(sql: SubscriptionStatements, name: str, version: int) -> Steps[list[_Partition]]:
    """All partitions of a version, locked until the transaction ends."""
    partitions = [_Partition(*row) for row in (yield Query(sql.partitions, (name, version)))]
    if not partitions:
        raise SubscriptionNotFoundError(name, version)
    return partitions


def beat(
    sql: SubscriptionStatements, name: str, version: int, worker: str, seconds: float
) -> Steps[list[Lease] | None]:
    """Renew the leases of `worker`; None if some have to change hands."""
    rows = yield Query(sql.beat, (name, version, worker, seconds))
    if not rows:
        return None
    workers, partitions, held_by_others = rows[0][-3:]
    share = fair_share(partitions, sorted({*(workers or ()), worker}), worker)
    if len(rows) > share or (len(rows) < share and held_by_others + len(rows) < partitions):
        return None
    return [
        Lease(name, version, number, token, _cursor(cursor), _cursor(until), live, active, retry)
        for number, token, cursor, until, live, active, retry, *_ in rows
    ]


def share_out(
    sql: SubscriptionStatements, name: str, version: int, worker: str, seconds: float
) -> Steps[list[Lease]]:
    """After a beat: take free partitions, or mark as surplus, what the fair share says."""
    one = (name, version)
    partitions = yield from _partitions(sql, name, version)
    yield Query(sql.forget_dead, one)
    workers = sorted({worker, *(row[0] for row in (yield Query(sql.workers, one)))})
    mine = [p for p in partitions if p.owner == worker]
    free = [p for p in partitions if not p.leased and p.owner != worker]
    share = fair_share(len(partitions), workers, worker)
    taken = free[: max(0, share - len(mine))]
    if taken:
        yield Query(sql.take, (*one, worker, [p.number for p in taken], seconds))
    retry = {row[0] for row in (yield Query(sql.to_retry_in, one))}
    kept = [(p, p.token, i >= share) for i, p in enumerate(mine)]
    kept += [(p, p.token + 1, False) for p in taken]
    return [_lease(one, p, token, p.number in retry, surplus) for p, token, surplus in kept]


def _lease(one: tuple[str, int], row: _Partition, token: int, retry: bool, surplus: bool) -> Lease:
    return Lease(
        *one, row.number, token, _cursor(row.cursor), _cursor(row.replay_until), row.live, row.active,
        retry, surplus,
    )  # fmt: skip


def _cursor(text: str | None) -> Cursor | None:
    return None if text is None else Cursor(text)


def _held(lease: Lease) -> tuple[Any, ...]:
    return lease.name, lease.version, lease.partition, lease.token


def reload(sql: SubscriptionStatements, lease: Lease) -> Steps[Lease]:
    """The lease with the checkpoint as it is stored."""
    rows = yield Query(sql.reload, _held(lease))
    if not rows:
        raise LeaseLostError(lease.name, lease.version, lease.partition)
    return replace(lease, cursor=_cursor(rows[0][0]), replay_until=_cursor(rows[0][1]))


def release(sql: SubscriptionStatements, lease: Lease) -> Steps[None]:
    """Give the lease back if it is still ours."""
    yield Query(sql.release, _held(lease))


def leave(sql: SubscriptionStatements, name: str, version: int, worker: str) -> Steps[None]:
    """Give everything back."""
    yield Query(sql.release_all, (name, version, worker))
    yield Query(sql.forget_worker, (name, version, worker))


def save(sql: SubscriptionStatements, lease: Lease, progress: Progress) -> Steps[None]:
    """Move the checkpoint by compare-and-set."""
    before = None if lease.cursor is None else str(lease.cursor)
    moved = yield Query(
        sql.save,
        (*_held(lease), before, str(progress.cursor), progress.handled, progress.replayed),
    )
    if not moved:
        raise LeaseLostError(lease.name, lease.version, lease.partition)


def _hold(sql: SubscriptionStatements, lease: Lease) -> Steps[None]:
    """Keep the lease ours until the transaction ends."""
    if not (yield Query(sql.hold, _held(lease))):
        raise LeaseLostError(lease.name, lease.version, lease.partition)


def park(
    sql: SubscriptionStatements,
    lease: Lease,
    events: Sequence[EventEnvelope],
    error: str | None,
    attempts: int,
) -> Steps[None]:
    """Park events of one lease."""
    yield from _hold(sql, lease)
    types = [event.stream_id.aggregate_type for event in events]
    ids = [event.stream_id.aggregate_id for event in events]
    versions = [event.version for event in events]
    positions = [event.position for event in events]
    columns = (types, ids, versions, [event.event_type for event in events], positions)
    reason = None if error is None else storable(error)
    yield Query(sql.park, (lease.name, lease.version, lease.partition, *columns, reason, attempts))
    again = sql.retry_freed if error is None else sql.wait_again
    yield Query(again, (lease.name, lease.version, types, ids))


def unpark(sql: SubscriptionStatements, lease: Lease, stream_id: StreamId, event_version: int) -> Steps[None]:
    """Forget a parked event that was handled."""
    yield from _hold(sql, lease)
    where = (stream_id.aggregate_type, stream_id.aggregate_id, event_version)
    yield Query(sql.unpark, (lease.name, lease.version, *where))


def parked_streams(sql: SubscriptionStatements, lease: Lease) -> Steps[set[StreamId]]:
    """Streams of the partition with parked events."""
    rows = yield Query(sql.parked_streams, (lease.name, lease.version, lease.partition))
    return {StreamId(*row) for row in rows}


def to_retry(sql: SubscriptionStatements, lease: Lease) -> Steps[list[ParkedEvent]]:
    """Parked events of the streams to be retried."""
    rows = yield Query(sql.to_retry, (lease.name, lease.version, lease.partition))
    return [_parked(row) for row in rows]


def parked(sql: SubscriptionStatements, name: str | None, limit: int) -> Steps[list[ParkedEvent]]:
    """Parked events, oldest first."""
    if name is not None:
        yield from live_version(sql, name)
    return [_parked(row) for row in (yield Query(sql.parked, (name, limit)))]


def _parked(row: Sequence[Any]) -> ParkedEvent:
    name, version, aggregate_type, aggregate_id, number, event_type, position, error, attempts, at = row
    stream_id = StreamId(aggregate_type, aggregate_id)
    return ParkedEvent(
        name, version, stream_id, number, event_type, position, error, attempts, at.astimezone(UTC)
    )


def fail(sql: SubscriptionStatements, lease: Lease, error: str, stop: bool) -> Steps[None]:
    """Note an error."""
    yield Query(sql.fail, (*_held(lease), storable(error), stop))


def live_version(sql: SubscriptionStatements, name: str) -> Steps[int]:
    """The live version of a subscription."""
    rows = yield Query(sql.live, (name,))
    if not rows:
        raise SubscriptionNotFoundError(name)
    return int(rows[0][0])


def _existing(sql: SubscriptionStatements, name: str, version: int | None) -> Steps[int]:
    """`version`, or the live one; raises SubscriptionNotFoundError."""
    if version is None:
        return (yield from live_version(sql, name))
    ((found,),) = yield Query(sql.count, (name, version))
    if not found:
        raise SubscriptionNotFoundError(name, version)
    return version


def change(sql: SubscriptionStatements, statement: Statement, name: str, version: int | None) -> Steps[None]:
    """Execute a change of all partitions of a version."""
    version = (yield from live_version(sql, name)) if version is None else version
    if not (yield Query(statement, (name, version))):
        raise SubscriptionNotFoundError(name, version)


def of_stream(
    sql: SubscriptionStatements,
    statement: Statement,
    name: str,
    stream_id: StreamId | None,
    version: int | None,
) -> Steps[int]:
    """Execute a change of parked events; how many there were."""
    version = yield from _existing(sql, name, version)
    stream = (None, None) if stream_id is None else (stream_id.aggregate_type, stream_id.aggregate_id)
    return len((yield Query(statement, (name, version, *stream))))


def reset(
    sql: SubscriptionStatements, name: str, version: int | None, after: Cursor | None, side_effects: bool
) -> Steps[None]:
    """Move all partitions to `after`, and remember what was handled before."""
    version = (yield from live_version(sql, name)) if version is None else version
    target = None if after is None else str(parse(after).cursor())
    for partition in (yield from _partitions(sql, name, version)):
        until = None if side_effects or _reaches(target, partition.handled) else partition.handled
        yield Query(sql.reset, (name, version, partition.number, target, until))
    yield Query(sql.drop_repeated, (name, version, side_effects))


def _reaches(cursor: str | None, other: str | None) -> bool:
    """True if all that lies before `other` lies before `cursor`."""
    if other is None:
        return True
    return cursor is not None and covers(parse(Cursor(cursor)), parse(Cursor(other)))


def switch(sql: SubscriptionStatements, name: str, old: int, new: int) -> Steps[bool]:
    """Make `new` the live version, if `old` has handled all that `new` has."""
    before = yield from _partitions(sql, name, min(old, new))
    after = yield from _partitions(sql, name, max(old, new))
    olds, news = (before, after) if old < new else (after, before)
    if len(olds) != len(news):
        raise ConfigurationError(
            f"{name!r} version {old} has {len(olds)} partitions and version {new} has {len(news)}: side "
            "effects can only be handed over between equal ones"
        )
    pairs = list(zip(olds, news, strict=True))
    for was, comes in pairs:
        if not (yield from _is_ahead(sql, was.handled, comes.cursor)):
            return False
    yield Query(sql.not_live, (name, old))
    for was, comes in pairs:
        until = None if _reaches(comes.cursor, was.handled) else was.handled
        yield Query(sql.make_live, (name, new, comes.number, until))
    return True


def _is_ahead(sql: SubscriptionStatements, handled: str | None, other: str | None) -> Steps[bool]:
    """True if no event lies before `other` that does not lie before `handled`."""
    if _reaches(handled, other):
        return True
    # Transactions without events move a place on too: on a quiet store no worker goes there.
    behind, _ = yield from _behind(sql, _cursor(handled))
    return behind == 0


def is_paused(sql: SubscriptionStatements, name: str, version: int) -> Steps[bool]:
    """True if somebody has paused the version."""
    ((paused,),) = yield Query(sql.is_paused, (name, version))
    return bool(paused)


def remove(sql: SubscriptionStatements, name: str, version: int) -> Steps[None]:
    """Forget a version that nobody needs."""
    partitions = yield from _partitions(sql, name, version)
    if any(p.live for p in partitions):
        ((others,),) = yield Query(sql.others, (name, version))
        if others or any(p.leased for p in partitions):
            raise ConfigurationError(
                f"{name!r} version {version} is live: switch to another version, or stop its workers if it "
                "is the only one"
            )
    yield Query(sql.remove, (name, version))
    yield Query(sql.drop_all, (name, version))


def has_handled(
    sql: SubscriptionStatements, name: str, stream_id: StreamId, event_version: int, version: int | None
) -> Steps[bool]:
    """Look whether the event lies before the cursor of its partition."""
    where = (stream_id.aggregate_type, stream_id.aggregate_id, event_version)
    ((partitions, tx, position, cursor, is_parked),) = yield Query(sql.reached, (name, version, *where))
    if not partitions:
        raise SubscriptionNotFoundError(name, version)
    if is_parked:
        raise EventParkedError(name, stream_id, event_version)
    if tx is None or cursor is None:
        return False
    return parse(Cursor(cursor)).has_read(int(tx), position)


def statuses(sql: SubscriptionStatements, name: str | None) -> Steps[list[SubscriptionStatus]]:
    """Everything about subscriptions, by name, version and partition."""
    rows = yield Query(sql.status, (name,))
    if name is not None and not rows:
        raise SubscriptionNotFoundError(name)
    found = []
    for (title, version, live, parked), group in groupby(rows, key=lambda row: (*row[:3], row[13])):
        partitions = []
        for row in group:
            partitions.append((yield from _partition_status(sql, row)))
        found.append(SubscriptionStatus(title, version, live, tuple(partitions), parked))
    return found


def _partition_status(sql: SubscriptionStatements, row: Sequence[Any]) -> Steps[PartitionStatus]:
    number, owner, leased, paused, stopped, text, handled, replaying, error, failed_at = row[3:13]
    behind, seconds = yield from _behind(sql, _cursor(text))
    state = PartitionState.of(stopped=stopped, paused=paused, held=leased)
    return PartitionStatus(
        number, state, owner if leased else None, _cursor(text), handled, behind, seconds, replaying, error,
        None if failed_at is None else failed_at.astimezone(UTC),
    )  # fmt: skip


def _behind(sql: SubscriptionStatements, cursor: Cursor | None) -> Steps[tuple[int, float]]:
    """How many events lie after the cursor, and the age of the oldest in seconds."""
    if cursor is None:
        query = Query(sql.behind_all, (MOST_COUNTED,))
    else:
        place = parse(cursor)
        if isinstance(place, Place):
            running = [str(tx) for tx in place.seen.running]
            query = Query(sql.behind_place, (MOST_COUNTED, str(place.seen.xmax), running))
        else:
            start = max(place.after, place.floor)
            query = Query(sql.behind_batch, (MOST_COUNTED, start, str(place.seen)))
    ((count, seconds),) = yield query
    return count, seconds
