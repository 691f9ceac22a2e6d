"""The key store on PostgreSQL, for asyncio."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from k1s0_event_store.config import EventStoreConfig
from k1s0_event_store.exceptions import ConfigurationError
from k1s0_event_store.keys import DataKey, KeyStore, WrappingKeys
from k1s0_event_store.postgres import key_operations as operations
from k1s0_event_store.postgres.client import AsyncClient
from k1s0_event_store.postgres.connection import AsyncBind


class PostgresKeyStore(AsyncClient, KeyStore):
    """Key store on PostgreSQL for asyncio; made, joined and closed as PostgresEventStore is.

    Data keys are stored encrypted with `wrapping`, which stays outside the database: whoever has
    the database alone, or a backup of it, reads nothing personal. To share one pool with an event
    store give it `bind=event_store.bind`.
    """

    def __init__(
        self,
        config: EventStoreConfig | None = None,
        *,
        bind: AsyncBind | None = None,
        wrapping: WrappingKeys,
    ) -> None:
        if not isinstance(wrapping, WrappingKeys):
            raise ConfigurationError(f"wrapping must be WrappingKeys(...), not {type(wrapping).__name__}")
        super().__init__(config, bind=bind)
        self._statements = operations.key_statements_for(self.config.schema)
        self._wrapping = wrapping

    async def for_subjects(self, subjects: Collection[str]) -> Mapping[str, DataKey]:
        self._check_open()
        return await self._run(operations.for_subjects(self._statements, self._wrapping, subjects))

    async def find(self, key_ids: Collection[str]) -> Mapping[str, DataKey]:
        self._check_open()
        return await self._run(operations.find(self._statements, self._wrapping, key_ids))

    async def forget(self, subject: str) -> bool:
        return await self._run(operations.forget(self._statements, subject))

    async def rotate(self) -> int:
        """Encrypt all data keys that are not under the current wrapping key with it; how many they were.

        Works in batches beside readers and writers, and can be repeated. First give the new key to
        all processes, then make it `current` in all of them, then rotate; then the old one can go.
        Raises ConfigurationError where a data key is under a wrapping key that is not given.
        """
        return await self._run(operations.rotate(self._statements, self._wrapping))
