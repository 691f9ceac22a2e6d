"""`db grant` and `db revoke`: rights by the command line; and what `append` reads has an end."""

import os

import psycopg
import pytest

from k1s0_event_store.cli import append
from k1s0_event_store.postgres.rights import script


@pytest.fixture
def role(event_store_dsn):
    """A role that the command makes."""
    name = f'k1s0 "granted" {os.getpid()}'
    yield name
    with psycopg.connect(event_store_dsn) as connection:
        quoted = psycopg.sql.Identifier(name)
        connection.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(quoted))
        connection.execute(psycopg.sql.SQL("DROP ROLE {}").format(quoted))


def may_read(dsn, role):
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT has_table_privilege(%s, 'eventstore.events', 'SELECT')", [role])
        return found.fetchone()[0]


def test_rights_are_given_and_taken(invoke, event_store_dsn, role):
    done = invoke("db", "grant", "reader", "keeper", "--to", role, "--create", "--dsn", event_store_dsn)
    assert done.exit_code == 0, done.output
    assert "is reader, keeper now" in " ".join(done.stdout.split())
    assert may_read(event_store_dsn, role)
    assert invoke("db", "revoke", "--from", role, "--dsn", event_store_dsn).exit_code == 0
    assert not may_read(event_store_dsn, role)


def test_the_statements_can_be_printed_without_a_database(invoke):
    printed = invoke("db", "grant", "writer", "--to", "app", "--sql", "--schema", "my own").stdout
    wanted = ["BEGIN", *script(["writer"], "app", "my own"), "COMMIT"]
    assert printed == "".join(f"{sql};\n" for sql in wanted)
    assert invoke("db", "grant", "writer", "--to", "public", "--sql").exit_code == 1
    assert invoke("db", "grant", "admin", "--to", "app", "--sql").exit_code == 2


def test_what_is_appended_is_read_to_an_end(invoke, event_store_dsn, monkeypatch, tmp_path):
    monkeypatch.setattr(append, "_LONGEST_INPUT", 100)
    file = tmp_path / "events.json"
    file.write_text('{"event_type": "Noted", "payload": "' + "x" * 100 + '"}')
    refused = invoke("append", "order", "o-1", file, "--dsn", event_store_dsn)
    assert refused.exit_code == 1
    assert "more than 100 bytes" in refused.stderr
