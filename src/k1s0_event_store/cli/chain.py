"""The command line's group `chain`: tamper evidence, on the tables and as signed heads in a file."""

from __future__ import annotations

import asyncio
import errno
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from k1s0_event_store.cli.options import Dsn, Schema, Yes, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.postgres.chain import add_chain, remove_chain
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.signed_heads import Head, sign_head
from k1s0_event_store.signing import PrivateKey

chain = typer.Typer(
    no_args_is_help=True, help="Tamper evidence: chain the events of each stream, sign heads."
)


@chain.command()
def add(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Chain all events, those that are there and those to come.

    As the owner of the tables. Nobody can use the events meanwhile: each is
    written anew once. `verify --chain` looks at the chain from then on.
    """
    config = EventStoreConfig(dsn=dsn, schema=schema)
    events = asyncio.run(in_transaction(config, partial(add_chain, schema=schema)))
    done = "chained already" if events is None else f"chained, {events:,} that were there"
    typer.echo(f"{config.masked_dsn}, schema {schema}: the events are {done}")


@chain.command()
def remove(dsn: Dsn, schema: Schema = DEFAULT_SCHEMA, yes: Yes = False) -> None:
    """Take the chain off. The events stay, but nothing shows any more that they are unchanged."""
    config = EventStoreConfig(dsn=dsn, schema=schema)
    if not yes:
        typer.echo(
            f"{config.masked_dsn}, schema {schema}: all links will be destroyed, and heads mean nothing."
        )
        typer.confirm("Go on?", abort=True)
    was_there = asyncio.run(in_transaction(config, partial(remove_chain, schema=schema)))
    done = "not chained any more" if was_there else "not chained: nothing to do"
    typer.echo(f"{config.masked_dsn}, schema {schema}: the events are {done}")


@chain.command()
def key(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the private key.")],
    public: Annotated[Path, typer.Option("--public", metavar="FILE", help="Where to write the public key.")],
) -> None:
    """Make a pair of keys to sign heads with. No file is overwritten.

    The private key is for who signs alone, the public one for everybody who
    verifies.
    """
    made = PrivateKey.new()
    for path in (out, public):
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    _write_new(out, made.pem(), 0o600)
    _write_new(public, made.public.pem(), 0o644)
    typer.echo(f"key {made.public.id}: {out} signs, {public} verifies")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


@chain.command()
def sign(
    heads: Annotated[Path, typer.Argument(metavar="FILE", help="The file of heads; it is made if need be.")],
    private: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.")],
    dsn: Dsn,
    schema: Schema = DEFAULT_SCHEMA,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="At most, for open transactions.")
    ] = 60,
) -> None:
    """Add a signed head to a file: it attests all events since the one before. Run it once a day.

    It waits until no event can come at or below the newest position any
    more: transactions that are open in any database of the cluster end, or
    it fails. Keep the file where the owner of the tables cannot write.
    """
    signing = PrivateKey.from_pem(private.read_bytes())
    head = asyncio.run(_sign(config_of(dsn, schema), heads, signing, wait))
    typer.echo(f"{heads}: signed {head.events:,} events, up to position {head.to}, with the key {head.key}")


async def _sign(config: EventStoreConfig, heads: Path, key: PrivateKey, wait: float) -> Head:
    async with opened(PostgresChain(config)) as events:
        return await sign_head(heads, key, events, wait)
