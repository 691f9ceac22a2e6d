"""The command line on a real database: effects, exit codes, and what is never printed."""

import re
import sys
import traceback
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

import pytest

from k1s0_event_store import (
    ClusterChangedError,
    EventStoreError,
    StoreUnavailableError,
    SyncPostgresEventStore,
)
from k1s0_event_store.cli import main
from k1s0_event_store.demo import run as demo_run
from k1s0_event_store.demo.flights import COLUMNS
from k1s0_event_store.sandbox import running_server
from k1s0_event_store.testing.plugin import _execute

ROW = "2013,1,1,517,2,830,11,UA,1545,N1,EWR,IAH,227,1400,15,2013-01-01T10:00:00Z"
HIDDEN = "hunter2-not-to-be-seen"
UNREACHABLE = f"postgresql://u:{HIDDEN}@127.0.0.1:1/x"


OF_STREAMS = [
    ("streams",),
    ("show", "order", "o-1"),
    ("tail", "--from-start", "--once"),
    ("append", "order", "o-1"),
    ("stats",),
    ("parked",),
]
"""Commands that look at streams, or write to one; what comes on stdin is an event."""
EVENT = '{"event_type": "OrderPlaced", "payload": {}}'


@pytest.fixture
def flights(tmp_path):
    path = tmp_path / "flights.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{ROW}\n")
    return path


def with_password(dsn):
    """`dsn` with a password in it: the test servers do not ask for one, or have their own."""
    split = urlsplit(dsn)
    if split.password:
        return dsn, split.password
    return urlunsplit(
        split._replace(netloc=f"{split.username}:{HIDDEN}@{split.netloc.rpartition('@')[2]}")
    ), HIDDEN


def revision(invoke, dsn):
    return invoke("db", "check", "--dsn", dsn).stdout.split("current revision: ")[1].split()[0]


def test_the_version_is_the_one_of_the_package(invoke):
    assert invoke("--version").stdout.strip() == f"k1s0-event-store {version('k1s0-event-store')}"


def test_check_passes_at_the_newest_revision_and_fails_below(invoke, event_store_dsn):
    assert invoke("db", "check", "--dsn", event_store_dsn).exit_code == 0
    invoke("db", "downgrade", "--to", "base", "--yes", "--dsn", event_store_dsn)
    behind = invoke("db", "check", "--dsn", event_store_dsn)
    assert behind.exit_code == 1
    assert "current revision: base" in behind.stdout
    assert "db upgrade" in behind.stderr


def test_upgrade_makes_the_tables_and_a_second_one_changes_nothing(invoke, event_store_dsn):
    first = invoke("db", "upgrade", "--dsn", event_store_dsn, "--schema", "other")
    second = invoke("db", "upgrade", "--dsn", event_store_dsn, "--schema", "other")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "revision base -> " in first.stdout
    assert "already" in second.stdout
    assert invoke("db", "validate", "--dsn", event_store_dsn, "--schema", "other").exit_code == 0


def test_upgrade_stops_at_the_revision_it_is_given(invoke, event_store_dsn):
    invoke("db", "upgrade", "--to", "0001", "--dsn", event_store_dsn, "--schema", "other")
    checked = invoke("db", "check", "--dsn", event_store_dsn, "--schema", "other")
    assert "current revision: 0001" in checked.stdout


def test_an_unknown_revision_is_an_error(invoke, event_store_dsn):
    refused = invoke("db", "upgrade", "--to", "9999", "--dsn", event_store_dsn)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: revision '9999' is not known")


def test_settings_come_from_the_environment(invoke, event_store_dsn):
    environment = {"K1S0_EVENT_STORE_DSN": event_store_dsn, "K1S0_EVENT_STORE_SCHEMA": "from_env"}
    assert invoke("db", "upgrade", env=environment).exit_code == 0
    assert invoke("db", "check", "--dsn", event_store_dsn, "--schema", "from_env").exit_code == 0


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_downgrade_says_what_is_lost_and_destroys_nothing_without_a_yes(
    invoke, flights, event_store_dsn, answer
):
    invoke("demo", "--file", flights, "--dsn", event_store_dsn)
    asked = invoke("db", "downgrade", "--to", "base", "--dsn", event_store_dsn, input=answer)
    assert asked.exit_code == 1
    assert "4 events" in asked.stdout
    assert "2 streams" in asked.stdout
    assert revision(invoke, event_store_dsn) != "base"


