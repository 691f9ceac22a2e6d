"""The command `relay`: events and enqueued messages go to a broker, until a signal comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from k1s0_event_store.brokers.publisher import BrokerPublisher
from k1s0_event_store.brokers.urls import publisher_for
from k1s0_event_store.cli.imports import imported
from k1s0_event_store.cli.metrics import prometheus_telemetry
from k1s0_event_store.cli.options import Dsn, Schema, config_of
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.delivery import Notice
from k1s0_event_store.exceptions import BrokerUnavailableError, ConfigurationError
from k1s0_event_store.garbage import settle
from k1s0_event_store.postgres.store import PostgresEventStore
from k1s0_event_store.postgres.subscription import PostgresSubscriptionStore
from k1s0_event_store.process import Outages, log_to_stderr, until_signalled
from k1s0_event_store.relay.cloud_events import TOPIC, CloudEvents
from k1s0_event_store.relay.relay import Relay, ToMessage
from k1s0_event_store.runner import SubscriptionRunner
from k1s0_event_store.store import EventStore
from k1s0_event_store.subscription import SubscriptionStore
from k1s0_event_store.subscription_health import SubscriptionHealth

if TYPE_CHECKING:
    from k1s0_event_store.telemetry.prometheus import PrometheusTelemetry

logger = logging.getLogger("k1s0_event_store.process")

TO_VARIABLE: Final = "K1S0_EVENT_STORE_RELAY_TO"
_SOURCE: Final = "/k1s0-event-store"


class Only(StrEnum):
    """A part of what can be published."""

    EVENTS = "events"
    ENQUEUED = "enqueued"


def _seconds(value: float) -> float:
    if not 0 < value < inf:
        raise typer.BadParameter("it must be seconds above 0.")
    return value


To = Annotated[
    str,
    typer.Option(
        "--to",
        envvar=TO_VARIABLE,
        metavar="URL",
        help="The broker: kafka://, nats://, amqp:// or redis://",
    ),
]
Name = Annotated[str, typer.Option("--name", help="Name of the relay among the subscriptions.")]
OnlyThese = Annotated[
    Only | None, typer.Option("--only", help="Publish events only, or enqueued messages only.")
]
Topic = Annotated[str | None, typer.Option("--topic", help="Topic of an event, other than the one above.")]
Tier = Annotated[str | None, typer.Option("--tier", help="Stands for {tier} in the topic.")]
Domain = Annotated[str | None, typer.Option("--domain", help="Stands for {domain} in the topic.")]
Source = Annotated[str | None, typer.Option("--source", help=f"Source of the CloudEvents, else {_SOURCE}")]
Structured = Annotated[
    bool, typer.Option("--structured", help="CloudEvents whole as JSON, not with attributes as headers.")
]
MessageFunction = Annotated[
    str | None,
    typer.Option(
        "--message", metavar="MODULE:FUNCTION", help="Your function of an event, instead of CloudEvents."
    ),
]
Partitions = Annotated[int, typer.Option("--partitions", min=1, help="So many processes can share the work.")]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="So many streams are published at the same time.")
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", callback=_seconds, help="For one acknowledgement of the broker."
    ),
]
HealthAddress = Annotated[
    str | None,
    typer.Option(
        "--health", metavar="HOST:PORT", help="Answer /health, /live and /metrics; PORT: on 127.0.0.1."
    ),
]
AlarmAfter = Annotated[
    float,
    typer.Option(
        "--alarm-after",
        metavar="SECONDS",
        callback=_seconds,
        help="/health fails when an event waits longer.",
    ),
]
Once = Annotated[bool, typer.Option("--once", help="Publish what is there, then stop.")]


def relay(
    context: typer.Context,
    to: To,
    dsn: Dsn,
    schema: Schema = DEFAULT_SCHEMA,
    name: Name = "relay",
    only: OnlyThese = None,
    topic: Topic = None,
    tier: Tier = None,
    domain: Domain = None,
    source: Source = None,
    structured: Structured = False,
    message: MessageFunction = None,
    partitions: Partitions = 1,
    concurrency: Concurrency = 500,
    timeout: Timeout = 10.0,
    health: HealthAddress = None,
    alarm_after: AlarmAfter = 60.0,
    once: Once = False,
) -> None:
    """Publish events and enqueued messages to a broker, until a signal comes.

    At least once, and in order for each stream. While the broker is away it
    waits; SIGTERM and Ctrl-C let it finish what is in hand.

    Events are CloudEvents with the topic
    k1s0.{tier}.{domain}.{event-type}.{version}, unless you say otherwise.
    """
    config = config_of(dsn, schema, notify=True)  # it hears of appends where apps notify
    telemetry = None if health is None else prometheus_telemetry()
    process = _RelayProcess(config, health, alarm_after, once, telemetry)
    to_message = _to_message(
        only, message, topic=topic, tier=tier, domain=domain, source=source, structured=structured
    )
    debug = bool(context.find_root().params["debug"])

    async def run() -> int:
        publisher = publisher_for(to, timeout=timeout)
        relay = Relay(
            publisher if telemetry is None else telemetry.publisher(publisher),
            to_message,
            name=name,
            enqueued=only is not Only.EVENTS,
            concurrency=concurrency,
            partitions=partitions,
        )
        return await process.run(relay, publisher, debug)

    raise typer.Exit(asyncio.run(run()))


def _to_message(only: Only | None, message: str | None, **cloud_events: Any) -> ToMessage | None:
    """What makes messages of events; raises ConfigurationError for options that contradict each other."""
    given = [f"--{name}" for name, value in cloud_events.items() if value not in (None, False)]
    if only is Only.ENQUEUED:
        given += [] if message is None else ["--message"]
        if given:
            raise ConfigurationError(f"--only enqueued publishes no events: leave out {', '.join(given)}")
        return None
    if message is None:
        return _cloud_events(**cloud_events)
    if given:
        raise ConfigurationError(
            f"--message makes the messages, not CloudEvents: leave out {', '.join(given)}"
        )
    function: ToMessage = imported(message, "--message", "MODULE:FUNCTION", "shop.outbox:to_message")
    return function


def _cloud_events(
    topic: str | None, tier: str | None, domain: str | None, source: str | None, structured: bool
) -> CloudEvents:
    topic = TOPIC if topic is None else topic
    places = {"tier": tier, "domain": domain}
    missing = [f"--{place}" for place, value in places.items() if f"{{{place}}}" in topic and not value]
    if missing:
        raise ConfigurationError(
            f"the topic {topic} needs {' and '.join(missing)}; or give a --topic of your own, "
            "or with --message a function that makes the messages"
        )
    source = _SOURCE if source is None else source
    return CloudEvents(source, topic=topic, tier=tier, domain=domain, structured=structured)


@dataclass(frozen=True, slots=True)
class _RelayProcess:
    """Where a relay runs, and what it shows of itself."""

    config: EventStoreConfig
    health: str | None
    alarm_after: float
    once: bool
    telemetry: PrometheusTelemetry | None

    async def run(self, relay: Relay, publisher: BrokerPublisher, debug: bool) -> int:
        """Publish until a signal comes; returns the exit code."""
        outages = Outages()
        async with (
            PostgresEventStore(self.config) as store,
            PostgresSubscriptionStore(self.config, bind=store.bind) as storage,
            publisher,
            self._serving(storage, relay) as url,
        ):
            await store.read_page(None, 1)
            await storage.register(relay.name, relay.version, relay.partitions, repeats=relay.repeats)
            log_to_stderr(outages, debug=debug)
            settle()
            where = f"{self.config.masked_dsn}, schema {self.config.schema}"
            logger.info("relay %s: %s -> %s%s", relay.name, where, publisher.place, url)
            runner = self._runner(store, storage, relay, outages)
            exit_code = await until_signalled(runner, self._work(runner, publisher))
        logger.info("relay %s: stopped", relay.name)
        return exit_code

    def _runner(
        self, store: EventStore, storage: SubscriptionStore, relay: Relay, outages: Outages
    ) -> SubscriptionRunner:
        telemetry = self.telemetry
        if telemetry is None:
            return SubscriptionRunner(store, storage, [relay], observe=outages.observe)

        def observe(notice: Notice) -> None:
            outages.observe(notice)
            telemetry.observe(notice)

        telemetry.watch(storage)
        return SubscriptionRunner(telemetry.store(store), storage, [relay], observe=observe)

    async def _work(self, runner: SubscriptionRunner, publisher: BrokerPublisher) -> None:
        try:
            await publisher.connect()
        except BrokerUnavailableError as error:
            logger.warning("the broker is away, the relay waits for it: %s", error)
        await (runner.run_until_caught_up() if self.once else runner.run())

    @asynccontextmanager
    async def _serving(self, storage: SubscriptionStore, relay: Relay) -> AsyncIterator[str]:
        """Answer probes, if there is an address for them; yields words for the log."""
        if self.health is None:
            yield ""
            return
        try:
            from k1s0_event_store.web.health import health_app
            from k1s0_event_store.web.serving import serve
        except ImportError as error:
            raise ConfigurationError(
                "--health needs an extra: pip install 'k1s0-event-store[web]'"
            ) from error
        check = SubscriptionHealth(storage, relay.name, relay.version, alarm_after=self.alarm_after)
        metrics = None if self.telemetry is None else self.telemetry.render
        async with serve(health_app(check, metrics), self.health) as url:
            yield f", health at {url}/health"
