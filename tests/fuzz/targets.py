"""What parses, each as a function of bytes: anything may go in, and only errors of the library come out.

    python -m tests.fuzz.run TARGET --seconds 60

A target that raises has found something to mend. tests/fuzz/corpus holds inputs for each of them.
"""

import asyncio
import io
import json
import math
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from k1s0_event_store import (
    CloudEvents,
    ConfigurationError,
    CorruptDataError,
    Cursor,
    DuplicateEventError,
    EventEnvelope,
    EventStoreConfig,
    InvalidInputError,
    Message,
    MessageRefusedError,
    PostgresEventStore,
    StoreUnavailableError,
    StreamId,
    SyncPostgresEventStore,
    TransferError,
    publisher_for,
)
from k1s0_event_store.brokers import kafka, nats, rabbitmq
from k1s0_event_store.brokers.connection import headers_of
from k1s0_event_store.cli.new_events import read_new_events
from k1s0_event_store.config import check_dsn, mask_dsn, split_url
from k1s0_event_store.envelope import json_texts, unread_envelope
from k1s0_event_store.jsontext import as_written, decode, encode, indented
from k1s0_event_store.message import as_event, from_event
from k1s0_event_store.postgres.feed import covers, parse
from k1s0_event_store.signed_heads import Head, read_heads
from k1s0_event_store.signing import PrivateKey, PublicKey
from k1s0_event_store.telemetry.context import TRACEPARENT, TRACESTATE, context_of, with_carrier
from k1s0_event_store.transfer.files import PartFile, compression_of
from k1s0_event_store.transfer.lines import event_line, footer_line, header_line, read_events

from .command_line import command_line
from .no_server import no_server

STREAM = StreamId("order", "1")
SECRET = re.compile("[A-Za-z0-9]{8,}")


def import_file(data):
    """A file of events; what begins with no header gets one."""
    _read_lines(io.BytesIO(data))
    _read_lines(io.BytesIO(header_line({}) + data))


def _read_lines(lines):
    with suppress(TransferError):
        for event in read_events(lines):
            # What was accepted can be looked at, stored, and written into a file that gives it back.
            assert isinstance(event.metadata, dict)
            (again,) = read_events([header_line({}), event_line(event), footer_line(1)])
            payload, metadata = json_texts(again)
            assert decode(payload) == event.payload or _has_nan(event.payload)
            assert metadata == json_texts(event)[1]
            assert (again.event_id, again.occurred_at) == (event.event_id, event.occurred_at)


def _has_nan(value):
    return value != value


def gzip_file(data):
    """A compressed file, damaged or not."""
    _read_compressed(Path("events.gz"), data)


def zstd_file(data):
    """The same in the other container."""
    _read_compressed(Path("events.zst"), data)


def _read_compressed(path, data):
    compression = compression_of(path)
    with suppress(TransferError):
        for _ in compression.lines(io.BytesIO(data)):
            pass
    assert b"".join(compression.lines(io.BytesIO(compression.compress(data)))) == data


