"""`k1s0-event-store subscriptions` on a real database: what is shown, and what every command changes."""

import asyncio
import io
import json
from dataclasses import fields

import pytest
from rich.console import Console

from k1s0_event_store import (
    EventEnvelope,
    FailurePolicy,
    ParkedEvent,
    PartitionState,
    PartitionStatus,
    PostgresEventStore,
    PostgresSubscriptionStore,
    Projection,
    StreamId,
    SubscriptionRunner,
    SubscriptionStatus,
)
from k1s0_event_store.cli.subscriptions_view import show_statuses
from k1s0_event_store.testing.plugin import _execute

ONE, TWO = StreamId("order", "1"), StreamId("order", "2")
HIDDEN = "hunter2-not-to-be-seen"
OF_A_NAME = [("pause",), ("resume",), ("reset", "--yes"), ("rebuild", "--yes"), ("retry",), ("drop", "--yes")]


@pytest.fixture
def run(invoke, event_store_dsn):
    """A command of the group, on the test's database."""
    return lambda *arguments, **more: invoke("subscriptions", *arguments, "--dsn", event_store_dsn, **more)


@pytest.fixture
def on_store(event_store_config):
    """Do `await work(event_store, subscription_store)` in an event loop of its own."""

    async def with_stores(work):
        async with PostgresEventStore(event_store_config) as store:
            return await work(store, PostgresSubscriptionStore(event_store_config, bind=store.bind))

    return lambda work: asyncio.run(with_stores(work))


@pytest.fixture
def status(on_store):
    """The status of one version, as the store gives it."""

    def one(name, version=1):
        statuses = on_store(lambda _, storage: storage.statuses(name))
        return next(status for status in statuses if status.version == version)

    return one


@pytest.fixture
def parked(on_store):
    return lambda: [(e.stream_id, e.event_version) for e in on_store(lambda _, storage: storage.parked(None))]


async def append(store, stream_id, count):
    await store.append(stream_id, [EventEnvelope(stream_id, "OrderPlaced", {}) for _ in range(count)])


async def fine(event, session):
    pass


async def poisoned(event, session):
    if event.version == 2:
        raise ValueError("no customer")


def catch_up(*projections):
    """One after the other: the version of a name that begins first is the live one."""

    async def work(store, storage):
        for projection in projections:
            await SubscriptionRunner(store, storage, [projection]).run_until_caught_up()

    return work


def of_two_streams(*projections):
    """Three events in each of two streams, handled."""

    async def work(store, storage):
        await append(store, ONE, 3)
        await append(store, TWO, 3)
        await catch_up(*projections)(store, storage)

    return work


ORDERS = Projection("orders", fine)
ORDERS_2 = Projection("orders", fine, version=2)
FAILING = Projection("orders", poisoned, failure=FailurePolicy(attempts=1))


def test_without_subscriptions_it_says_how_one_comes_to_be(run):
    empty = run()
    assert empty.exit_code == 0
    assert "no subscriptions yet" in empty.stdout
    assert "SubscriptionRunner" in empty.stdout
    assert json.loads(run("--json").stdout) == []


def test_the_table_has_a_line_for_each_partition_and_fits_80_columns(run, on_store):
    async def work(store, storage):
        halves = Projection("halves", fine, partitions=2)
        await of_two_streams(ORDERS, halves, Projection("resting", fine))(store, storage)
        await storage.beat("halves", 1, "web-2", 60)
        await storage.pause("resting")
        await append(store, ONE, 1234)
        await storage.register("orders", 2, 1)
        await catch_up(ORDERS)(store, storage)
        await storage.beat("orders", 1, "web-1", 60)

    on_store(work)
    lines = run().stdout.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines]
    assert rows[0] == "subscription version part state behind for handled parked worker"
    assert rows[2].startswith("halves 1 live 0 running 1,234 ")
    assert rows[3].startswith("1 running 1,234 ")
    assert rows[4] == "orders 1 live 0 caught up 1,240 2"
    assert rows[5].startswith("orders 2 0 no worker 1,240 ")
    assert rows[6].startswith("resting 1 live 0 paused 1,234 ")
    assert {"worker 1 is web-2", "worker 2 is web-1"} <= set(rows)


def test_a_long_name_is_shown_whole(run, on_store):
    name = "subscription-" * 10
    on_store(lambda _, storage: storage.register(name, 1, 1))
    table = run().stdout.splitlines()
    assert max(map(len, table)) <= 80
    assert "".join(line[:20].split(" ")[0] for line in table[2:-1]) == name


