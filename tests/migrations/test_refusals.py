"""Migrations that are refused: unknown revisions, the wrong direction, a newer database."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from k1s0_event_store import ConfigurationError
from k1s0_event_store.postgres.schema import (
    BASE,
    VERSION_TABLE,
    current_revision,
    downgrade_database,
    head_revision,
    upgrade_database,
)

Catalog = Callable[..., set[tuple[str, ...]]]


@pytest.fixture
def migrated_engine(event_store_dsn: str, make_engine: Callable[[str], Engine]) -> Engine:
    """An engine on a database with our tables."""
    return make_engine(event_store_dsn)


@pytest.fixture
def newer_engine(migrated_engine: Engine) -> Engine:
    """An engine on a database that a later version of the library has migrated."""
    with migrated_engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE eventstore.{VERSION_TABLE} SET version_num = '9999'")
    return migrated_engine


@pytest.mark.parametrize("migrate", [upgrade_database, downgrade_database])
@pytest.mark.parametrize("unknown", ["9999", "1", "", "HEAD", "0001'; DROP SCHEMA eventstore; --"])
def test_an_unknown_revision_is_refused_with_those_that_are_known(
    event_store_dsn: str,
    migrated_engine: Engine,
    catalog: Catalog,
    migrate: Callable[..., None],
    unknown: str,
) -> None:
    before = catalog(event_store_dsn)
    with (
        pytest.raises(ConfigurationError, match=r"not known .* base, 0001"),
        migrated_engine.begin() as connection,
    ):
        migrate(connection, to=unknown)
    assert catalog(event_store_dsn) == before


def test_an_unknown_revision_leaves_an_empty_database_empty(
    empty_dsn: str, empty_engine: Engine, catalog: Catalog
) -> None:
    with empty_engine.begin() as connection, pytest.raises(ConfigurationError, match="not known"):
        upgrade_database(connection, to="9999")
    assert catalog(empty_dsn) == set()


def test_an_upgrade_below_the_current_revision_names_the_other_way(migrated_engine: Engine) -> None:
    with migrated_engine.begin() as connection:
        with pytest.raises(ConfigurationError, match=f"at revision {head_revision()} already.*use downgrade"):
            upgrade_database(connection, to=BASE)
        assert current_revision(connection) == head_revision()


def test_a_downgrade_above_the_current_revision_names_the_other_way(empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        with pytest.raises(
            ConfigurationError, match=f"at revision base, below {head_revision()}.*use upgrade"
        ):
            downgrade_database(connection, to=head_revision())
        assert current_revision(connection) == BASE


@pytest.mark.parametrize("to", ["head", "base", "0001"])
@pytest.mark.parametrize("migrate", [upgrade_database, downgrade_database])
def test_a_database_of_a_newer_version_is_refused(
    event_store_dsn: str, newer_engine: Engine, catalog: Catalog, migrate: Callable[..., None], to: str
) -> None:
    before = catalog(event_store_dsn)
    with (
        pytest.raises(ConfigurationError, match=r"'9999' is not known .* a newer version may have migrated"),
        newer_engine.begin() as connection,
    ):
        migrate(connection, to=to)
    assert catalog(event_store_dsn) == before
    with newer_engine.connect() as connection:
        assert current_revision(connection) == "9999"


def test_alembic_in_the_repository_refuses_a_database_of_a_newer_version(
    event_store_dsn: str, newer_engine: Engine, alembic_command: Callable[..., subprocess.Popen[str]]
) -> None:
    process = alembic_command(event_store_dsn, "upgrade", "head")
    output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Can't locate revision identified by '9999'" in output + errors
    with newer_engine.connect() as connection:
        assert current_revision(connection) == "9999"


def test_a_failing_migration_leaves_nothing_behind(
    empty_dsn: str, empty_engine: Engine, catalog: Catalog
) -> None:
    with empty_engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA eventstore")
        connection.exec_driver_sql("CREATE TABLE eventstore.snapshots (of_somebody_else int)")
    before = catalog(empty_dsn)
    with pytest.raises(Exception, match="snapshots"), empty_engine.begin() as connection:
        upgrade_database(connection)
    assert catalog(empty_dsn) == before
