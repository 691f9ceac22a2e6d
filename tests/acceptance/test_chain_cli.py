"""`k1s0-event-store chain` and `verify --chain` on real databases: files, what is printed, exit codes."""

import asyncio
import json
import stat

import pytest

from k1s0_event_store import EventEnvelope, EventStoreConfig, PostgresEventStore, StreamId

from ..chained import tamper

CART = StreamId("cart", "1")


@pytest.fixture
def append(event_store_dsn):
    """Append so many events."""

    async def run(count):
        async with PostgresEventStore(EventStoreConfig(dsn=event_store_dsn)) as store:
            await store.append(CART, [EventEnvelope(CART, "Placed", {}) for _ in range(count)])

    return lambda count: asyncio.run(run(count))


@pytest.fixture
def folder(tmp_path, invoke, event_store_dsn, append):
    """A folder with a pair of keys, and the signed heads of 3 and 2 chained events."""
    append(3)
    assert invoke("chain", "add", "--dsn", event_store_dsn).exit_code == 0
    keys = ("--out", tmp_path / "private.pem", "--public", tmp_path / "public.pem")
    assert invoke("chain", "key", *keys).exit_code == 0
    sign(invoke, event_store_dsn, tmp_path)
    append(2)
    sign(invoke, event_store_dsn, tmp_path)
    return tmp_path


def sign(invoke, dsn, folder, *more):
    signed = invoke(
        "chain", "sign", "--dsn", dsn, "--key", folder / "private.pem", folder / "heads.jsonl", *more
    )
    assert (signed.exit_code, signed.stderr) == (0, "")
    return signed


def verify(invoke, dsn, folder, *more):
    heads = ("--heads", folder / "heads.jsonl", "--public-key", folder / "public.pem")
    return invoke("verify", "--dsn", dsn, "--chain", *heads, *more)


def test_a_chain_is_added_once_looked_through_and_removed(invoke, event_store_dsn, append):
    append(3)
    on = ("--dsn", event_store_dsn)
    missing = invoke("verify", "--chain", *on)
    assert missing.exit_code == 1
    assert 'error: the events in schema "eventstore" are not chained: k1s0-event-store chain add' in (
        missing.stderr
    )
    assert "the events are chained, 3 that were there\n" in invoke("chain", "add", *on).stdout
    assert "the events are chained already\n" in invoke("chain", "add", *on).stdout
    append(2)
    verified = invoke("verify", "--chain", *on)
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert verified.stdout.startswith("no faults in 5 events, ")
    assert ", 5 links" in verified.stdout
    refused = invoke("db", "downgrade", "--to", "base", "--yes", *on)
    assert refused.exit_code == 1
    assert "k1s0-event-store chain remove" in refused.stderr
    assert invoke("chain", "remove", *on, input="n\n").exit_code == 1
    assert "not chained any more\n" in invoke("chain", "remove", *on, input="y\n").stdout
    assert "not chained: nothing to do\n" in invoke("chain", "remove", "--yes", *on).stdout


def test_a_changed_event_is_a_fault_of_its_stream(invoke, event_store_dsn, folder):
    tamper(event_store_dsn, "UPDATE events SET payload = '1' WHERE version = 4")
    verified = invoke("verify", "--chain", "--dsn", event_store_dsn)
    assert verified.exit_code == 1
    assert verified.stdout.splitlines()[:2] == [
        "cart 1, version 4: the chain is broken: this event, its link or the event before it was changed",
        "    somebody has written past the library: restore a backup, and compare this event with it",
    ]
    assert invoke("verify", "--dsn", event_store_dsn).exit_code == 0
    assert invoke("verify", "--chain", "--type", "order", "--dsn", event_store_dsn).exit_code == 0


