"""Seeing past row-level security, which holds for the owner too where tenants are kept apart."""

from __future__ import annotations

from typing import Final

from k1s0_event_store.postgres.connection import Steps, T
from k1s0_event_store.postgres.statements import Query, quote_text, schema_names, statement

_IS_HIDDEN: Final = "SELECT row_security_active({text})"
_SEE_ALL: Final = "ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"
_SEE_ONE: Final = "ALTER TABLE {table} FORCE ROW LEVEL SECURITY"


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
