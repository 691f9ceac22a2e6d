"""`k1s0-event-store verify` and `doctor` on real databases: what they print, and their exit codes."""

import asyncio
import json

import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.cli import checks
from k1s0_event_store.postgres.schema import head_revision
from k1s0_event_store.postgres.verification import PostgresVerifier
from k1s0_event_store.testing.plugin import _execute

HIDDEN = "hunter2-not-to-be-seen"
UNREACHABLE = f"postgresql://u:{HIDDEN}@127.0.0.1:1/x"
WRONG_HEADS = "UPDATE eventstore.streams SET version = 9"


@pytest.fixture
def dsn(event_store_dsn):
    """DSN of a database with two streams of three events."""

    async def fill():
        async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
            for stream in (StreamId("cart", "1"), StreamId("order", "\x1b[2J[red]")):
                await store.append(stream, [EventEnvelope(stream, "Placed", {}) for _ in range(3)])

    asyncio.run(fill())
    return event_store_dsn


def test_a_healthy_store_is_verified_with_exit_code_0(invoke, dsn):
    verified = invoke("verify", "--dsn", dsn)
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert verified.stdout.startswith("no faults in 6 events, 2 streams, 6 event ids, 6 positions, ")


def test_every_fault_is_two_lines_that_steer_no_terminal_and_the_exit_code_1(invoke, dsn):
    _execute(dsn, WRONG_HEADS)
    verified = invoke("verify", "--dsn", dsn)
    assert verified.exit_code == 1
    assert verified.stdout.splitlines()[:4] == [
        "cart 1, version 3: the head says 9, the last event is version 3",
        "    restore a backup; if no event was lost, set the version in streams to 3",
        "order \\x1b[2J[red], version 3: the head says 9, the last event is version 3",
        "    restore a backup; if no event was lost, set the version in streams to 3",
    ]
    assert verified.stdout.splitlines()[4].startswith("2 faults in 6 events")


def test_one_type_is_verified_alone(invoke, dsn):
    _execute(dsn, WRONG_HEADS)
    verified = invoke("verify", "--dsn", dsn, "--type", "cart")
    assert verified.exit_code == 1
    assert verified.stdout.splitlines()[-1].startswith("1 fault in 3 events, 1 streams")
    assert invoke("verify", "--dsn", dsn, "--type", "other").exit_code == 0


def test_faults_as_json(invoke, dsn):
    _execute(dsn, WRONG_HEADS)
    found = json.loads(invoke("verify", "--dsn", dsn, "--json").stdout)
    assert found["complete"] is True
    assert found["looked_at"]["events"] == 6
    assert found["faults"][0] == {
        "problem": "the head says 9, the last event is version 3",
        "advice": "restore a backup; if no event was lost, set the version in streams to 3",
        "aggregate_type": "cart",
        "aggregate_id": "1",
        "version": 3,
        "subscription": None,
    }


def test_of_very_many_faults_the_first_are_told(invoke, dsn, monkeypatch):
    _execute(dsn, WRONG_HEADS)
    monkeypatch.setattr(checks, "_MOST_FAULTS", 1)
    verified = invoke("verify", "--dsn", dsn)
    assert verified.exit_code == 1
    assert verified.stdout.splitlines()[-1] == "the first 1 fault; there are more"
    assert json.loads(invoke("verify", "--dsn", dsn, "--json").stdout)["complete"] is False


def test_what_could_not_be_verified_is_told(invoke, dsn, monkeypatch):
    async def may_not(self):
        return False

    monkeypatch.setattr(PostgresVerifier, "may_read_sequence", may_not)
    verified = invoke("verify", "--dsn", dsn)
    assert verified.exit_code == 0
    assert "not looked at: the sequence of the positions" in verified.stdout


def test_a_fault_of_no_stream_is_of_the_subscription_or_of_the_store(invoke, dsn):
    _execute(dsn, "INSERT INTO eventstore.subscriptions (name, version, partition) VALUES ('totals', 1, 0)")
    _execute(dsn, "SELECT setval(pg_get_serial_sequence('eventstore.events', 'position'), 1)")
    lines = invoke("verify", "--dsn", dsn).stdout.splitlines()
    assert lines[0].startswith("totals: it has no version that is live")
    assert lines[2].startswith("store: the sequence of the positions is at 1")


def test_a_database_that_works_is_diagnosed_with_exit_code_0(invoke, dsn):
    diagnosed = invoke("doctor", "--dsn", dsn)
    assert (diagnosed.exit_code, diagnosed.stderr) == (0, "")
    assert f"ok       schema: revision {head_revision()}: the tables are as expected\n" in diagnosed.stdout


def test_warnings_alone_have_exit_code_0_and_say_what_to_do(invoke, dsn):
    _execute(dsn, "CREATE TABLE eventstore.other (n int)")  # not ours: no finding
    _execute(dsn, f"ALTER DATABASE {dsn.partition('?')[0].rpartition('/')[2]} SET synchronous_commit = off")
    diagnosed = invoke("doctor", "--dsn", dsn)
    assert diagnosed.exit_code == 0
    assert "warning  durability: synchronous_commit is off: " in diagnosed.stdout
    assert "         set synchronous_commit = on\n" in diagnosed.stdout


def test_a_problem_has_exit_code_1_and_says_what_to_do(invoke, dsn):
    _execute(dsn, "DROP TABLE eventstore.inbox")
    diagnosed = invoke("doctor", "--dsn", dsn)
    assert diagnosed.exit_code == 1
    assert f"problem  schema: revision {head_revision()}: table inbox is missing\n" in diagnosed.stdout
    assert "         k1s0-event-store db upgrade, or your own migrations\n" in diagnosed.stdout


def test_findings_as_json(invoke, dsn):
    findings = json.loads(invoke("doctor", "--dsn", dsn, "--json").stdout)
    assert findings[0].keys() == {"check", "severity", "text", "advice"}
    assert {finding["severity"] for finding in findings} <= {"ok", "warning"}


def test_a_server_that_is_away_is_a_finding_of_the_doctor_and_an_error_of_verify(invoke):
    diagnosed, verified = (invoke(command, "--dsn", UNREACHABLE) for command in ("doctor", "verify"))
    assert diagnosed.exit_code == verified.exit_code == 1
    assert diagnosed.stdout.startswith("problem  connection: PostgreSQL cannot be reached")
    assert verified.stderr.startswith("error: PostgreSQL cannot be reached")
    assert HIDDEN not in diagnosed.output + verified.output
