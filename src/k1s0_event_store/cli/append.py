"""The command `append`: new events from JSON, at the end of a stream."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from k1s0_event_store.cli.new_events import read_new_events
from k1s0_event_store.cli.options import AggregateId, AggregateType, Dsn, Schema, config_of, opened
from k1s0_event_store.cli.tables import one_line
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.envelope import STREAM_EXISTS, EventEnvelope, ExpectedVersion, StreamId
from k1s0_event_store.exceptions import InvalidInputError, OutcomeUnknownError, StoreUnavailableError
from k1s0_event_store.postgres.store import PostgresEventStore

_NAMED: Final[dict[str, ExpectedVersion]] = {"any": None, "no-stream": 0, "exists": STREAM_EXISTS}

_LONGEST_INPUT: Final = 2**28

File = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="JSON: a file; else, or with -, what comes on stdin.")
]
Expected = Annotated[
    str,
    typer.Option(
        "--expected-version",
        metavar="VERSION",
        help="Append only at this version; or any, no-stream (version 0), exists.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the new version as JSON.")]


def append(
    aggregate_type: AggregateType,
    aggregate_id: AggregateId,
    dsn: Dsn,
    file: File = None,
    expected_version: Expected = "any",
    as_json: Json = False,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Append events to a stream, all or none, and print its new version.

    One JSON object per event, or an array of them:
    {"event_type": ..., "payload": ...}, and if you like "metadata",
    "event_id" (a UUID) and "occurred_at". With the same event ids a second
    append writes nothing and succeeds.

    Exit code 3 if the stream is not at the expected version.
    """
    expected = _expected(expected_version)
    stream_id = StreamId(aggregate_type, aggregate_id)
    data = _read(file)
    events = read_new_events(data, stream_id)
    version = asyncio.run(_append(config_of(dsn, schema), stream_id, events, expected))
    if as_json:
        typer.echo(json.dumps({"version": version, "event_ids": [str(event.event_id) for event in events]}))
    else:
        typer.echo(one_line(f"{stream_id} is at version {version}"))


def _read(file: Path | None) -> bytes:
    if file is None or str(file) == "-":
        data = sys.stdin.buffer.read(_LONGEST_INPUT + 1)
    else:
        with file.open("rb") as opened:
            data = opened.read(_LONGEST_INPUT + 1)
    if len(data) > _LONGEST_INPUT:
        raise InvalidInputError(
            f"there are more than {_LONGEST_INPUT:,} bytes: append in parts, or import a file of events"
        )
    return data


def _expected(text: str) -> ExpectedVersion:
    if text in _NAMED:
        return _NAMED[text]
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
        raise typer.BadParameter(
            f"{text!r} is no version: give a number, any, no-stream or exists",
            param_hint="--expected-version",
        )
    return int(text)


async def _append(
    config: EventStoreConfig, stream_id: StreamId, events: list[EventEnvelope], expected: ExpectedVersion
) -> int:
    async with opened(PostgresEventStore(config)) as store:
        try:
            return await store.append(stream_id, events, expected)
        except OutcomeUnknownError as unknown:
            # Repeated here, because the caller does not know the ids that make it harmless.
            try:
                return await store.append(stream_id, events, expected)
            except StoreUnavailableError:
                raise unknown from None
