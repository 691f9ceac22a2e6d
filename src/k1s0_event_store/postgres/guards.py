"""Past what guards the tables from their owner too: row-level security, and that events do not change."""

from __future__ import annotations

from typing import Final

from k1s0_event_store.postgres.connection import Steps, T
from k1s0_event_store.postgres.statements import Query, quote_text, schema_names, statement

_IS_HIDDEN: Final = "SELECT row_security_active({text})"
_SEE_ALL: Final = "ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"
_SEE_ONE: Final = "ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
_UNGUARD: Final = "ALTER TABLE {events} DISABLE TRIGGER trigger_events_append_only"
_GUARD: Final = "ALTER TABLE {events} ENABLE TRIGGER trigger_events_append_only"


def seeing_all(schema: str, tables: tuple[str, ...], steps: Steps[T]) -> Steps[T]:
    """`steps`, which see the rows of all tenants in `tables` if the owner of the tables takes them."""
    names = [schema_names(schema)[table] for table in tables]
    hidden = []
    for name in names:
        ((is_hidden,),) = yield Query(statement(_IS_HIDDEN, text=quote_text(name)))
        if is_hidden:
            hidden.append(name)
    for name in hidden:
        yield Query(statement(_SEE_ALL, table=name))
    answer = yield from steps
    for name in hidden:
        yield Query(statement(_SEE_ONE, table=name))
    return answer


def changing_events(schema: str, steps: Steps[T]) -> Steps[T]:
    """`steps`, which may change events."""
    names = schema_names(schema)
    yield Query(statement(_UNGUARD, **names))
    answer = yield from steps
    yield Query(statement(_GUARD, **names))
    return answer
