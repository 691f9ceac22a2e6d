"""A runner as a process: what its log says, and what it leaves out. Its signals: tests/acceptance."""

import asyncio
import io
import logging
from contextlib import contextmanager, redirect_stderr

import pytest

from k1s0_event_store import BrokerUnavailableError, Notice
from k1s0_event_store.memory import InMemoryEventStore, InMemorySubscriptionStore
from k1s0_event_store.process import Outages, log_to_stderr, until_signalled
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.subscription import Subscriber

LOGGER = logging.getLogger("k1s0_event_store.subscriptions")


@contextmanager
def logging_of_a_process(outages=None, *, debug=False, of_the_app=()):
    """The text that a process logs, in which the app has set up `of_the_app`."""
    root, ours = logging.getLogger(), logging.getLogger("k1s0_event_store")
    before = root.handlers, root.level, ours.level
    root.handlers = list(of_the_app)
    try:
        with redirect_stderr(io.StringIO()) as text:
            log_to_stderr(outages or Outages(), debug=debug)
            yield text
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])


def warn(message, error):
    """As the runner does."""
    LOGGER.warning(message, exc_info=error)


def test_a_record_is_one_line_with_its_error_and_cannot_steer_the_terminal():
    with logging_of_a_process() as text:
        warn("relay\nwaits", ValueError("no\n\x1b[31msuch number"))
    assert text.getvalue().endswith(r" WARNING relay waits: ValueError: no \x1b[31msuch number" + "\n")
    assert text.getvalue().count("\n") == 1


def test_debug_shows_every_error_whole_and_what_libraries_say():
    with logging_of_a_process(debug=True) as text:
        for _ in range(2):
            warn("relay waits", ValueError("no\nsuch number"))
        LOGGER.debug("a look")
        logging.getLogger("library").info("connected")
    assert text.getvalue().count("ValueError: no\nsuch number\n") == 2
    assert "DEBUG k1s0_event_store.subscriptions: a look" in text.getvalue()
    assert "INFO library: connected" in text.getvalue()


def test_only_what_is_ours_tells_of_everyday_life():
    with logging_of_a_process() as text:
        LOGGER.info("begins")
        LOGGER.debug("a look")
        logging.getLogger("library").info("connected")
    assert [line.split(" ", 3)[3] for line in text.getvalue().splitlines()] == ["begins"]


def test_logging_that_the_app_has_set_up_stays():
    of_the_app = logging.StreamHandler(io.StringIO())
    with logging_of_a_process(of_the_app=[of_the_app]) as text:
        LOGGER.info("begins")
    assert (of_the_app.stream.getvalue(), text.getvalue()) == ("begins\n", "")


def test_an_outage_is_told_of_when_it_begins_and_when_it_ends():
    outages, error = Outages(), BrokerUnavailableError("away")
    with logging_of_a_process(outages) as text:
        for _ in range(2):
            for _ in range(3):
                outages.observe(Notice("waiting", "relay", 1, 0, error=error))
                warn("relay waits", error)
            for events in (0, 5, 5):
                outages.observe(Notice("handled", "relay", 1, 0, events=events))
    told = [line.split(" ", 2)[2] for line in text.getvalue().splitlines()]
    once = [
        "WARNING relay waits: BrokerUnavailableError: away",
        "INFO relay version 1 partition 0: goes on",
    ]
    assert told == once * 2


def test_errors_are_all_told_but_those_that_libraries_repeat():
    with logging_of_a_process() as text:
        for _ in range(3):
            LOGGER.error("stops")
            logging.getLogger("aiokafka").error("Unable to connect")
    assert text.getvalue().count("stops") == 3
    assert text.getvalue().count("Unable to connect") == 1


async def test_a_cancellation_that_is_no_signal_is_passed_on():
    store = InMemoryEventStore()
    runner = SubscriptionRunner(store, InMemorySubscriptionStore(store), [Subscriber("mails", print)])
    task = asyncio.create_task(until_signalled(runner, runner.run()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
