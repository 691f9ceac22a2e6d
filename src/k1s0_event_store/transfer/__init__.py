"""Events out of a store and into another one, as JSON Lines."""

from k1s0_event_store.transfer.exporting import Selection, export_events
from k1s0_event_store.transfer.importing import import_events

__all__ = ["Selection", "export_events", "import_events"]
