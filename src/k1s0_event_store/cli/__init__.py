"""The command line `k1s0-event-store`."""

from k1s0_event_store.cli.main import app, main

__all__ = ["app", "main"]