def test_an_error_stands_whole_below_the_table_and_cannot_steer_the_terminal(run, on_store):
    async def work(_, storage):
        await storage.register("orders", 1, 1)
        (lease,) = await storage.beat("orders", 1, "web-1", 60)
        await storage.fail(lease, f"ValueError: \x1b[31m[red] {'words ' * 100}end", stop=True)

    on_store(work)
    shown = run().stdout
    assert "stopped" in shown
    assert "orders version 1, partition 0, 2" in shown
    assert f"ValueError: \\x1b[31m[red] {'words ' * 100}end" in " ".join(shown.split())
    assert "subscriptions resume NAME" in shown


def test_more_events_than_are_counted_are_shown_as_such():
    partition = PartitionStatus(0, PartitionState.RUNNING, "web-1", None, 0, 100_000, 0.5, False, None, None)
    shown = io.StringIO()
    show_statuses(Console(file=shown), [SubscriptionStatus("orders", 1, True, (partition,), 0)])
    assert "running 100,000+ <1 s 0 1" in " ".join(shown.getvalue().split())


def test_a_version_that_handles_again_what_was_handled_is_replaying(run, on_store):
    async def work(store, storage):
        await of_two_streams(ORDERS)(store, storage)
        await storage.reset("orders")
        await storage.beat("orders", 1, "web-1", 60)

    on_store(work)
    assert "replaying" in run().stdout


def test_json_has_every_field_of_the_status(run, on_store):
    on_store(of_two_streams(FAILING))
    (shown,) = json.loads(run("--json").stdout)
    (partition,) = shown["partitions"]
    assert set(shown) == {field.name for field in fields(SubscriptionStatus)} | {"caught_up"}
    assert set(partition) == {field.name for field in fields(PartitionStatus)} | {"caught_up"}
    ((status,),) = [on_store(lambda _, storage: storage.statuses())]
    facts = ("name", "version", "live", "parked", "caught_up")
    assert [shown[name] for name in facts] == [getattr(status, name) for name in facts]
    assert partition["cursor"] == str(status.partitions[0].cursor)
    assert (partition["state"], partition["handled"], partition["behind"]) == ("no worker", 2, 0)


def test_pause_and_resume_act_on_the_live_version_unless_told_otherwise(run, on_store, status):
    on_store(of_two_streams(ORDERS, ORDERS_2))
    assert run("pause", "orders").stdout == "orders version 1 is paused\n"
    assert run("pause", "orders", "--version", 2).exit_code == 0
    assert run("resume", "orders").stdout == "orders version 1 goes on\n"
    assert status("orders").partitions[0].state is PartitionState.WAITING
    assert status("orders", 2).partitions[0].state is PartitionState.PAUSED


def test_resume_lets_a_stopped_partition_go_on(run, on_store, status):
    async def work(_, storage):
        await storage.register("orders", 1, 1)
        (lease,) = await storage.beat("orders", 1, "web-1", 60)
        await storage.fail(lease, "ValueError: no customer", stop=True)

    on_store(work)
    assert status("orders").partitions[0].state is PartitionState.STOPPED
    assert run("resume", "orders").exit_code == 0
    assert status("orders").partitions[0].state is PartitionState.RUNNING
    assert status("orders").partitions[0].error is None


@pytest.mark.parametrize("command", ["reset", "rebuild"])
def test_going_back_handles_everything_again_without_side_effects(run, on_store, status, command):
    on_store(of_two_streams(FAILING))
    done = run(command, "orders", "--yes")
    assert done.stdout == "orders version 1 went back to the beginning; its read model is as it was\n"
    (partition,) = status("orders").partitions
    assert (partition.cursor, partition.replaying, status("orders").parked) == (None, True, 0)
    assert status("orders").partitions[0].behind == 6


@pytest.mark.parametrize("command", ["reset", "rebuild"])
@pytest.mark.parametrize("answer", ["n\n", ""])
def test_going_back_changes_nothing_without_a_yes_and_says_what_it_leaves(
    run, on_store, status, command, answer
):
    on_store(of_two_streams(FAILING))
    asked = run(command, "orders", input=answer)
    assert asked.exit_code == 1
    assert "read model is not emptied" in asked.stdout
    assert "parked events (4) are forgotten" in asked.stdout
    assert status("orders").caught_up


def test_reset_goes_back_after_a_yes(run, on_store, status):
    on_store(of_two_streams(ORDERS))
    assert run("reset", "orders", input="y\n").exit_code == 0
    assert not status("orders").caught_up


