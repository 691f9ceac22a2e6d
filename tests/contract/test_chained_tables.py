"""The contract suites on tables with the hash chain, which is unbroken after each test."""

import pytest

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.chain_reading import PostgresChain
from k1s0_event_store.testing.adapters import ThreadedEventStore
from k1s0_event_store.testing.contract import EventStoreContract, RacingContract
from k1s0_event_store.testing.import_contract import ImportContract, RacingImportContract

from ..chained import chained_template
from ..long_form import one_in


@pytest.fixture(scope="module")
def event_store_template(event_store_server, event_store_template):
    with chained_template(event_store_server, event_store_template) as name:
        yield name


@pytest.fixture(autouse=True)
async def unbroken(event_store_dsn):
    yield
    async with PostgresChain(EventStoreConfig(dsn=event_store_dsn)) as chain:
        assert [fault async for fault in chain.faults()] == []


@one_in(2)
class TestChainedPostgres(EventStoreContract, RacingContract, ImportContract, RacingImportContract):
    @pytest.fixture
    def store(self, event_store):
        return event_store


@one_in(4)
class TestChainedSyncPostgres(EventStoreContract, ImportContract):
    @pytest.fixture
    def store(self, sync_event_store):
        return ThreadedEventStore(sync_event_store)
