"""The declarative models and the revisions say the same, and every revision can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect

from k1s0_event_store.postgres.models import Xid8, metadata_for
from k1s0_event_store.postgres.schema import (
    BASE,
    VERSION_TABLE,
    current_revision,
    downgrade_database,
    head_revision,
    migrations_path,
    upgrade_database,
)

Facts = set[tuple[str, ...]]
SCRIPTS = ScriptDirectory(str(migrations_path()))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]
SCHEMA = "somewhere else"


def _differences(engine: Engine, schema: str) -> list[Any]:
    """What Alembic would change in the live tables to make them what the models say."""
    opts = {
        "include_schemas": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == schema,
        "compare_type": True,
        "compare_server_default": True,
        "version_table": VERSION_TABLE,
        "version_table_schema": schema,
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=opts), metadata_for(schema))


def _of_tables(facts: Facts) -> Facts:
    """The facts that models can state: no triggers, functions, storage settings, no version table."""
    return {
        fact[:3] if fact[0] == "relation" else fact
        for fact in facts
        if fact[0] not in {"trigger", "function"} and not fact[1].startswith(VERSION_TABLE)
    }


def test_there_is_one_history_with_one_head() -> None:
    assert SCRIPTS.get_heads() == [head_revision()]
    assert SCRIPTS.get_bases() == [REVISIONS[0]]
    assert len(REVISIONS) == len(list((migrations_path() / "versions").glob("*.py")))


@pytest.mark.parametrize("revision", REVISIONS)
def test_models_equal_migrations_from_every_released_revision(empty_engine: Engine, revision: str) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection, SCHEMA, to=revision)
        assert current_revision(connection, SCHEMA) == revision
        upgrade_database(connection, SCHEMA)
    assert _differences(empty_engine, SCHEMA) == []


def test_the_comparison_sees_a_difference(empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection, SCHEMA)
        connection.exec_driver_sql(f'ALTER TABLE "{SCHEMA}".events ALTER COLUMN tx TYPE text USING tx::text')
        connection.exec_driver_sql(f'DROP INDEX "{SCHEMA}".idx_events_position')
    kinds = {
        change[0][0] if isinstance(change, list) else change[0]
        for change in _differences(empty_engine, SCHEMA)
    }
    assert kinds >= {"modify_type", "add_index"}


def test_tables_made_from_the_models_equal_the_migrated_ones(
    empty_dsn: str, empty_engine: Engine, catalog: Callable[..., Facts]
) -> None:
    """Alembic's comparison knows nothing of checks, identities and the order of columns."""
    with empty_engine.begin() as connection:
        upgrade_database(connection, SCHEMA)
    migrated = _of_tables(catalog(empty_dsn, SCHEMA))
    with empty_engine.begin() as connection:
        downgrade_database(connection, SCHEMA)
        metadata_for(SCHEMA).create_all(connection)
    assert _of_tables(catalog(empty_dsn, SCHEMA)) == migrated


def test_transaction_ids_are_reflected_as_what_they_are(empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection)
        columns = inspect(connection).get_columns("events", schema="eventstore")
    types = {column["name"]: column["type"] for column in columns}
    assert isinstance(types["tx"], Xid8)


def test_every_revision_can_be_taken_back_and_applied_again(
    empty_dsn: str, empty_engine: Engine, catalog: Callable[..., Facts]
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection, to=BASE)
    before, previous = catalog(empty_dsn), BASE
    for revision in REVISIONS:
        with empty_engine.begin() as connection:
            upgrade_database(connection, to=revision)
        after = catalog(empty_dsn)
        with empty_engine.begin() as connection:
            downgrade_database(connection, to=previous)
        assert catalog(empty_dsn) == before
        with empty_engine.begin() as connection:
            upgrade_database(connection, to=revision)
        assert catalog(empty_dsn) == after
        before, previous = after, revision


def test_the_way_down_leaves_the_schema_and_an_empty_version_table(
    empty_dsn: str, empty_engine: Engine, catalog: Callable[..., Facts]
) -> None:
    with empty_engine.begin() as connection:
        upgrade_database(connection)
        downgrade_database(connection)
    left = {fact[1] for fact in catalog(empty_dsn) if fact[0] in {"relation", "function"}}
    assert left == {VERSION_TABLE, f"{VERSION_TABLE}_pkc"}
    with empty_engine.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM eventstore.{VERSION_TABLE}").scalar() == 0
