"""The server is killed within a migration: the old revision stands, whole, and an upgrade goes on."""

import pytest
from sqlalchemy import event

from k1s0_event_store import EventStoreConfig, PostgresEventStore, StoreUnavailableError, StreamId
from k1s0_event_store.postgres.connection import in_transaction
from k1s0_event_store.postgres.schema import (
    _revisions,
    current_revision,
    downgrade_database,
    upgrade_database,
)
from k1s0_event_store.testing.contract import new_events

from .servers import own_server

REVISIONS = ["base", *(module.revision for module in _revisions())]
ORDER = StreamId("order", "o-1")


@pytest.fixture(scope="module")
def server():
    with own_server() as server:
        yield server


def after_statement(connection, number, act):
    """Call `act` after so many statements of a connection."""
    count = 0

    def executed(*_args):
        nonlocal count
        count += 1
        if count == number:
            act()

    event.listen(connection, "after_cursor_execute", executed)
    return lambda: count


async def statements_of(config, revision):
    """How many statements an upgrade to `revision` takes; it is taken back."""

    def count(connection):
        counted = after_statement(connection, 0, lambda: None)
        upgrade_database(connection, to=revision)
        connection.rollback()
        return counted()

    return await in_transaction(config, count)


async def revision_of(config):
    return await in_transaction(config, current_revision)


async def migrate(config, migrate, revision):
    await in_transaction(config, lambda connection: migrate(connection, to=revision))


async def kill_during(config, server, migrate, revision, number):
    """Kill the server after a statement of a migration, and start it again."""

    def work(connection):
        after_statement(connection, number, server.kill)
        migrate(connection, to=revision)

    with pytest.raises(StoreUnavailableError):
        await in_transaction(config, work)
    server.start()


@pytest.mark.parametrize("number", range(1, len(REVISIONS)))
async def test_a_server_killed_within_an_upgrade_is_at_the_old_revision_and_can_be_upgraded(server, number):
    config = EventStoreConfig(dsn=server.dsn)
    before, revision = REVISIONS[number - 1 : number + 1]
    await migrate(config, downgrade_database, "base")
    if before != "base":
        await migrate(config, upgrade_database, before)
    count = await statements_of(config, revision)
    for killed_at in (1, count // 2, count):
        await kill_during(config, server, upgrade_database, revision, killed_at)
        assert await revision_of(config) == before
    await migrate(config, upgrade_database, revision)
    server.kill()
    server.start()
    assert await revision_of(config) == revision
    await is_good_at_head(config)


async def is_good_at_head(config):
    await migrate(config, upgrade_database, "head")
    async with PostgresEventStore(config) as store:
        await store.validate()
        assert await store.append(ORDER, new_events(ORDER, 3)) == 3
        assert len([event async for event in store.read_all()]) == 3


async def test_a_server_killed_within_a_downgrade_has_all_that_it_had(server):
    config = EventStoreConfig(dsn=server.dsn)
    await migrate(config, downgrade_database, "base")
    await is_good_at_head(config)
    for killed_at in (3, 10):
        await kill_during(config, server, downgrade_database, "base", killed_at)
        assert await revision_of(config) == REVISIONS[-1]
    async with PostgresEventStore(config) as store:
        await store.validate()
        assert len(await store.load(ORDER)) == 3
