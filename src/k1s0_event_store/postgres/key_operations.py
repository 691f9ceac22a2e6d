"""What the key store does on PostgreSQL, once and without I/O, and its SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from k1s0_event_store.keys import (
    DataKey,
    WrappingKeys,
    check_key_ids,
    check_subject,
    check_subjects,
    new_data_key,
)
from k1s0_event_store.postgres.connection import Steps
from k1s0_event_store.postgres.statements import Query, schema_names, statement

_ROTATED_AT_ONCE: Final = 500
_FIRST: Final = UUID(int=0)

_OF_SUBJECTS: Final = """
SELECT key_id, subject, wrapping_key, secret FROM {personal_keys} WHERE subject = ANY ($1::text[])"""

_BY_ID: Final = """
SELECT key_id, subject, wrapping_key, secret FROM {personal_keys} WHERE key_id = ANY ($1::uuid[])"""

# One key per subject, whoever is first; others wait for its transaction to end. All make them in the
# same order, so that no two writers wait for each other.
_MAKE: Final = """
INSERT INTO {personal_keys} (key_id, subject, wrapping_key, secret)
SELECT key_id, subject, $4::text, secret
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS new (key_id, subject, secret) ORDER BY subject
ON CONFLICT ON CONSTRAINT uq_personal_keys_subject DO NOTHING
RETURNING subject"""

_FORGET: Final = "DELETE FROM {personal_keys} WHERE subject = $1::text RETURNING 1"

_OUTDATED: Final = """
SELECT key_id, subject, wrapping_key, secret FROM {personal_keys}
WHERE key_id > $1::uuid AND wrapping_key <> $2::text ORDER BY key_id LIMIT $3::bigint"""

# A key that was forgotten or wrapped by somebody else in the meantime is left alone. The rows are
# locked in one order, so that no two rotations wait for each other.
_REWRAP: Final = """
WITH locked AS (
    SELECT key_id FROM {personal_keys} WHERE key_id = ANY ($1::uuid[]) ORDER BY key_id FOR UPDATE
)
UPDATE {personal_keys} AS k SET wrapping_key = $4::text, secret = new.secret
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS new (key_id, wrapping_key, secret)
WHERE k.key_id = new.key_id AND k.wrapping_key = new.wrapping_key
  AND k.key_id IN (SELECT key_id FROM locked)
RETURNING 1"""


class KeyStatements:
    """All statements of keys for one schema."""

    def __init__(self, schema: str) -> None:
        names = schema_names(schema)
        self.of_subjects = statement(_OF_SUBJECTS, **names)
        self.by_id = statement(_BY_ID, **names)
        self.make = statement(_MAKE, **names)
        self.forget = statement(_FORGET, **names)
        self.outdated = statement(_OUTDATED, **names)
        self.rewrap = statement(_REWRAP, **names)


@lru_cache(maxsize=64)
def key_statements_for(schema: str) -> KeyStatements:
    """The statements of `schema`, made once."""
    return KeyStatements(schema)


def for_subjects(
    sql: KeyStatements, wrapping: WrappingKeys, subjects: object
) -> Steps[Mapping[str, DataKey]]:
    """The keys that are there; those that are missing are made, and asked for if others were faster."""
    missing = check_subjects(subjects)
    keys: dict[str, DataKey] = {}
    while missing:
        for row in (yield Query(sql.of_subjects, (missing,))):
            keys[row[1]] = _key(wrapping, row)
        new = {subject: new_data_key() for subject in missing if subject not in keys}
        if new:
            made = yield Query(sql.make, _new_rows(wrapping, new))
            keys |= {subject: new[subject] for (subject,) in made}
        missing = [subject for subject in new if subject not in keys]
    return keys


def _new_rows(wrapping: WrappingKeys, new: Mapping[str, DataKey]) -> tuple[Any, ...]:
    return (
        [UUID(key.key_id) for key in new.values()],
        list(new),
        [wrapping.wrap(subject, key) for subject, key in new.items()],
        wrapping.current,
    )


def find(sql: KeyStatements, wrapping: WrappingKeys, key_ids: object) -> Steps[Mapping[str, DataKey]]:
    """The keys that are there."""
    wanted = [found for key_id in check_key_ids(key_ids) if (found := _uuid(key_id)) is not None]
    rows = (yield Query(sql.by_id, (wanted,))) if wanted else ()
    return {str(row[0]): _key(wrapping, row) for row in rows}


def forget(sql: KeyStatements, subject: object) -> Steps[bool]:
    """Delete the key."""
    return bool((yield Query(sql.forget, (check_subject(subject),))))


def rotate(sql: KeyStatements, wrapping: WrappingKeys) -> Steps[int]:
    """Wrap everything under the current wrapping key, batch by batch."""
    rotated, last = 0, _FIRST
    while rows := (yield Query(sql.outdated, (last, wrapping.current, _ROTATED_AT_ONCE))):
        wrapped = [wrapping.wrap(row[1], _key(wrapping, row)) for row in rows]
        ids, names = [row[0] for row in rows], [row[2] for row in rows]
        rotated += len((yield Query(sql.rewrap, (ids, names, wrapped, wrapping.current))))
        last = ids[-1]
    return rotated


def _key(wrapping: WrappingKeys, row: Sequence[Any]) -> DataKey:
    key_id, subject, name, wrapped = row
    return wrapping.unwrap(name, subject, str(key_id), wrapped)


def _uuid(key_id: object) -> UUID | None:
    """The id as it is stored; None for what cannot be one of ours."""
    try:
        found = UUID(str(key_id))
    except ValueError:
        return None
    return found if str(found) == key_id else None
