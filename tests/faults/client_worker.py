"""Clients as processes of their own, to be killed: a line of stdin is what `work` takes. SIGTERM ends one."""

import asyncio
import logging
import signal
from pathlib import Path

from tests.faults.clients import Client, Stores
from tests.forking import serve


async def work(dsn, folder, name, seed):
    async with Stores.on(dsn) as stores:
        client = Client(stores, Path(folder), name, seed)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.stopping.set)
        await client.run()


def run(**what):
    logging.basicConfig(filename=f"{what['folder']}/log", format="%(asctime)s %(message)s")
    asyncio.run(work(**what))


if __name__ == "__main__":
    serve(run)
