"""A person whose data goes through everything that there is, and where it can be found afterwards."""

import io
import logging
from base64 import b64encode
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psycopg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg import sql
from pydantic import BaseModel
from sqlalchemy import text

from k1s0_event_store import (
    AggregateCache,
    AggregateRoot,
    CloudEvents,
    EventRegistry,
    EventStoreConfig,
    FailurePolicy,
    Personal,
    PostgresEventStore,
    PostgresInbox,
    PostgresKeyStore,
    PostgresSnapshotStore,
    PostgresSubscriptionStore,
    ProcessManager,
    Projection,
    Relay,
    Repository,
    StreamId,
    Subscriber,
    SubscriptionRunner,
    TypedEventStore,
    WrappingKeys,
    every,
)
from k1s0_event_store.memory import InMemoryPublisher
from k1s0_event_store.telemetry import Telemetry
from k1s0_event_store.transfer import export_events
from k1s0_event_store.transfer.exporting import EVERYTHING
from k1s0_event_store.web import event_browser

from ..web.conftest import looking_at
from .servers import Server, migrate, own_server

CORE = "Unmistakable-7f3a"
ANN, BOB = f'Änn "{CORE}" \\ Lee', "Bob Known"
"""What JSON, base64 and SQL each write in another way; the core is searched for in all of them."""
NAMES = {"g-ann": ANN, "g-bob": BOB}
FORGOTTEN = {"g-ann": "[forgotten]", "g-bob": BOB}
STAY = StreamId("stay", "s-1")

GUESTS = "CREATE TABLE guests (id text PRIMARY KEY, name text NOT NULL)"

OLD = WrappingKeys({"2025": b"o" * 32}, current="2025")
BOTH = WrappingKeys({"2025": b"o" * 32, "2026": b"n" * 32}, current="2026")
NEW = WrappingKeys({"2026": b"n" * 32}, current="2026")

events = EventRegistry()


@events.register("guest.checked_in")
class CheckedIn(BaseModel):
    guest_id: str
    name: Annotated[str, Personal(subject="guest_id")]


@events.register("guest.forgotten")
class GuestForgotten(BaseModel):
    """Says who, and nothing about them."""

    guest_id: str


@dataclass
class Stay(AggregateRoot):
    aggregate_type = "stay"
    guests: dict[str, str] = field(default_factory=dict)

    def check_in(self, guest_id, name):
        self.record(CheckedIn(guest_id=guest_id, name=name))

    def apply(self, event):
        self.guests[event.guest_id] = event.name


async def note(event, session):
    """A read model."""
    await session.execute(
        text("INSERT INTO guests VALUES (:id, :name) ON CONFLICT (id) DO UPDATE SET name = :name"),
        {"id": event.payload.guest_id, "name": event.payload.name},
    )


def names(found):
    return {event.payload.guest_id: event.payload.name for event in found}


def with_guest(guests, event):
    return guests | {event.payload.guest_id: event.payload.name}


async def fail(event):
    raise ValueError(f"no address of {event.payload.name}")


class Hotel:
    """Everything of the library, on one database."""

    def __init__(self, store, wrapping):
        self.bind = store.bind
        self.keys = PostgresKeyStore(bind=store.bind, wrapping=wrapping)
        self.storage = PostgresSubscriptionStore(store.config, bind=store.bind)
        self.typed = TypedEventStore(store, events, keys=self.keys)
        self.store = store
        self.cache = AggregateCache()
        self.stays = Repository(
            store,
            events,
            Stay,
            keys=self.keys,
            snapshots=PostgresSnapshotStore(store.config, bind=store.bind),
            snapshot=every(1),
            cache=self.cache,
        )
        self.broker = InMemoryPublisher()

    async def check_in(self, guests=NAMES):
        for guest_id, name in guests.items():
            await self.stays.transact("s-1", lambda stay, one=(guest_id, name): stay.check_in(*one))

    async def run(self):
        """The read model, a handler that fails, and a relay, until they are caught up."""
        once = FailurePolicy(attempts=1)
        checked_in = events.names_of(CheckedIn)
        subscriptions = [
            Projection("guests", self.typed.handler(note), event_types=checked_in),
            Subscriber("mails", self.typed.handler(fail), failure=once, event_types=checked_in),
            Relay(self.broker, CloudEvents("urn:hotel", topic="stays")),
        ]
        await SubscriptionRunner(self.store, self.storage, subscriptions).run_until_caught_up()

    async def receive(self):
        """A consumer has handled what was published."""
        inbox = PostgresInbox("kitchen", self.store.config)
        async with self.bind.begin() as connection:
            for message in self.broker.messages:
                async with inbox.once(connection, message.message_id) as is_new:
                    assert is_new

    async def read(self):
        """The guests' names, which are the same in every way of reading."""
        loaded = names(await self.typed.load(STAY))
        assert loaded == names([event async for event in self.typed.stream(STAY)])
        assert loaded == (await self.stays.load("s-1")).guests
        assert loaded == (await self.typed.replay(STAY, with_guest, {})).state
        return loaded

    async def read_feed(self):
        return names([event async for event in self.typed.read_all(event_types=[CheckedIn])])

    async def tell_forgotten(self, guest_id):
        """Store the event that has a guest forgotten, and have it done."""
        stream_id = StreamId("forgotten", guest_id)
        await self.typed.append(stream_id, [GuestForgotten(guest_id=guest_id)])
        await self.forget_who_was_told()

    async def forget_who_was_told(self):
        async def forget(event, session):
            await self.keys.within(session).forget(event.payload.guest_id)

        handler, told = self.typed.handler(forget), events.names_of(GuestForgotten)
        forgetting = ProcessManager("forgetting", handler, event_types=told)
        await SubscriptionRunner(self.store, self.storage, [forgetting]).run_until_caught_up()

    async def export(self, selection=EVERYTHING):
        file = io.BytesIO()
        await export_events(self.store, file, selection)
        return file.getvalue()


