"""Importing a batch: the steps of one transaction, the caller's or one of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter

from k1s0_event_store.envelope import EventEnvelope
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    DuplicateEventError,
    EventStoreError,
    OutcomeUnknownError,
)
from k1s0_event_store.garbage import CollectionPaused
from k1s0_event_store.limits import Limits
from k1s0_event_store.postgres.binary_copy import copy_events, event_rows
from k1s0_event_store.postgres.connection import Rows, Steps, Transaction
from k1s0_event_store.postgres.errors import (
    ConnectionLostError,
    RowsDroppedError,
    SerializationFailureError,
    UniqueViolationError,
)
from k1s0_event_store.postgres.import_statements import (
    RELEASE_SAVEPOINT,
    ROLLBACK_TO_SAVEPOINT,
    SAVEPOINT,
    ImportStatements,
)
from k1s0_event_store.postgres.statements import Query
from k1s0_event_store.runs import Run, check_events, check_names, runs_of
from k1s0_event_store.texts import Texts, texts_of


def import_batch(
    sql: ImportStatements, events: Iterable[EventEnvelope], joined: bool, limits: Limits
) -> Steps[int]:
    """Check `events` now; the steps store what is missing, and answer how many that were."""
    with CollectionPaused():
        batch = check_events(events, limits)
        runs = runs_of(batch)
        check_names(batch, runs, limits)
        transaction = Transaction(partial(_import, sql, batch, texts_of(batch, limits), runs))
    return _import_whole(transaction, joined)


def _import_whole(transaction: Transaction, joined: bool) -> Steps[int]:
    try:
        ((imported,),) = yield transaction
    except ConnectionLostError as exc:
        if joined:  # An open transaction without its connection is rolled back.
            raise
        raise OutcomeUnknownError(
            f"{exc}: the import may be stored or not; repeat it with the same events"
        ) from exc
    return int(imported)


def _import(
    sql: ImportStatements, events: Sequence[EventEnvelope], texts: Texts, runs: Sequence[Run]
) -> Steps[Rows]:
    """At first as if all were new; where that is refused, what stands there is looked at, and left out."""
    while runs:
        yield Query(SAVEPOINT)
        refusal: EventStoreError | None = None
        try:
            if (yield from _move(sql, events, texts, runs)):
                yield Query(RELEASE_SAVEPOINT)
                return ((_count(runs),),)
        except SerializationFailureError as exc:
            raise ConcurrencyError(runs[0].stream_id, runs[0].first - 1, None) from exc
        except (RowsDroppedError, UniqueViolationError) as exc:
            refusal = exc
        # A caller's transaction stays usable, and has nothing of this batch.
        yield Query(ROLLBACK_TO_SAVEPOINT)
        yield Query(RELEASE_SAVEPOINT)
        if refusal is not None and not isinstance(refusal, UniqueViolationError):
            raise refusal
        left = yield from _missing(sql, runs)
        if refusal is not None and _count(left) == _count(runs):
            yield from _refuse_taken(sql, runs)
            raise refusal
        runs = left
    return ((0,),)


def _move(
    sql: ImportStatements, events: Sequence[EventEnvelope], texts: Texts, runs: Sequence[Run]
) -> Steps[bool]:
    """Move the heads and store the events; False if a stream is elsewhere: take the heads back then."""
    counts, lasts = [len(run.events) for run in runs], [run.last for run in runs]
    rows = yield Query(sql.move_heads, (*_names(runs), counts, lasts))
    if rows[0][0] < len(runs):
        return False
    yield from copy_events(sql.schema, event_rows(events, texts, runs), _count(runs))
    return True


def _count(runs: Sequence[Run]) -> int:
    return sum(len(run.events) for run in runs)


def _names(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    stream_ids = [run.stream_id for run in runs]
    return [each.aggregate_type for each in stream_ids], [each.aggregate_id for each in stream_ids]


def _missing(sql: ImportStatements, runs: Sequence[Run]) -> Steps[list[Run]]:
    """The runs without what is stored; raises InvalidEventError for another event or a gap."""
    firsts, lasts = [run.first for run in runs], [run.last for run in runs]
    rows = yield Query(sql.stored, (*_names(runs), firsts, lasts))
    missing = []
    for run, (_, found) in zip(runs, groupby(rows, itemgetter(0)), strict=True):
        stored = list(found)
        run.require(stored[0][1])
        rest = run.without([(row[2], row[3]) for row in stored if row[2] is not None])
        if rest.events:
            missing.append(rest)
    return missing


def _refuse_taken(sql: ImportStatements, runs: Sequence[Run]) -> Steps[None]:
    """Raise DuplicateEventError where an id is that of another event, in the batch or in the store."""
    given = [(run.stream_id, event) for run in runs for event in run.events]
    keys = [(stream_id.aggregate_id, event.event_id) for stream_id, event in given]
    twice = {key for key, times in Counter(keys).items() if times > 1}
    for (stream_id, event), key in zip(given, keys, strict=True):
        if key in twice:
            raise DuplicateEventError(stream_id, (event.event_id,), "an id stands twice in one batch")
    rows = yield Query(
        sql.taken,
        (
            [stream_id.aggregate_type for stream_id, _ in given],
            [stream_id.aggregate_id for stream_id, _ in given],
            [event.version for _, event in given],
            [event.event_id for _, event in given],
        ),
    )
    if rows:
        stream_id, _ = given[rows[0][0] - 1]
        taken = [given[place - 1] for (place,) in rows]
        ids = tuple(event.event_id for of, event in taken if of == stream_id)
        raise DuplicateEventError(stream_id, ids, "an event with this id is stored already")