def test_downgrade_destroys_the_tables_after_a_yes(invoke, event_store_dsn):
    asked = invoke("db", "downgrade", "--to", "base", "--dsn", event_store_dsn, input="y\n")
    assert asked.exit_code == 0
    assert "-> base" in asked.stdout
    assert revision(invoke, event_store_dsn) == "base"


@pytest.mark.parametrize("target", ["head", "base"])
def test_downgrade_to_where_the_tables_are_asks_nothing(invoke, event_store_dsn, target):
    if target == "base":
        invoke("db", "downgrade", "--to", "base", "--yes", "--dsn", event_store_dsn)
    again = invoke("db", "downgrade", "--to", target, "--dsn", event_store_dsn)
    assert again.exit_code == 0
    assert "already" in again.stdout


def test_downgrade_to_an_unknown_revision_destroys_nothing(invoke, event_store_dsn):
    refused = invoke("db", "downgrade", "--to", "9999", "--yes", "--dsn", event_store_dsn)
    assert refused.exit_code == 1
    assert revision(invoke, event_store_dsn) != "base"


def test_validate_prints_every_problem(invoke, event_store_dsn):
    assert invoke("db", "validate", "--dsn", event_store_dsn).exit_code == 0
    _execute(event_store_dsn, "DROP TABLE eventstore.snapshots")
    _execute(event_store_dsn, "DROP INDEX eventstore.idx_events_position")
    broken = invoke("db", "validate", "--dsn", event_store_dsn)
    assert broken.exit_code == 1
    assert "problem: table snapshots is missing" in broken.stderr
    assert "problem: index idx_events_position is missing" in broken.stderr


def test_rebase_does_nothing_where_the_events_were_written(invoke, flights, event_store_dsn):
    invoke("demo", "--file", flights, "--dsn", event_store_dsn)
    again = invoke("db", "rebase", "--dsn", event_store_dsn)
    assert again.exit_code == 0
    assert ": nothing to do: " in again.stdout


def test_rebase_makes_a_restored_feed_readable_again(invoke, flights, event_store_config):
    dsn = event_store_config.dsn
    invoke("demo", "--file", flights, "--dsn", dsn)
    _execute(dsn, "UPDATE eventstore.cluster SET system_identifier = 1")
    _execute(dsn, "UPDATE eventstore.subscriptions SET cursor = '1 3:3:'")
    with SyncPostgresEventStore(event_store_config) as store:
        with pytest.raises(ClusterChangedError, match="db rebase"):
            store.read_page()
        assert "rebased 4 events, 1 cursors" in invoke("db", "rebase", "--dsn", dsn).stdout
        assert len(store.read_page().events) == 4
    assert "nothing to do" in invoke("db", "rebase", "--dsn", dsn).stdout


def test_rebase_without_tables_says_to_upgrade(invoke, event_store_dsn):
    refused = invoke("db", "rebase", "--dsn", event_store_dsn, "--schema", "other")
    assert refused.exit_code == 1
    assert "db upgrade" in refused.stderr


@pytest.mark.parametrize(
    "command",
    [("db", "check"), ("db", "upgrade"), ("db", "rebase"), ("db", "validate"), ("demo",), *OF_STREAMS],
)
def test_an_unreachable_server_is_one_line_without_the_password(invoke, flights, command):
    more = ("--file", flights) if command == ("demo",) else ()
    failed = invoke(*command, *more, "--dsn", UNREACHABLE, input=EVENT)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert HIDDEN not in failed.output