def test_reset_can_have_side_effects_fired_again(run, on_store, status):
    on_store(of_two_streams(ORDERS))
    asked = run("reset", "orders", "--side-effects", input="y\n")
    assert "Side effects are fired again" in asked.stdout
    assert not status("orders").partitions[0].replaying


def test_reset_goes_to_a_cursor(run, on_store, status):
    async def work(store, storage):
        await append(store, ONE, 4)
        place = await store.latest_cursor()
        await of_two_streams(ORDERS)(store, storage)
        return place

    place = on_store(work)
    assert run("reset", "orders", "--after", place, "--yes").exit_code == 0
    assert status("orders").partitions[0].cursor == place
    assert status("orders").partitions[0].behind == 6


@pytest.mark.parametrize("more", [(), ("--side-effects",)])
def test_reset_refuses_a_cursor_of_nothing(run, on_store, status, more):
    on_store(of_two_streams(ORDERS))
    refused = run("reset", "orders", "--after", "yesterday", "--yes", *more)
    assert refused.exit_code == 1
    assert refused.stderr == "error: not a cursor of this store: 'yesterday'\n"
    assert status("orders").caught_up


def test_switch_makes_a_version_live(run, on_store, status):
    on_store(of_two_streams(ORDERS, ORDERS_2))
    first, second = (run("switch", "orders", 2) for _ in range(2))
    assert first.stdout == "orders: version 2 is live now; before it was version 1\n"
    assert second.stdout == "orders: version 2 is live already\n"
    assert (status("orders").live, status("orders", 2).live) == (False, True)


def test_switch_gives_up_where_the_live_version_is_behind(run, on_store, status):
    async def work(store, storage):
        await of_two_streams(ORDERS)(store, storage)
        await append(store, ONE, 1)
        await catch_up(ORDERS_2)(store, storage)

    on_store(work)
    refused = run("switch", "orders", 2, "--within", 0)
    assert refused.exit_code == 1
    assert "has not handled yet" in refused.stderr
    assert status("orders").live


def test_remove_forgets_a_version_after_a_yes(run, on_store):
    on_store(of_two_streams(ORDERS, ORDERS_2))
    assert run("remove", "orders", 2, input="n\n").exit_code == 1
    assert len(on_store(lambda _, storage: storage.statuses())) == 2
    assert run("remove", "orders", 2, input="y\n").exit_code == 0
    (left,) = on_store(lambda _, storage: storage.statuses())
    assert left.version == 1


def test_remove_refuses_a_live_version_at_work(run, on_store):
    async def work(store, storage):
        await of_two_streams(ORDERS)(store, storage)
        await storage.beat("orders", 1, "web-1", 60)

    on_store(work)
    refused = run("remove", "orders", 1, "--yes")
    assert refused.exit_code == 1
    assert "is live" in refused.stderr


def test_parked_lists_the_events_and_what_their_handler_said(run, on_store):
    on_store(of_two_streams(FAILING))
    shown = run("parked").stdout
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert rows[0] == "orders version 1"
    assert rows[3].startswith("order 1 2 OrderPlaced 1 ")
    assert rows[4].startswith("order 1 3 OrderPlaced waits ")
    assert "order-1 event 2:" in rows
    assert rows.count("ValueError: no customer") == 2
    assert run("parked", "orders").stdout == shown


@pytest.mark.parametrize("age", ["90 s", "5 min", "3 h", "40 d"])
def test_parked_tells_for_how_long(run, on_store, event_store_dsn, age):
    on_store(of_two_streams(FAILING))
    _execute(event_store_dsn, f"UPDATE eventstore.dead_letters SET parked_at = now() - interval '{age}'")
    assert f" {age}\n" in run("parked").stdout


def test_parked_as_json_has_every_field(run, on_store):
    on_store(of_two_streams(FAILING))
    shown = json.loads(run("parked", "--json").stdout)
    names = {field.name for field in fields(ParkedEvent)} - {"stream_id"}
    assert all(set(event) == names | {"aggregate_type", "aggregate_id"} for event in shown)
    assert [(e["aggregate_id"], e["event_version"], e["error"]) for e in shown] == [
        ("1", 2, "ValueError: no customer"),
        ("1", 3, None),
        ("2", 2, "ValueError: no customer"),
        ("2", 3, None),
    ]


def test_parked_says_when_there_are_more_than_it_shows(run, on_store):
    on_store(of_two_streams(FAILING))
    assert "only the oldest 2 are shown" in run("parked", "--limit", 2).stdout
    assert "only the oldest" not in run("parked", "--limit", 4).stdout
    assert len(json.loads(run("parked", "--json", "--limit", 2).stdout)) == 2


