"""What the stores do, once and without I/O: each operation is steps that a runner executes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias
from uuid import UUID

from k1s0_event_store.batch import Batch, check_stream_id, encode_batch
from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.envelope import (
    STREAM_EXISTS,
    EventEnvelope,
    EventVersion,
    ExpectedVersion,
    StreamId,
    check_expected_version,
    stored_stream_id,
    undecoded_envelope,
    utc_moment,
)
from k1s0_event_store.exceptions import (
    ConcurrencyError,
    DuplicateEventError,
    EventStoreError,
    LockTimeoutError,
    OutcomeUnknownError,
    StoreUnavailableError,
    TransactionRequiredError,
)
from k1s0_event_store.feed import FIRST_PAGE, page_size
from k1s0_event_store.garbage import CollectionPaused
from k1s0_event_store.jsontext import decode
from k1s0_event_store.limits import DEFAULT_LIMITS, Limits
from k1s0_event_store.outcome import first_answer, require
from k1s0_event_store.postgres.binary_copy import batch_rows, copy_events
from k1s0_event_store.postgres.connection import Rows, Steps, Transaction
from k1s0_event_store.postgres.errors import (
    ConnectionLostError,
    LockNotAvailableError,
    SerializationFailureError,
    UniqueViolationError,
)
from k1s0_event_store.postgres.models import EVENTS_ID_KEY
from k1s0_event_store.postgres.statements import (
    LOCK_TIMEOUT,
    RELEASE_SAVEPOINT,
    ROLLBACK_TO_SAVEPOINT,
    SAVEPOINT,
    SET_LOCK_TIMEOUT,
    Appends,
    Query,
    Statement,
    Statements,
)
from k1s0_event_store.snapshot import Snapshot, check_snapshot_query, encode_state
from k1s0_event_store.store import Span, check_wait

BY_COPY: Final = 400
"""Events of an append that are worth a transaction of some round trips: COPY takes half as long for each."""
_JSON: Final = itemgetter(-7), itemgetter(-6)
"""Payload and metadata, of every kind of row."""
_EXISTING: Final = -1
"""STREAM_EXISTS, where NULL is any version."""
Answer: TypeAlias = EventVersion | EventStoreError | None
"""Of an append among others: its version, its error, or None: nothing is stored, it has to go alone."""


@dataclass(frozen=True, slots=True)
class Append:
    """An append whose input is checked and encoded."""

    stream_id: StreamId
    batch: Batch
    expected: ExpectedVersion


def check_append(
    stream_id: StreamId,
    events: Sequence[EventEnvelope],
    expected_version: ExpectedVersion,
    limits: Limits = DEFAULT_LIMITS,
) -> Append:
    """What `append` is given, ready to be sent; raises InvalidInputError, DuplicateEventError."""
    expected = check_expected_version(expected_version)
    return Append(stream_id, encode_batch(stream_id, events, limits), expected)


def append(sql: Statements, wanted: Append, joined: bool) -> Steps[EventVersion]:
    """One statement, or one transaction; more only after a refusal. `joined`: inside a caller's."""
    stream_id, expected = wanted.stream_id, wanted.expected
    if not wanted.batch:
        return require(stream_id, expected, (yield from current_version(sql, stream_id)))
    if len(wanted.batch) < BY_COPY or not sql.copies:
        step: Query | Transaction = _append_query(sql, wanted, joined)
    else:
        step = Transaction(partial(_append_by_copy, sql, wanted, joined))
    while True:
        try:
            rows = yield step
        except UniqueViolationError as exc:
            if joined:  # The transaction is over, nothing more can be asked in it.
                raise _unique_violation(exc, stream_id, expected) from exc
            rows = ()
        except SerializationFailureError as exc:
            raise ConcurrencyError(stream_id, expected, None) from exc
        except ConnectionLostError as exc:
            if joined:  # An open transaction without its connection is rolled back.
                raise
            raise _outcome_unknown(exc, stream_id) from exc
        if rows:
            return EventVersion(rows[0][0])
        answer = yield from _refused(sql, stream_id, expected, wanted.batch.event_ids)
        if answer is not None:
            return answer