@asynccontextmanager
async def hotel(dsn, wrapping=OLD, telemetry=None):
    """One that is open."""
    async with PostgresEventStore(EventStoreConfig(dsn=dsn)) as store:
        yield Hotel(store if telemetry is None else telemetry.store(store), wrapping)


@dataclass
class Told:
    """What telemetry and logs have told."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    metrics: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    logs: io.StringIO = field(default_factory=io.StringIO)

    def telemetry(self) -> Telemetry:
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        return Telemetry(tracer_provider, MeterProvider([self.metrics], shutdown_on_exit=False))

    @property
    def telemetry_text(self) -> bytes:
        spans = "".join(span.to_json() for span in self.spans.get_finished_spans())
        found: Any = self.metrics.get_metrics_data()
        return (spans + found.to_json()).encode()


def traces_in(data: bytes) -> set[str]:
    """The forms in which the sentinel stands there."""
    core = CORE.encode()
    forms = {"text": core, "hex": core.hex().encode(), "reversed": core[::-1]}
    forms["utf-16"] = CORE.encode("utf-16-le")
    for shift in range(3):
        # The letters at either end depend on what stands beside the sentinel.
        forms[f"base64 {shift}"] = b64encode(b"\0" * shift + core)[4 if shift else 0 : -4]
    return {name for name, form in forms.items() if form in data}


def tables_with_traces(dsn: str) -> set[str]:
    """The tables of the database, also those of the catalog, with the sentinel in a column."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'm') AND nspname NOT IN ('pg_toast')"
        ).fetchall()
        assert len(tables) > 70
        return {
            f"{schema}.{table}" for schema, table in tables if traces_in(_rows(connection, schema, table))
        }


def _rows(connection: psycopg.Connection, schema: str, table: str) -> bytes:
    """Every column as text."""
    statement = sql.SQL("COPY {}.{} TO STDOUT").format(sql.Identifier(schema), sql.Identifier(table))
    with connection.cursor().copy(statement) as copy:
        return b"".join(map(bytes, copy))


def files_with(folder: Path, secret: bytes) -> set[str]:
    """The files of a cluster in which these bytes stand, by what they are: "pg_wal", "base", ..."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the server has thrown it away meanwhile
            if path.is_file() and secret in path.read_bytes():
                found.add(path.relative_to(folder).parts[0])
    return found


async def pages_of(dsn: str) -> bytes:
    """What the stream browser shows."""
    lists = ["/", "/streams", "/stream?type=stay&id=s-1", "/events", "/types", "/subscriptions"]
    parked = ["/subscription?name=mails&version=1"]
    single = [f"/events/{position}{form}" for position in (1, 2) for form in ("", "/raw")]
    async with looking_at(event_browser(EventStoreConfig(dsn=dsn))) as client:
        pages = [await client.get(path) for path in lists + parked + single]
    assert [page.status_code for page in pages] == [200] * len(pages)
    return b"".join(page.content for page in pages)


@contextmanager
def listening(told: Told):
    """The logs of the library."""
    handler, logger = logging.StreamHandler(told.logs), logging.getLogger("k1s0_event_store")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def execute(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def prepared_server(**settings):
    """A server with the tables, and a read model."""
    with own_server(**settings) as server:
        migrate(server.dsn)
        execute(server.dsn, GUESTS)
        yield server


@contextmanager
def standby_of(primary: Server, **settings):
    standby = primary.copy(primary.folder.parent / "standby", **settings)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop()


def has_replayed(primary, standby):
    (place,) = execute(primary.dsn, "SELECT pg_current_wal_lsn()")[0]
    return execute(standby.dsn, f"SELECT pg_last_wal_replay_lsn() >= '{place}'") == [(True,)]
