"""The commands `verify` and `doctor`: what is wrong with the contents of a store, and with its database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from k1s0_event_store.cli.failures import FAILED
from k1s0_event_store.cli.options import Dsn, Json, Schema, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.postgres.diagnosis import Finding, PostgresDoctor, Severity
from k1s0_event_store.postgres.verification import Fault, Looked, PostgresVerifier
from k1s0_event_store.signed_heads import LONGEST_LINE, Head, HeadFault, check_heads
from k1s0_event_store.signing import PublicKey
from k1s0_event_store.terminal import say

_MOST_FAULTS: Final = 1_000
_STYLES: Final = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}
_SEQUENCE_HIDDEN: Final = (
    "not looked at: the sequence of the positions; GRANT SELECT ON ALL SEQUENCES IN SCHEMA to this role"
)


def verify(
    dsn: Dsn,
    aggregate_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only streams of this aggregate type.")
    ] = None,
    chained: Annotated[
        bool, typer.Option("--chain", help="Also whether the chain of each stream is unbroken.")
    ] = False,
    heads: Annotated[
        Path | None, typer.Option("--heads", metavar="FILE", help="And whether signed heads fit the events.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="What the heads were signed with.")
    ] = None,
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Look for what appends cannot have left in the tables; exit code 1 if there is any.

    Gaps in streams, heads that differ from the last event, ids that stand
    twice, snapshots beyond the end, checkpoints that cannot be right. It only
    reads, and may run beside writers.
    """
    if (heads is None) != (public_key is None) or (heads is not None and not chained):
        raise typer.BadParameter("--heads needs --chain and --public-key, and this the other two")
    signed = None if heads is None or public_key is None else _SignedHeads.of(heads, public_key)
    run = _Verification(config_of(dsn, schema), aggregate_type, chained, signed)
    faults, complete = asyncio.run(run.faults())
    if as_json:
        fields = {"faults": list(map(asdict, faults)), "complete": complete, "looked_at": run.looked_at}
        typer.echo(json.dumps(fields, indent=2))
    else:
        _show_faults(faults, complete, run)
    if faults:
        raise typer.Exit(FAILED)


@dataclass(frozen=True, slots=True)
class _SignedHeads:
    """A file of heads, and what they were signed with."""

    path: Path
    key: PublicKey

    @classmethod
    def of(cls, path: Path, key: Path) -> _SignedHeads:
        return cls(path, PublicKey.from_pem(key.read_bytes()))

    def lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                yield line


class _Verification:
    """One run, and on a terminal how far it is."""

    def __init__(
        self,
        config: EventStoreConfig,
        aggregate_type: str | None,
        chained: bool = False,
        signed: _SignedHeads | None = None,
    ) -> None:
        self.looked_at: dict[str, int] = {}
        self.sequence_hidden = False
        self.last_head: Head | None = None
        self._chained = chained
        self._signed = signed
        self._config = config
        self._aggregate_type = aggregate_type
        self._status = Console(stderr=True).status("looking ...")

    async def faults(self) -> tuple[list[Fault], bool]:
        """The first faults, and whether these are all."""
        found: list[Fault] = []
        with self._status:
            async with aclosing(self._all_faults()) as faults:
                async for fault in faults:
                    if len(found) == _MOST_FAULTS:
                        return found, False
                    found.append(fault)
        return found, True

    async def _all_faults(self) -> AsyncGenerator[Fault, None]:
        async with opened(PostgresVerifier(self._config)) as verifier:
            async for fault in verifier.faults(self._aggregate_type, watch=self._watch):
                yield fault
            self.sequence_hidden = not await verifier.may_read_sequence()
            if self._chained:
                chain = PostgresChain(self._config, bind=verifier.bind)
                async for fault in chain.faults(self._aggregate_type, watch=self._watch):
                    yield fault
                async for fault in self._head_faults(chain):
                    yield fault

    async def _head_faults(self, chain: PostgresChain) -> AsyncIterator[Fault]:
        if self._signed is None:
            return
        heads = 0
        async for found in check_heads(self._signed.lines(), self._signed.key, chain):
            if isinstance(found, HeadFault):
                yield _fault_of_head(found)
            else:
                self.last_head, heads = found, heads + 1
                self._watch(Looked("signed heads", heads))

    def _watch(self, looked: Looked) -> None:
        self.looked_at[looked.check] = looked.rows
        self._status.update(f"{looked.rows:,} {looked.check} looked at ...")


def _fault_of_head(found: HeadFault) -> Fault:
    day = "" if found.day is None else f", signed on {found.day}"
    return Fault(f"line {found.line}{day}: {found.problem}", found.advice)


def _show_faults(faults: list[Fault], complete: bool, run: _Verification) -> None:
    console = Console()
    for fault in faults:
        say(console, f"{_place(fault)}: {fault.problem}", "bold red")
        say(console, f"    {fault.advice}")
    looked_at = ", ".join(f"{rows:,} {check}" for check, rows in run.looked_at.items())
    counted = f"{len(faults):,} fault{'' if len(faults) == 1 else 's'}" if faults else "no faults"
    say(console, f"{counted} in {looked_at}" if complete else f"the first {counted}; there are more")
    if run.last_head is not None:
        day, to = run.last_head.day, run.last_head.to
        say(console, f"the last head is of {day}: it says nothing of events beyond position {to}")
    if run.sequence_hidden:
        say(console, _SEQUENCE_HIDDEN, "yellow")


def _place(fault: Fault) -> str:
    stream = None if fault.aggregate_id is None else f"{fault.aggregate_type} {fault.aggregate_id}"
    version = None if fault.version is None else f"version {fault.version}"
    parts = [part for part in (fault.subscription, stream, version) if part is not None]
    return ", ".join(parts) or "store"


def doctor(dsn: Dsn, as_json: Json = False, schema: Schema = DEFAULT_SCHEMA) -> None:
    """Say whether the store can work here, and what holds it back; exit code 1 if there is a problem.

    Looks at the server, the tables, the rights of the role, open and
    prepared transactions, replication and vacuum. It only reads. Queries of
    others are not shown: they may hold what is in events.
    """
    findings = asyncio.run(_diagnose(config_of(dsn, schema)))
    if as_json:
        typer.echo(json.dumps(list(map(asdict, findings)), indent=2))
    else:
        _show_findings(findings)
    if any(finding.severity is Severity.PROBLEM for finding in findings):
        raise typer.Exit(FAILED)


async def _diagnose(config: EventStoreConfig) -> list[Finding]:
    async with PostgresDoctor(config) as doctor:
        return [finding async for finding in doctor.findings()]


def _show_findings(findings: list[Finding]) -> None:
    console = Console()
    for finding in findings:
        text = f"{finding.severity:<8} {finding.check}: {finding.text}"
        say(console, text, _STYLES[finding.severity])
        if finding.advice:
            say(console, f"{'':8} {finding.advice}")
