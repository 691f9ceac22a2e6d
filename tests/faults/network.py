"""A client under load behind a network that cuts, delays, halves packets and drops answers to COMMIT.

    python -m tests.faults.network --rounds 20 --seed 1

In a round each kind of bad weather comes once. The client goes on until there was enough of it, then the
weather clears up, what was under way is settled, and the audit compares.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..postgres.wire import Cut, Moment, Storm, Weather, proxy_before
from .audit import faults, look
from .batches import Claims
from .clients import WITHIN, Client, Stores, journals, publications
from .kills import SETTINGS, prepare
from .servers import own_server

LONGEST_DELAY = 0.002
CUTS = 15
APPENDS = 100
"""Of both there has to be as many before the weather clears up."""


def random_cuts(proxy, chooser):
    """Connections end at a random byte: some before they are made, some after half a megabyte."""
    proxy.weather = lambda: Storm(
        chooser, cut_after=int(10 ** chooser.uniform(1, 5.7)), longest_delay=LONGEST_DELAY / 4
    )


def late_and_in_pieces(proxy, chooser):
    """Nothing is cut, all is late, and every packet comes in two pieces."""
    proxy.weather = lambda: Storm(chooser, longest_delay=LONGEST_DELAY)


def dropped_answers(proxy, chooser):
    """Of the answers to COMMIT one in eight does not arrive; the connection is over."""

    def drop(moment):
        if moment is Moment.EXECUTED and chooser.random() < 1 / 8:
            raise Cut

    proxy.at = drop


def dropped_commits(proxy, chooser):
    """One COMMIT in eight does not arrive at the server."""

    def drop(moment):
        if moment is Moment.UNSENT and chooser.random() < 1 / 8:
            raise Cut

    proxy.at = drop


WEATHERS = (random_cuts, late_and_in_pieces, dropped_answers, dropped_commits)


@dataclass
class Result:
    """What came of it."""

    wrong: list[str]
    cuts: int
    claims: Claims


async def endure(weather, dsn, name, seed):
    """A client works through this weather, until there were enough cuts (if it cuts) and appends."""
    with tempfile.TemporaryDirectory(prefix="k1s0-") as folder, proxy_before(dsn) as proxy:
        weather(proxy, random.Random(f"{seed}-{name}"))
        async with Stores.on(proxy.dsn) as stores:
            client = Client(stores, Path(folder), name, seed)
            working = asyncio.create_task(client.run())
            await _until(lambda: _is_enough(weather, proxy, client) or working.done())
            proxy.weather, proxy.at = Weather, lambda moment: None
            client.stopping.set()
            await working
        claims = Claims.of(journals(Path(folder)))
        found = await asyncio.to_thread(look, dsn, publications(Path(folder)))
        return Result(faults(claims, found), proxy.cuts, claims)


def _is_enough(weather, proxy, client):
    cuts = 0 if weather is late_and_in_pieces else CUTS
    return proxy.cuts >= cuts and client.settled >= APPENDS


async def _until(condition):
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - of counters, whose changes nobody tells
            await asyncio.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.network")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.disable()  # Runners tell of every cut.
    for weather in WEATHERS:
        began, cuts, acknowledged, unknown = time.monotonic(), 0, 0, 0
        for number in range(asked.rounds):
            with own_server(**SETTINGS) as server:
                prepare(server.dsn)
                result = asyncio.run(endure(weather, server.dsn, f"{number:04}", asked.seed))
            if result.wrong:
                sys.exit(f"seed {asked.seed}, {weather.__name__} {number}: " + "; ".join(result.wrong))
            cuts += result.cuts
            acknowledged += len(result.claims.acknowledged)
            unknown += len(set(result.claims.unknown))
        print(
            f"{weather.__name__}, seed {asked.seed}: {asked.rounds} rounds, {cuts:,} cuts, {acknowledged:,} "
            f"acknowledged appends, {unknown:,} with an unknown outcome first: nothing wrong; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
