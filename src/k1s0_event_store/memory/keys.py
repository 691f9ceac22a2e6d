"""The key store in memory."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, Self

from k1s0_event_store.keys import (
    DataKey,
    KeyStore,
    check_key_ids,
    check_subject,
    check_subjects,
    new_data_key,
)
from k1s0_event_store.memory.store import check_open


class InMemoryKeyStore(KeyStore):
    """Key store in memory."""

    def __init__(self) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._by_subject: dict[str, DataKey] = {}
        self._by_id: dict[str, DataKey] = {}

    def within(self, session: Any) -> Self:
        return self

    async def close(self) -> None:
        self._closed = True

    async def for_subjects(self, subjects: Collection[str]) -> Mapping[str, DataKey]:
        check_open(self._closed)
        wanted = check_subjects(subjects)
        with self._lock:
            return {subject: self._key_of(subject) for subject in wanted}

    async def find(self, key_ids: Collection[str]) -> Mapping[str, DataKey]:
        check_open(self._closed)
        wanted = check_key_ids(key_ids)
        with self._lock:
            return {key_id: self._by_id[key_id] for key_id in wanted if key_id in self._by_id}

    async def forget(self, subject: str) -> bool:
        check_open(self._closed)
        with self._lock:
            key = self._by_subject.pop(check_subject(subject), None)
            if key is not None:
                del self._by_id[key.key_id]
            return key is not None

    def _key_of(self, subject: str) -> DataKey:
        key = self._by_subject.get(subject)
        if key is None:
            key = self._by_subject[subject] = new_data_key()
            self._by_id[key.key_id] = key
        return key
