"""The command line on tables that keep tenants apart."""

import json

import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, StreamId, SyncPostgresEventStore

ORDER = StreamId("order", "o-1")


def test_tables_are_given_tenants_and_lose_them(invoke, event_store_dsn):
    with SyncPostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
        store.append(ORDER, [EventEnvelope(ORDER, "Placed", {})])
    to = ("--dsn", event_store_dsn)
    refused = invoke("tenants", "add", *to)
    assert (refused.exit_code, "--existing" in refused.stderr) == (1, True)
    for report in ("keep tenants apart now", "already"):
        done = invoke("tenants", "add", "--existing", "acme", *to)
        assert (done.exit_code, report in " ".join(done.stdout.split())) == (0, True)
    assert invoke("db", "validate", *to).exit_code == 1
    assert invoke("--tenant", "acme", "db", "validate", *to).exit_code == 0
    refused = invoke("db", "downgrade", "--to", "base", "--yes", *to)
    assert (refused.exit_code, "tenants remove" in refused.stderr) == (1, True)
    for report in ("no tenants any more", "they know no tenants"):
        done = invoke("tenants", "remove", *to)
        assert (done.exit_code, report in " ".join(done.stdout.split())) == (0, True)
    assert "order" in invoke("streams", *to).stdout


@pytest.fixture
def filled(tenants_dsn):
    """Both tenants have the same stream."""
    for tenant in ("acme", "beta"):
        with SyncPostgresEventStore(EventStoreConfig(dsn=tenants_dsn, tenant=tenant)) as store:
            store.append(ORDER, [EventEnvelope(ORDER, "Placed", {"of": tenant})])
    return tenants_dsn


READING = (
    ("streams",),
    ("show", "order", "o-1"),
    ("tail", "--from-start", "--once"),
    ("stats",),
    ("export", "-"),
    ("verify",),
    ("subscriptions",),
    ("parked",),
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_shows_the_rows_of_its_tenant(invoke, filled, command):
    done = invoke("--tenant", "acme", *command, env={"K1S0_EVENT_STORE_DSN": filled})
    assert done.exit_code == 0, done.output
    assert "beta" not in done.output
    by_variable = {"K1S0_EVENT_STORE_DSN": filled, "K1S0_EVENT_STORE_TENANT": "acme"}
    assert invoke(*command, env=by_variable).exit_code == 0
    forgotten = invoke(*command, env={"K1S0_EVENT_STORE_DSN": filled})
    assert forgotten.exit_code == 1, forgotten.output
    assert "--tenant" in forgotten.stderr


@pytest.mark.parametrize("command", [*READING, ("ui", "--listen", "localhost:0")], ids=" ".join)
def test_a_superuser_has_to_name_a_tenant_too(invoke, filled, tenants_owner_dsn, command):
    forgotten = invoke(*command, env={"K1S0_EVENT_STORE_DSN": tenants_owner_dsn})
    assert (forgotten.exit_code, "--tenant" in forgotten.stderr) == (1, True)


def test_a_command_writes_for_its_tenant(invoke, filled, tmp_path):
    env = {"K1S0_EVENT_STORE_DSN": filled}
    file = tmp_path / "events.jsonl"
    assert invoke("--tenant", "acme", "export", file, env=env).exit_code == 0
    assert invoke("--tenant", "gamma", "import", file, env=env).exit_code == 0
    (event,) = json.loads(invoke("--tenant", "gamma", "show", "order", "o-1", "--json", env=env).stdout)
    assert event["payload"] == {"of": "acme"}


def test_doctor_looks_for_one_tenant(invoke, filled):
    done = invoke("--tenant", "acme", "doctor", "--dsn", filled)
    assert "no tenant" not in done.output
    assert done.exit_code in (0, 1)