def _append_query(sql: Statements, wanted: Append, joined: bool) -> Query:
    batch = wanted.batch
    if len(batch) == 1:
        appends = sql.append_one_joined if joined else sql.append_one
        columns: tuple[Any, ...] = tuple(column[0] for column in batch.columns())
    else:
        appends = sql.append_joined if joined else sql.append
        ids, types, payloads, metadata, times = batch.columns()
        columns = ids, _column(types), payloads, _column(metadata), times
    return _expecting(appends, wanted, columns)


def _expecting(appends: Appends, wanted: Append, columns: tuple[Any, ...]) -> Query:
    """The statement for what is expected; its parameters are those of the stream, `columns`, the version."""
    stream_id, expected = wanted.stream_id, wanted.expected
    args = (stream_id.aggregate_type, stream_id.aggregate_id, len(wanted.batch), *columns)
    if expected is None:
        return Query(appends.any, args)
    if expected is STREAM_EXISTS:
        return Query(appends.existing, args)
    if expected == 0:
        return Query(appends.new, args)
    return Query(appends.at, (*args, expected))


def _column(values: list[str]) -> list[str]:
    """What is sent of a column of events: one value for all of them, where all have the same."""
    return values[:1] if values.count(values[0]) == len(values) else values


def _append_by_copy(sql: Statements, wanted: Append, joined: bool) -> Steps[Rows]:
    """The version of the stream, if the events are stored."""
    # The ids are looked up where the version does not tell, or an error would end the caller's transaction.
    tells = not joined and isinstance(wanted.expected, int)
    rows = yield _expecting(sql.move, wanted, ([] if tells else wanted.batch.event_ids,))
    for version, *_ in rows:
        first = version - len(wanted.batch) + 1
        events = batch_rows(wanted.stream_id, wanted.batch, first)
        yield from copy_events(sql.schema, events, len(wanted.batch))
    return rows


def _outcome_unknown(error: StoreUnavailableError, stream_id: StreamId) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{error}: the append to {stream_id} may be stored or not; repeat it with the same events"
    )


def append_together(sql: Statements, appends: Sequence[Append]) -> Steps[list[Answer]]:
    """Appends to different streams in one statement, and the answer to each.

    Whatever is wrong with one is told by its own `append`: what a refusal means is written once.
    """
    try:
        rows = yield _together_query(sql, appends)
    except StoreUnavailableError as exc:
        return [_unanswered(exc, wanted.stream_id) for wanted in appends]
    except EventStoreError:  # Nothing is stored.
        return [None] * len(appends)
    answers: list[Answer] = [None] * len(appends)
    for number, version, *_notified in rows:
        answers[number - 1] = EventVersion(version)
    return answers


def _unanswered(error: StoreUnavailableError, stream_id: StreamId) -> EventStoreError:
    """What each append is told when the connection of all broke, or could not be had."""
    lost = isinstance(error, ConnectionLostError)
    own = _outcome_unknown(error, stream_id) if lost else type(error)(str(error))
    own.__cause__ = error
    return own


def _together_query(sql: Statements, appends: Sequence[Append]) -> Query:
    counts = [len(wanted.batch) for wanted in appends]
    events = Batch([], [], [], [], [])
    for wanted in appends:
        events.extend(wanted.batch)
    ids, types, payloads, metadata, times = events.columns()
    return Query(
        sql.append_together,
        (
            [wanted.stream_id.aggregate_type for wanted in appends],
            [wanted.stream_id.aggregate_id for wanted in appends],
            counts,
            [_EXISTING if wanted.expected is STREAM_EXISTS else wanted.expected for wanted in appends],
            [number for number, count in enumerate(counts, 1) for _ in range(count)],
            ids,
            _column(types),
            payloads,
            _column(metadata),
            times,
        ),
    )