@pytest.mark.parametrize(
    "dsn",
    [f"mysql://u:{HIDDEN}@h/x", f"postgresql://u:{HIDDEN}/more@h/x", f"postgresql://u:{HIDDEN}#@h/x", HIDDEN],
)
def test_a_dsn_that_is_no_url_is_not_shown(invoke, dsn):
    failed = invoke("db", "check", "--dsn", dsn)
    assert failed.exit_code == 1
    assert HIDDEN not in failed.output


def test_the_password_is_masked_wherever_the_dsn_is_shown(invoke, flights, event_store_dsn):
    dsn, password = with_password(event_store_dsn)
    outputs = [
        invoke(*command, "--dsn", dsn).output
        for command in (
            ("demo", "--file", flights),
            ("db", "check"),
            ("db", "validate"),
            ("db", "upgrade"),
            ("db", "rebase"),
            ("db", "downgrade", "--to", "base", "--yes"),
        )
    ]
    assert all(":***@" in output and password not in output for output in outputs)


@pytest.mark.parametrize("command", OF_STREAMS)
@pytest.mark.parametrize("way", ["nobody", "no database", "no tables", "no url"])
def test_no_error_shows_the_password(invoke, event_store_dsn, command, way):
    dsn, password = with_password(event_store_dsn)
    if way == "nobody":
        dsn = dsn.replace("://", "://nobody-", 1)
    elif way == "no database":
        dsn = urlunsplit(urlsplit(dsn)._replace(path="/nowhere"))
    elif way == "no url":
        dsn = dsn.replace("://", "//", 1)
    schema = "other" if way == "no tables" else "eventstore"
    for arguments in (command, ("--debug", *command)):
        failed = invoke(*arguments, "--dsn", dsn, "--schema", schema, input=EVENT)
        assert failed.exit_code == 1
        said = "".join(traceback.format_exception(failed.exception)) + failed.output
        assert password not in said
    assert isinstance(failed.exception, EventStoreError)


def test_a_wrong_password_is_one_line_and_not_shown(invoke, own_folder):
    with running_server(own_folder) as dsn:
        _execute(dsn, "CREATE ROLE keeper LOGIN PASSWORD 'the right one'")
        rules = own_folder / "pg_hba.conf"
        rules.write_text(f"local all keeper scram-sha-256\n{rules.read_text()}")
        _execute(dsn, "SELECT pg_reload_conf()")
        wrong = dsn.replace("postgres@", f"keeper:{HIDDEN}@")
        for command in (("db", "check"), *OF_STREAMS):
            failed = invoke(*command, "--dsn", wrong, input=EVENT)
            assert failed.exit_code == 1
            assert failed.stderr.startswith("error: PostgreSQL refused the connection: ")
            assert failed.stderr.count("\n") == 1
            assert HIDDEN not in failed.output


@pytest.mark.parametrize("command", OF_STREAMS)
def test_the_dsn_of_the_environment_is_used_and_not_shown(invoke, event_store_dsn, command):
    dsn, password = with_password(event_store_dsn)
    invoke("append", "order", "o-1", "--dsn", dsn, input=EVENT)
    done = invoke(*command, input=EVENT, env={"K1S0_EVENT_STORE_DSN": dsn})
    assert done.exit_code == 0, done.output
    assert password not in done.output
    helped = invoke(*command, "--help", env={"K1S0_EVENT_STORE_DSN": dsn})
    assert password not in helped.output


def test_debug_shows_the_traceback_without_the_password(invoke):
    failed = invoke("--debug", "db", "check", "--dsn", UNREACHABLE)
    assert isinstance(failed.exception, StoreUnavailableError)
    assert HIDDEN not in "".join(traceback.format_exception(failed.exception)) + failed.output


