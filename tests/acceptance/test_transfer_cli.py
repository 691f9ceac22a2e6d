"""`k1s0-event-store export` and `import` on real databases: files, pipes, interruptions, refusals."""

import asyncio
import json

import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId
from k1s0_event_store.testing.plugin import cloned_database
from k1s0_event_store.transfer import exporting, importing
from k1s0_event_store.transfer.files import PartWriter

ONE, TWO, CART = StreamId("order", "1"), StreamId("order", "2"), StreamId("cart", "1")
HIDDEN = "hunter2-not-to-be-seen"


def contents(dsn):
    """The events of a database, but for what is new in each."""

    async def read():
        async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
            events = [event async for event in store.read_all()]
        return sorted(
            (str(e.stream_id), e.version, e.event_id, e.event_type, e.payload["n"], e.occurred_at)
            for e in events
        )

    return asyncio.run(read())


@pytest.fixture
def source(event_store_dsn):
    """DSN of a database with 30 events in 3 streams."""

    async def fill():
        async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
            for number in range(10):
                for stream in (ONE, TWO, CART):
                    await store.append(stream, [EventEnvelope(stream, "Placed", {"n": number})])

    asyncio.run(fill())
    return event_store_dsn


@pytest.fixture
def target(event_store_server, event_store_template):
    """DSN of an empty database."""
    with cloned_database(event_store_server, event_store_template) as dsn:
        yield dsn


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_database_goes_through_a_file_into_another_one(invoke, source, target, tmp_path, suffix):
    path = tmp_path / f"events.jsonl{suffix}"
    exported = invoke("export", path, "--dsn", source)
    assert (exported.exit_code, exported.stderr) == (0, "")
    assert exported.stdout.startswith(f"exported 30 events to {path} in ")
    assert exported.stdout.endswith(" events per second\n")
    for new in (30, 0):
        imported = invoke("import", path, "--dsn", target)
        assert (imported.exit_code, imported.stderr) == (0, "")
        assert imported.stdout.startswith(f"{path}: 30 events, {new} of them new in ")
    assert contents(target) == contents(source)


def test_a_pipe_holds_nothing_but_events(invoke, source, target):
    exported = invoke("export", "-", "--dsn", source)
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert len(lines) == 32
    assert exported.stderr.startswith("exported 30 events to - in ")
    imported = invoke("import", "-", "--dsn", target, input=exported.stdout)
    assert imported.stdout.startswith("-: 30 events, 30 of them new")
    assert contents(target) == contents(source)


def test_json_tells_what_was_done(invoke, source, target, tmp_path):
    path = tmp_path / "events.jsonl"
    exported = json.loads(invoke("export", path, "--dsn", source, "--json").stdout)
    assert exported.pop("seconds") > 0
    assert exported == {"events": 30, "size": path.stat().st_size, "position": 30}
    imported = json.loads(invoke("import", path, "--dsn", target, "--json").stdout)
    assert imported.pop("seconds") > 0
    assert imported == {"events": 30, "appended": 30, "size": path.stat().st_size}


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        (("--type", "order"), {"order-1", "order-2"}),
        (("--type", "order", "--type", "cart"), {"order-1", "order-2", "cart-1"}),
        (("--stream", "order", "2"), {"order-2"}),
    ],
    ids=["type", "types", "stream"],
)
def test_a_part_of_the_events_is_chosen_by_options(invoke, source, target, tmp_path, options, streams):
    path = tmp_path / "events.jsonl"
    assert invoke("export", path, "--dsn", source, *options).exit_code == 0
    assert invoke("import", path, "--dsn", target).exit_code == 0
    assert {event[0] for event in contents(target)} == streams


def test_ctrl_c_says_how_to_go_on_and_resume_does(invoke, source, target, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_MOST_EVENTS", 7)
    whole, path = tmp_path / "whole", tmp_path / "events"
    invoke("export", whole, "--dsn", source)

    def interrupted(self, checkpoint):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "save", interrupted)
        stopped = invoke("export", path, "--dsn", source)
    assert stopped.exit_code == 130
    assert stopped.stderr == "stopped; the same command with --resume goes on where it stopped\n"
    assert not path.exists()
    assert invoke("export", path, "--dsn", source, "--resume").exit_code == 0
    assert path.read_bytes() == whole.read_bytes()


def test_ctrl_c_in_an_import_says_how_to_go_on_and_repeating_does(
    invoke, source, target, tmp_path, monkeypatch
):
    monkeypatch.setattr(importing, "_MOST_EVENTS", 7)
    path = tmp_path / "events"
    invoke("export", path, "--dsn", source)
    append = importing.Imported

    def interrupted(events, *others):
        if events == 14:
            raise KeyboardInterrupt
        return append(events, *others)

    with monkeypatch.context() as patched:
        patched.setattr(importing, "Imported", interrupted)
        stopped = invoke("import", path, "--dsn", target)
    assert stopped.exit_code == 130
    assert stopped.stderr == "stopped; repeat it to go on\n"
    assert len(contents(target)) == 14
    assert "30 events, 16 of them new" in invoke("import", path, "--dsn", target).stdout
    assert contents(target) == contents(source)


def test_a_file_that_is_there_is_not_overwritten(invoke, source, tmp_path):
    path = tmp_path / "events"
    path.write_text("mine")
    refused = invoke("export", path, "--dsn", source)
    assert refused.exit_code == 1
    assert refused.stderr == f"error: {path} is there already: remove it, or choose another name\n"
    assert path.read_text() == "mine"


def test_a_bad_line_is_one_line_with_its_number(invoke, source, target, tmp_path):
    path = tmp_path / "events"
    invoke("export", path, "--dsn", source)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], "{\n", *lines[5:]]))
    refused = invoke("import", path, "--dsn", target)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: line 5: this is no JSON: ")
    assert refused.stderr.count("\n") == 1
    assert len(contents(target)) == 3


def test_a_file_that_is_not_there_and_a_server_that_is_away_are_one_line(invoke, target, tmp_path):
    missing = invoke("import", tmp_path / "nothing", "--dsn", target)
    away = invoke("export", tmp_path / "events", "--dsn", f"postgresql://u:{HIDDEN}@127.0.0.1:1/x")
    for failed in (missing, away):
        assert failed.exit_code == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1
        assert HIDDEN not in failed.output
    assert list(tmp_path.iterdir()) == []


def test_types_and_a_stream_at_the_same_time_are_refused(invoke, source, tmp_path):
    options = ("--type", "order", "--stream", "order", "1")
    refused = invoke("export", tmp_path / "events", "--dsn", source, *options)
    assert refused.exit_code == 1
    assert "not both" in refused.stderr


def test_a_terminal_shows_how_far_it_is_and_how_fast(invoke, source, target, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for module in (exporting, importing):
        monkeypatch.setattr(module, "_MOST_EVENTS", 7)
    path = tmp_path / "{events}"
    exported = invoke("export", path, "--dsn", source)
    imported = invoke("import", path, "--dsn", target)
    for shown, said in ((exported, "exported 30"), (imported, "looked at 30")):
        assert said in shown.stderr
        assert "events/s" in shown.stderr
        assert "100%" in shown.stderr
