"""A runner as a process: signals that end it well, and a log of one line per record."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable
from typing import Final, Self

from k1s0_event_store.delivery import Notice, describe, place_fields
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.terminal import plain

_OURS: Final = "k1s0_event_store"

logger = logging.getLogger(f"{_OURS}.process")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_CANCEL_EVERY: Final = 1.0


async def until_signalled(runner: SubscriptionRunner, work: Awaitable[None]) -> int:
    """Await the work of `runner`, and return the exit code of the process.

    The first signal stops the runner: what is in hand is finished and saved. A second one ends the
    work at once, a third one the process.
    """
    with _Signals(runner) as signals:
        try:
            await work
        except asyncio.CancelledError:
            if not signals.exit_code:
                raise
    return signals.exit_code


class _Signals:
    """SIGTERM and SIGINT for as long as the block lasts."""

    def __init__(self, runner: SubscriptionRunner) -> None:
        self.exit_code = 0
        self._runner = runner
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._receive, number)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self, number: signal.Signals) -> None:
        if self._is_stopping:
            logger.warning("%s again: ending at once, what is in hand comes again", number.name)
            self.exit_code = 128 + number
            for each in _SIGNALS:
                self._loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)
            self._cancel()
        else:
            logger.info("%s: stopping when what is in hand is done", number.name)
            self._is_stopping = True
            self._runner.stop()

    def _cancel(self) -> None:
        """Once gives what is tidied up a second for it, once more ends that too."""
        if self._task is not None:
            self._task.cancel()
        self._timer = self._loop.call_later(_CANCEL_EVERY, self._cancel)


class Outages(logging.Filter):
    """Tells of an outage when it begins and when it ends: what comes between are repetitions.

    They come with every attempt of ours, and ten times a second from some brokers' libraries. A
    filter of the log, and with `observe` an observer of the runner.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()
        self._waiting: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = record.name.startswith(_OURS)
        if record.levelno < logging.WARNING or (is_ours and record.levelno > logging.WARNING):
            return True
        text = record.getMessage()
        is_new = text not in self._told
        self._told.add(text)
        return is_new

    def observe(self, notice: Notice) -> None:
        """Learn from the runner who waits, and who goes on."""
        if notice.kind == "waiting":
            self._waiting.add(notice.partition)
        elif notice.kind == "handled" and notice.events:
            if notice.partition in self._waiting:
                self._waiting.remove(notice.partition)
                logger.info(
                    "%s version %d partition %d: goes on",
                    notice.name,
                    notice.version,
                    notice.partition,
                    extra=place_fields(notice),
                )
            self._told.clear()


class _OneLine(logging.Formatter):
    """No traceback, and nothing that would steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() if error is None else f"{record.getMessage()}: {describe(error)}"
        return plain(" ".join(f"{self.formatTime(record)} {record.levelname} {text}".split()))


def log_to_stderr(outages: Outages, *, debug: bool) -> None:
    """Log to stderr, unless the app's own code has set up logging; `debug`: everything, with tracebacks."""
    handler = logging.StreamHandler()
    if debug:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(_OneLine())
        handler.addFilter(outages)
    logging.basicConfig(handlers=[handler], level=logging.INFO if debug else logging.WARNING)
    logging.getLogger(_OURS).setLevel(logging.DEBUG if debug else logging.INFO)