def test_signed_heads_that_fit_have_exit_code_0(invoke, event_store_dsn, folder, append):
    append(1)
    verified = verify(invoke, event_store_dsn, folder)
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert ", 6 links, 2 signed heads\n" in verified.stdout
    assert ": it says nothing of events beyond position 5\n" in verified.stdout
    assert "signed 1 events, up to position 6" in sign(invoke, event_store_dsn, folder, "--wait", 60).stdout
    assert "signed 0 events, up to position 6" in sign(invoke, event_store_dsn, folder).stdout


def test_events_that_are_gone_are_a_fault_of_the_line_and_day_that_attest_them(
    invoke, event_store_dsn, folder
):
    tamper(event_store_dsn, "DELETE FROM events WHERE version = 5", "UPDATE streams SET version = 4")
    verified = verify(invoke, event_store_dsn, folder)
    assert verified.exit_code == 1
    day = json.loads((folder / "heads.jsonl").read_text().splitlines()[1])["signed_at"][:10]
    assert f"store: line 2, signed on {day}: 2 events from 3 to 5 were signed, but there are 1\n" in (
        verified.stdout
    )
    found = json.loads(verify(invoke, event_store_dsn, folder, "--json").stdout)
    assert [fault["problem"][:6] for fault in found["faults"]] == ["line 2"]
    assert found["looked_at"]["signed heads"] == 2


def test_a_damaged_line_is_a_fault_and_nothing_is_added_behind_it(invoke, event_store_dsn, folder):
    heads = folder / "heads.jsonl"
    heads.write_text(heads.read_text()[:-2])
    verified = verify(invoke, event_store_dsn, folder)
    assert verified.exit_code == 1
    assert "line 2: the line was cut" in verified.stdout
    signed = invoke("chain", "sign", "--dsn", event_store_dsn, "--key", folder / "private.pem", heads)
    assert signed.exit_code == 1
    assert signed.stderr.startswith("error: nothing was added to ")


def test_keys_are_written_once_and_the_private_one_is_for_its_owner_alone(invoke, tmp_path):
    out, public = tmp_path / "private.pem", tmp_path / "public.pem"
    assert invoke("chain", "key", "--out", out, "--public", public).exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    before = out.read_bytes(), public.read_bytes()
    for names in ((out, public), (out, tmp_path / "new"), (tmp_path / "other", public)):
        again = invoke("chain", "key", "--out", names[0], "--public", names[1])
        assert again.exit_code == 1
        assert "File exists" in again.stderr
    assert (out.read_bytes(), public.read_bytes()) == before
    assert not (tmp_path / "other").exists()


def test_what_is_no_key_or_no_file_is_an_error_in_one_line(invoke, event_store_dsn, folder):
    (folder / "public.pem").write_text("x")
    assert verify(invoke, event_store_dsn, folder).stderr == "error: this is no public key in PEM\n"
    for path in ("public.pem", "none.pem"):
        signed = invoke("chain", "sign", "--dsn", event_store_dsn, "--key", folder / path, folder / "heads")
        assert signed.exit_code == 1
        assert signed.stderr.startswith("error: ")
    assert not (folder / "heads").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--heads", "h"],
        ["--public-key", "k"],
        ["--chain", "--heads", "h"],
        ["--heads", "h", "--public-key", "k"],
    ],
)
def test_heads_need_a_key_and_the_chain(invoke, event_store_dsn, options):
    assert invoke("verify", "--dsn", event_store_dsn, *options).exit_code == 2


def test_a_transaction_that_does_not_end_is_an_error_that_says_so(invoke, event_store_dsn, folder, sql):
    sql("BEGIN")
    sql("SELECT pg_current_xact_id()")
    signed = invoke(
        "chain", "sign", "--dsn", event_store_dsn, "--key", folder / "private.pem", folder / "heads.jsonl",
        "--wait", 0.2,
    )  # fmt: skip
    sql("ROLLBACK")
    assert signed.exit_code == 1
    assert "is still open" in signed.stderr
    assert "nothing was signed" in signed.stderr
    assert verify(invoke, event_store_dsn, folder).exit_code == 0
