"""Counting events exactly: the one question that reads the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind
from k1s0_event_store.postgres.statements import Query, schema_names, statement

# One scan: what is older than $1 is a group of its own (NULL) in each type.
_COUNTS: Final = """
SELECT aggregate_type, event_type,
       CASE WHEN recorded_at >= $1::timestamptz THEN (recorded_at AT TIME ZONE 'UTC')::date END AS day,
       count(*)
FROM {events} GROUP BY aggregate_type, event_type, day ORDER BY aggregate_type, event_type, day"""


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events of a type were recorded on a day, in UTC; `day` None: before the days asked for."""

    aggregate_type: str
    event_type: str
    day: date | None
    events: int


class PostgresStatistics(AsyncClient):
    """Exact numbers about a store on PostgreSQL. Made as a PostgresEventStore is."""

    def __init__(self, config: EventStoreConfig | None = None, *, bind: AsyncBind | None = None) -> None:
        super().__init__(config, bind=bind)
        self._counts = statement(_COUNTS, **schema_names(self.config.schema))

    async def counts(self, since: datetime) -> Sequence[EventCount]:
        """All events by type, and those recorded since a moment by day too; reads every event's row."""
        return [EventCount(*row) for row in await self._runner.fetch(Query(self._counts, (since,)))]
