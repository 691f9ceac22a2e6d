"""The command `ui`: the stream browser, for as long as one looks."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Annotated, Any, Final

import typer

from k1s0_event_store.cli.imports import imported
from k1s0_event_store.cli.metrics import prometheus_telemetry
from k1s0_event_store.cli.options import Dsn, Schema, config_of, opened
from k1s0_event_store.config import DEFAULT_SCHEMA, EventStoreConfig
from k1s0_event_store.exceptions import ConfigurationError, StoreUnavailableError
from k1s0_event_store.postgres.inspector import PostgresInspector
from k1s0_event_store.process import Outages, log_to_stderr

_ADDRESS: Final = "127.0.0.1:8021"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Listen = Annotated[
    str,
    typer.Option(
        "--listen", metavar="HOST:PORT", help="Where to serve. Elsewhere than on this machine needs a token."
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="K1S0_EVENT_STORE_UI_TOKEN",
        show_default=False,
        help="Whoever looks has to log in with it. Others see an option of a command: use the variable.",
    ),
]
ProxyHeader = Annotated[
    str | None,
    typer.Option("--proxy-header", metavar="NAME", help="A proxy in front says who asks in this header."),
]
AllowActions = Annotated[
    bool,
    typer.Option("--allow-actions", help="Let subscriptions be paused, resumed, rebuilt; parked events too."),
]
AggregatesPlace = Annotated[
    str | None,
    typer.Option(
        "--aggregates", metavar="MODULE:NAME", help="Repositories, or a function of the store: show states."
    ),
]


def ui(
    context: typer.Context,
    dsn: Dsn,
    listen: Listen = _ADDRESS,
    token: Token = None,
    proxy_header: ProxyHeader = None,
    allow_actions: AllowActions = False,
    aggregates: AggregatesPlace = None,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Show the store in a web browser, until Ctrl-C.

    It reads only, unless --allow-actions is given, and answers this machine
    only, unless --listen names another address; then whoever looks needs the
    token, or comes through a proxy that says who it is.
    """
    log_to_stderr(Outages(), debug=bool(context.find_root().params["debug"]))
    options: dict[str, Any] = {
        "token": token or None,
        "user_header": proxy_header,
        "allow_actions": allow_actions,
        "aggregates": ()
        if aggregates is None
        else imported(aggregates, "--aggregates", "MODULE:NAME", "shop.orders:repositories"),
    }
    asyncio.run(_serve(config_of(dsn, schema), listen, options))


async def _serve(config: EventStoreConfig, listen: str, options: dict[str, Any]) -> None:
    try:
        from k1s0_event_store.web.app import event_browser
        from k1s0_event_store.web.health import metrics_route
        from k1s0_event_store.web.serving import serve_browser
    except ImportError as error:
        raise ConfigurationError("ui needs an extra: pip install 'k1s0-event-store[web]'") from error
    with suppress(StoreUnavailableError):  # it may come later
        async with opened(PostgresInspector(config)):
            pass
    app = event_browser(config, **options)
    telemetry = prometheus_telemetry()
    if telemetry is not None:
        telemetry.watch(app.state.browser.subscriptions)
        app.routes.append(metrics_route(telemetry.render))
    async with serve_browser(app, listen) as url:
        typer.echo(f"{config.masked_dsn}, schema {config.schema}: look at {url}/ (Ctrl-C ends it)")
        await _signalled()


async def _signalled() -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
