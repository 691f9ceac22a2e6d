"""Databases whose events are chained, and what changes them past all guards."""

from contextlib import contextmanager

import psycopg
from sqlalchemy.pool import NullPool

from k1s0_event_store import EventStoreConfig
from k1s0_event_store.postgres.chain import add_chain
from k1s0_event_store.postgres.connection import create_sync_store_engine
from k1s0_event_store.testing.plugin import cloned_database


def add(dsn, schema="eventstore"):
    """Chain the events; what `add_chain` returns."""
    engine = create_sync_store_engine(EventStoreConfig(dsn=dsn, engine_options={"poolclass": NullPool}))
    with engine.begin() as connection:
        return add_chain(connection, schema)


@contextmanager
def chained_template(server, template):
    """Name of a database like `template` with the chain."""
    with cloned_database(server, template) as dsn:
        add(dsn)
        yield dsn.partition("?")[0].rpartition("/")[2]


def tamper(dsn, *statements):
    """Change the tables as an owner who has switched the triggers off."""
    with psycopg.connect(dsn) as connection:
        connection.execute("ALTER TABLE eventstore.events DISABLE TRIGGER ALL")
        connection.execute("SET search_path = eventstore")
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("ALTER TABLE eventstore.events ENABLE TRIGGER ALL")