def _refused(
    sql: Statements, stream_id: StreamId, expected: ExpectedVersion, event_ids: Sequence[UUID]
) -> Steps[EventVersion | None]:
    """The first answer of a repeated batch, the typed refusal, or None: it has changed, try again."""
    rows = yield Query(sql.refused, (stream_id.aggregate_type, stream_id.aggregate_id, event_ids))
    known = {event_id: version for _, event_id, version in rows if event_id is not None}
    if known:
        return first_answer(stream_id, expected, event_ids, known)
    require(stream_id, expected, rows[0][0])
    return None


def _unique_violation(
    error: UniqueViolationError, stream_id: StreamId, expected: ExpectedVersion
) -> DuplicateEventError | ConcurrencyError:
    if error.constraint == EVENTS_ID_KEY:
        return DuplicateEventError(stream_id, (), "an event with one of these ids is stored already")
    return ConcurrencyError(stream_id, expected, None)


def current_version(sql: Statements, stream_id: StreamId) -> Steps[EventVersion]:
    """Version of the last event, 0 if there is none."""
    check_stream_id(stream_id)
    rows = yield Query(sql.current_version, (stream_id.aggregate_type, stream_id.aggregate_id))
    return EventVersion(rows[0][0] if rows else 0)


def lock(sql: Statements, stream_id: StreamId, wait: float | None, joined: bool) -> Steps[EventVersion]:
    """Lock the head row until the transaction ends."""
    check_stream_id(stream_id)
    check_wait(wait)
    if not joined:
        raise TransactionRequiredError(
            "a lock lasts as long as its transaction: use store.within(session).lock(...)"
        )
    try:
        if wait is None:
            return (yield from _lock(sql, stream_id))
        return (yield from _lock_within(sql, stream_id, wait))
    except LockNotAvailableError as exc:
        raise LockTimeoutError(stream_id, wait) from exc
    except SerializationFailureError as exc:
        raise ConcurrencyError(stream_id, None, None) from exc


def _lock(sql: Statements, stream_id: StreamId) -> Steps[EventVersion]:
    args = (stream_id.aggregate_type, stream_id.aggregate_id)
    rows = yield Query(sql.lock, args)
    if not rows:
        rows = yield Query(sql.lock_new, args)
    return EventVersion(rows[0][0])


def _lock_within(sql: Statements, stream_id: StreamId, wait: float) -> Steps[EventVersion]:
    """The savepoint keeps the transaction usable after the limit, and takes the setting back."""
    yield SAVEPOINT
    try:
        before = yield Query(LOCK_TIMEOUT)
        # 0 would mean no limit at all.
        yield Query(SET_LOCK_TIMEOUT, (f"{max(1, round(wait * 1000))}ms",))
        version = yield from _lock(sql, stream_id)
    except LockNotAvailableError:
        yield ROLLBACK_TO_SAVEPOINT
        yield RELEASE_SAVEPOINT
        raise
    yield Query(SET_LOCK_TIMEOUT, (before[0][0],))
    yield RELEASE_SAVEPOINT
    return version


def load(sql: Statements, stream_id: StreamId, span: Span) -> Steps[list[EventEnvelope]]:
    """The events of the span."""
    return envelopes(stream_id, (yield _read_query(sql, stream_id, span)))


def load_page(sql: Statements, stream_id: StreamId, span: Span) -> Steps[tuple[Rows, Span | None]]:
    """The rows of the span up to its limit, and the span that follows (None: there is none)."""
    rows = yield _read_query(sql, stream_id, span)
    if span.limit is None or len(rows) < span.limit:
        return rows, None
    return rows, Span(rows[-1][5] + 1, span.last, next_page_size(rows))