def test_the_entry_point_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["k1s0-event-store", "--version"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert version("k1s0-event-store") in capsys.readouterr().out


@pytest.mark.parametrize("code", ["0 done", "1 failed", "2 wrong usage", "3 conflict", "130 interrupted"])
def test_the_help_names_every_exit_code(invoke, code):
    assert code in " ".join(invoke("--help").stdout.split())


def test_ctrl_c_has_exit_code_130_and_no_traceback(invoke, event_store_dsn, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("k1s0_event_store.cli.append.read_new_events", interrupted)
    stopped = invoke("append", "order", "o-1", "--dsn", event_store_dsn, input=EVENT)
    assert (stopped.exit_code, stopped.output) == (130, "")


@pytest.fixture
def complete(invoke):
    """What the command prints when a shell asks it to complete."""

    def one(instruction, **environment):
        environment["_K1S0_EVENT_STORE_COMPLETE"] = instruction
        return invoke(prog_name="k1s0-event-store", env=environment).stdout

    return one


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(complete, shell):
    script = complete(f"source_{shell}")
    assert "_K1S0_EVENT_STORE_COMPLETE" in script
    assert "k1s0-event-store" in script


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("str", ["streams"]),
        ("subscriptions re", ["reset", "rebuild", "remove", "retry", "resume"]),
        ("streams --min", ["--min-events"]),
        ("tail --from", ["--from-start"]),
    ],
)
def test_commands_and_options_are_completed(complete, words, completed):
    line = f"k1s0-event-store {words}"
    answer = complete("complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))
    assert sorted(answer.split()) == sorted(completed)


@pytest.mark.parametrize("arguments", [("db", "check"), ("db", "downgrade"), ("fly",), ("demo", "--fast")])
def test_wrong_usage_has_exit_code_2(invoke, arguments):
    assert invoke(*arguments).exit_code == 2


def test_a_bad_row_ends_the_demo_before_the_database_is_touched(invoke, flights):
    flights.write_text(flights.read_text() + ROW.replace("517,2", "517,soon") + "\n")
    failed = invoke("demo", "--file", flights, "--dsn", UNREACHABLE)
    assert failed.exit_code == 1
    assert failed.stderr == f"error: {flights}:3: dep_delay must be a whole number, not 'soon'\n"


def test_bad_rows_are_reported_and_skipped_on_demand(invoke, flights, event_store_dsn):
    flights.write_text(flights.read_text() + ROW.replace("517,2", "517,soon") + "\n")
    done = invoke("demo", "--file", flights, "--dsn", event_store_dsn, "--skip-bad-rows")
    assert done.exit_code == 0
    assert f"skipped {flights}:3: dep_delay must be" in done.stdout
    assert "3 events appended" in done.stdout


def test_the_demo_leaves_the_database_of_the_environment_alone(invoke, flights, tmp_path, event_store_dsn):
    environment = {"K1S0_EVENT_STORE_DSN": event_store_dsn}
    done = invoke("demo", "--file", flights, "--folder", tmp_path / "sandbox", env=environment)
    assert done.exit_code == 0, done.output
    assert _execute(event_store_dsn, "SELECT count(*) FROM eventstore.events") == 0


def test_the_demo_runs_on_an_embedded_server_whose_folder_stays(invoke, flights, own_folder):
    folder = own_folder / "sandbox"
    first, second = (invoke("demo", "--folder", folder, "--file", flights) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    (appended,) = re.findall(r"([\d,]+) events appended to", first.stdout)
    assert f"nothing new: all {appended} events were there already" in second.stdout
    assert first.stdout.count("ConcurrencyError") == second.stdout.count("ConcurrencyError") == 1
    assert (folder / "data").is_dir()


def test_ctrl_c_says_how_to_go_on(invoke, flights, event_store_dsn, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_run, "take_in", interrupted)
    stopped = invoke("demo", "--file", flights, "--dsn", event_store_dsn)
    assert stopped.exit_code == 130
    assert "goes on where it stopped" in stopped.stderr


def test_the_demo_can_be_read_back_by_the_blocking_store(invoke, flights, event_store_config):
    invoke("demo", "--file", flights, "--dsn", event_store_config.dsn)
    with SyncPostgresEventStore(event_store_config) as store:
        assert len(list(store.read_all())) == 4