def test_parked_is_a_command_of_its_own_too(run, on_store, invoke, event_store_dsn):
    on_store(of_two_streams(FAILING))
    shown = invoke("parked", "orders", "--json", "--dsn", event_store_dsn)
    assert shown.stdout == run("parked", "orders", "--json").stdout
    assert "`subscriptions retry NAME`" in invoke("parked", "--dsn", event_store_dsn).stdout


def test_parked_says_that_there_are_none(run, on_store):
    on_store(of_two_streams(ORDERS))
    assert run("parked", "orders").stdout == "no parked events\n"
    assert json.loads(run("parked", "--json").stdout) == []


def test_retry_has_parked_events_handled_again(run, on_store, parked, status):
    on_store(of_two_streams(FAILING))
    assert "subscriptions parked" in run().stdout
    assert run("retry", "orders").stdout == "orders version 1: 4 parked events will be retried\n"
    on_store(catch_up(ORDERS))
    assert parked() == []
    assert "subscriptions parked" not in run().stdout


def test_retry_of_one_stream_leaves_the_others_parked(run, on_store, parked):
    on_store(of_two_streams(FAILING))
    done = run("retry", "orders", "--stream", "order", "1")
    assert done.stdout == "orders version 1: 2 parked events of order-1 will be retried\n"
    on_store(catch_up(ORDERS))
    assert parked() == [(TWO, 2), (TWO, 3)]


def test_drop_forgets_parked_events_of_one_stream_or_all(run, on_store, parked):
    on_store(of_two_streams(FAILING))
    assert run("drop", "orders", input="n\n").exit_code == 1
    assert len(parked()) == 4
    one = run("drop", "orders", "--stream", "order", "1", "--yes")
    assert one.stdout == "orders version 1: 2 parked events of order-1 dropped\n"
    assert parked() == [(TWO, 2), (TWO, 3)]
    assert run("drop", "orders", input="y\n").exit_code == 0
    assert parked() == []


@pytest.mark.parametrize("command", [*OF_A_NAME, ("parked",), ("switch", 2), ("remove", 2, "--yes")])
def test_an_unknown_name_is_one_line(run, command):
    name, *more = command
    failed = run(name, "nobody", *more)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: there is no subscription 'nobody'")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [*OF_A_NAME[:1], ("reset", "--yes"), ("drop", "--yes")])
def test_an_unknown_version_is_one_line(run, on_store, command):
    on_store(of_two_streams(ORDERS))
    name, *more = command
    failed = run(name, "orders", "--version", 7, *more)
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert "'orders' version 7" in failed.stderr


@pytest.mark.parametrize("command", [(), ("parked",), ("pause", "orders"), ("switch", "orders", 2)])
def test_a_database_without_tables_says_how_to_make_them(run, event_store_dsn, command):
    _execute(event_store_dsn, "DROP SCHEMA eventstore CASCADE")
    failed = run(*command)
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1
    assert "k1s0-event-store db upgrade" in failed.stderr


@pytest.mark.parametrize("command", [(), ("parked",), ("pause", "orders")])
def test_an_unreachable_server_is_one_line_without_the_password(invoke, command):
    failed = invoke("subscriptions", *command, "--dsn", f"postgresql://u:{HIDDEN}@127.0.0.1:1/x")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert HIDDEN not in failed.output


def test_settings_come_from_the_environment(invoke, event_store_dsn):
    environment = {"K1S0_EVENT_STORE_DSN": event_store_dsn, "K1S0_EVENT_STORE_SCHEMA": "eventstore"}
    assert invoke("subscriptions", env=environment).exit_code == 0
    assert invoke("subscriptions", "parked", env=environment).stdout == "no parked events\n"


@pytest.mark.parametrize(
    "arguments", [(), ("pause",), ("pause", "orders"), ("switch", "orders"), ("fly", "orders"), ("--fast",)]
)
def test_wrong_usage_has_exit_code_2(invoke, arguments):
    assert invoke("subscriptions", *arguments).exit_code == 2


def test_options_before_the_command_are_refused_and_not_lost(invoke, event_store_dsn, on_store, status):
    on_store(of_two_streams(ORDERS))
    environment = {"K1S0_EVENT_STORE_DSN": event_store_dsn}
    refused = invoke("subscriptions", "--schema", "other", "pause", "orders", env=environment)
    assert refused.exit_code == 2
    assert "--schema after the name of the command" in " ".join(refused.stderr.split())
    assert status("orders").partitions[0].state is PartitionState.WAITING