def first_page(span: Span) -> Span:
    """The beginning of `span`, small: nothing is known of the size of its events yet."""
    return Span(span.first, span.last, FIRST_PAGE)


def next_page_size(rows: Rows) -> int:
    """Events per page so that a page stays near 4 MB, judged by the page before."""
    return page_size(mean_bytes(rows))


def mean_bytes(rows: Rows) -> int:
    """Mean length of payload and metadata."""
    return sum(sum(map(len, map(text, rows))) for text in _JSON) // max(1, len(rows))


def _read_query(sql: Statements, stream_id: StreamId, span: Span) -> Query:
    statement: Statement = sql.read_backwards if span.backwards else sql.read
    return Query(
        statement, (stream_id.aggregate_type, stream_id.aggregate_id, span.first, span.last, span.limit)
    )


def envelopes(stream_id: StreamId, rows: Rows) -> list[EventEnvelope]:
    """Envelopes of one stream's rows."""
    with CollectionPaused():
        return list(each_envelope(stream_id, rows))


def each_envelope(stream_id: StreamId, rows: Rows) -> Iterator[EventEnvelope]:
    """The same one by one: those that nobody keeps are no work for the garbage collector."""
    for event_type, payload, metadata, event_id, at, version, then, position in rows:
        yield undecoded_envelope(
            stream_id, event_type, payload, metadata, event_id, at, version, then, position
        )


def feed_envelopes(rows: Rows) -> Iterator[EventEnvelope]:
    """Envelopes of rows that begin with "is wanted" and then name their streams, one by one."""
    stream_ids: dict[tuple[str, str], StreamId] = {}
    # Taken apart by names: slices of a row would cost as much as its envelope.
    for wanted, kind, name, event_type, payload, metadata, event_id, at, version, then, position in rows:
        if wanted:
            stream_id = stream_ids.get((kind, name))
            if stream_id is None:
                stream_id = stream_ids[kind, name] = stored_stream_id(kind, name)
            yield undecoded_envelope(
                stream_id, event_type, payload, metadata, event_id, at, version, then, position
            )


def save_snapshot(
    sql: Statements,
    stream_id: StreamId,
    version: int,
    state: Any,
    schema_version: int,
    config: EventStoreConfig,
) -> Steps[None]:
    """Keep a state and prune old ones, in one statement."""
    text, keep = encode_state(stream_id, version, state, schema_version, config.limits), config.snapshots_kept
    yield Query(
        sql.save_snapshot,
        (stream_id.aggregate_type, stream_id.aggregate_id, version, schema_version, text, keep),
    )


def load_snapshot(
    sql: Statements, stream_id: StreamId, schema_version: int | None, max_version: int | None
) -> Steps[Snapshot | None]:
    """The newest snapshot that may be used."""
    last = check_snapshot_query(stream_id, schema_version, max_version)
    rows = yield Query(
        sql.load_snapshot, (stream_id.aggregate_type, stream_id.aggregate_id, last, schema_version)
    )
    if not rows:
        return None
    version, state, taken_at, schema = rows[0]
    return Snapshot(stream_id, version, decode(state), utc_moment(taken_at), schema)


def load_since_snapshot(
    sql: Statements, stream_id: StreamId, schema_version: int | None, max_version: int | None, limit: int
) -> Steps[tuple[Snapshot | None, list[EventEnvelope]]]:
    """The newest snapshot that may be used, and the events from its version on, or from the first."""
    last = check_snapshot_query(stream_id, schema_version, max_version)
    where = (stream_id.aggregate_type, stream_id.aggregate_id, last, schema_version, limit)
    rows = yield Query(sql.read_since_snapshot, where)
    if not rows or rows[0][0] is not None:
        return None, envelopes(stream_id, rows)
    _, state, _, _, taken_at, version, _, schema = rows[0]
    snapshot = Snapshot(stream_id, version, decode(state), utc_moment(taken_at), schema)
    return snapshot, envelopes(stream_id, rows[1:])