def place_of_export(data):
    """The note of an export that was interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "events.part").write_bytes(b"")
        Path(folder, "events.place").write_bytes(data)
        with suppress(TransferError):
            checkpoint = PartFile(Path(folder, "events")).checkpoint(resume=True)
            assert checkpoint.size == 0  # more than there is of the part was refused


def signed_heads(data):
    """A file of signed heads: only what the key has signed is a head, and it is written as it was read."""
    for number, found in read_heads(io.BytesIO(data), _KEY.public):
        if isinstance(found, Head):
            assert found.line() == data.split(b"\n")[number - 1]
            assert found.is_signed_with(_KEY.public)
        else:
            assert len(found.problem) < 1_000
    with suppress(ValueError):
        head = Head.model_validate_json(data).signed(_KEY)
        ((_, again), *_) = list(read_heads([head.line() + b"\n"], _KEY.public))[-1:]
        assert again == head or head.key != _KEY.public.id


def keys(data):
    """A file that should be a key."""
    for kind in (PublicKey, PrivateKey):
        with suppress(ConfigurationError):
            kind.from_pem(data).pem()


def cursor(data):
    """A place in the feed; what is one is written as it was read."""
    with suppress(InvalidInputError):
        place = parse(Cursor(data.decode(errors="surrogateescape")))
        assert parse(place.cursor()) == place
        assert covers(place, place)


def dsn(data):
    """A DSN: checked, shown without its password, and understood by both drivers, or refused by them."""
    text = data.decode(errors="surrogateescape")
    with suppress(ConfigurationError):
        EventStoreConfig.from_url(text)
    try:
        check_dsn(text)
    except ConfigurationError as error:
        _check_hidden(text, str(error))
        return
    shown = mask_dsn(text)
    _check_hidden(text, shown)
    assert mask_dsn(shown) == shown
    assert shown in repr(EventStoreConfig(dsn=text)) or not shown.isprintable() or "\\" in repr(shown)
    config = EventStoreConfig(dsn=text)
    with no_server():
        with suppress(ConfigurationError, StoreUnavailableError), SyncPostgresEventStore(config) as store:
            store.exists(STREAM)
        with suppress(ConfigurationError, StoreUnavailableError):
            asyncio.run(_connect(config))


async def _connect(config):
    async with PostgresEventStore(config) as store:
        await store.exists(STREAM)


def _check_hidden(text, shown):
    user = split_url(text).netloc.rpartition("@")[0]
    for secret in SECRET.findall(user.partition(":")[2]):
        # As long as it stands nowhere else: a password may be the name of the host too.
        assert text.count(secret) > 1 or secret not in shown


def broker_url(data):
    """The URL of a broker."""
    with suppress(ConfigurationError):
        url = data.decode(errors="surrogateescape")
        publisher = publisher_for(url)
        _check_hidden(url, publisher.place)
        if url.startswith("amqp"):
            rabbitmq.split_exchange(url)
        if url.startswith("kafka"):
            kafka.security_of(split_url(url))


def message_headers(data):
    """An event of any metadata as a CloudEvent, and its headers in each protocol."""
    metadata = _object(data)
    event = unread_envelope(STREAM, "OrderPlaced", "{}", encode(metadata), _ID, _NOON, 1)
    for structured in (False, True):
        try:
            message = CloudEvents("/shop", tier="t", domain="d", structured=structured)(event)
        except InvalidInputError:
            continue
        _bind(message)
        if structured:
            json.loads(message.body)
    headers = {name: value for name, value in metadata.items() if isinstance(value, str)}
    with suppress(InvalidInputError):
        _bind(Message("topic", "key", data, headers, {"subject": data.decode("latin-1")}))


def _bind(message):
    """The refusals of a binding are errors of ours, and texts that cannot be encoded at all."""
    assert from_event(as_event(message)) == message or len(message.key) > 255
    for prefix, encode_value in (("ce_", str), ("ce-", nats._quoted), ("cloudEvents:", str)):
        with suppress(MessageRefusedError, UnicodeError):
            headers = headers_of(message, {"key": message.key}, prefix, encode_value)
            nats._check_lines(headers)
            rabbitmq._check_lengths(message.message_id, message.content_type, *headers)
            if encode_value is nats._quoted:
                attributes = {name: unquote(headers[prefix + name]) for name in message.attributes}
                assert attributes == message.attributes


def kept_message(data):
    """What an event of the outbox keeps may be anything; it is a message, or corrupt."""
    payload = _json(data)
    event = EventEnvelope(StreamId("$outbox", "key"), "$message", payload)
    with suppress(CorruptDataError):
        message = from_event(event)
        assert from_event(as_event(message)) == message


def trace_context(data):
    """What others send as traceparent and tracestate: a context, or nothing."""
    parent, _, state = data.decode("latin-1").partition("\n")
    found = context_of({TRACEPARENT: parent, TRACESTATE: state})
    assert found is None or found.is_valid
    assert TRACEPARENT in with_carrier({TRACEPARENT: parent}, {TRACEPARENT: "00-1-2-03"})
    fields = _json(data)
    if isinstance(fields, dict):
        context_of(fields)


def json_text(data):
    """JSON of any kind: taken as it is written, decoded, written anew, made readable."""
    kept = as_written(data)
    text = data.decode(errors="replace")
    if kept is not None:
        assert kept.encode() == data
        assert math.isfinite(len(repr(decode(kept))))
        json.loads(kept)
    readable = indented(text)
    assert _squeezed(readable) == _squeezed(text) or not _is_json(text)
    with suppress(CorruptDataError):
        value = decode(text)
        with suppress(ValueError):
            assert repr(decode(encode(value))) == repr(value)


def _squeezed(text):
    """Without what may be put in or taken out between the parts."""
    return re.sub(r"\s", "", text)


def _is_json(text):
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def new_events(data):
    """Events that somebody wrote for the command `append`."""
    with suppress(InvalidInputError, DuplicateEventError):
        for event in read_new_events(data, STREAM):
            assert event.stream_id == STREAM
            assert event.event_type


def _json(data):
    """The value in some bytes; where there is none, the bytes as a query of a URL, which is easily made."""
    text = data.decode("latin-1")
    try:
        value = decode(text)
        encode(value)
    except (CorruptDataError, ValueError):
        pairs = dict(parse_qsl(text, keep_blank_values=True))
        return {name: part for name, part in pairs.items() if "\x00" not in name + part}
    return value


def _object(data):
    value = _json(data)
    return value if isinstance(value, dict) else {"traceparent": value, "correlation_id": value}


_EXAMPLE = EventEnvelope(STREAM, "OrderPlaced", {})
_KEY = PrivateKey.from_pem(Path(__file__).with_name("corpus").joinpath("keys", "0").read_bytes())
_ID, _NOON = _EXAMPLE.event_id, _EXAMPLE.occurred_at

TARGETS = {
    target.__name__: target
    for target in (
        import_file, gzip_file, zstd_file, place_of_export, cursor, dsn, broker_url, command_line,
        message_headers, kept_message, trace_context, json_text, new_events, signed_heads, keys,
    )
}  # fmt: skip
