"""What all tests share."""

import itertools
import os

import psycopg
import pytest
from hypothesis import settings
from sqlalchemy.pool import NullPool

from k1s0_event_store.config import EventStoreConfig, join_url, split_url
from k1s0_event_store.postgres.connection import create_sync_store_engine
from k1s0_event_store.postgres.rights import Role, grant
from k1s0_event_store.postgres.tenants import add_tenants
from k1s0_event_store.testing.plugin import cloned_database

from .long_form import left_out
from .pooler import pooled_dsn, running_pooler

_numbers = itertools.count(1)

# No test fails because the machine is slow.
settings.register_profile(
    "no deadline", settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("no deadline")


def pytest_collection_modifyitems(config, items):
    if deselected := left_out(items):
        config.hook.pytest_deselected(items=deselected)
        out = set(deselected)
        items[:] = [item for item in items if item not in out]


@pytest.fixture
def sql(event_store_dsn):
    """Run SQL past the library; the rows of the answer."""
    with psycopg.connect(event_store_dsn, autocommit=True) as connection:

        def run(statement, *args):
            cursor = connection.execute(statement, args or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture(scope="session")
def pooler_folder(event_store_server):
    with running_pooler(event_store_server, default_pool_size=2) as folder:
        yield folder


@pytest.fixture
def pooler(pooler_folder, event_store_dsn):
    """DSN through a PgBouncer in transaction mode that has two connections to the test's database."""
    return pooled_dsn(pooler_folder, event_store_dsn)


def new_engine(dsn):
    """A blocking engine that keeps no connection."""
    return create_sync_store_engine(EventStoreConfig(dsn=dsn, engine_options={"poolclass": NullPool}))


@pytest.fixture
def make_engine():
    """Blocking engines that keep no connection."""
    return new_engine


def new_login(dsn):
    """Name of a new role of the server."""
    name = f"k1s0_role_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    return name


def login_dsn(dsn, name):
    """`dsn` for another role."""
    split = split_url(dsn)
    host = split.netloc.rpartition("@")[2]
    return join_url(split._replace(netloc=f"{name}:secret@{host}"))


@pytest.fixture
def make_role():
    """Logins: for a database and what they are there, the DSN."""
    made = []

    def make(dsn, roles):
        role = new_login(dsn)
        made.append((dsn, role))
        with new_engine(dsn).begin() as connection:
            grant(connection, roles, role)
        return login_dsn(dsn, role)

    yield make
    for dsn, role in made:
        with psycopg.connect(dsn) as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(scope="session")
def tenants_login(event_store_server):
    """A role that may do all that an app does; it owns nothing, and passes by no policy."""
    name = new_login(event_store_server)
    yield name
    with psycopg.connect(event_store_server) as connection:
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def tenants_template(event_store_server, event_store_template, tenants_login):
    """Name of a database whose tables keep tenants apart, that nobody is connected to."""
    with cloned_database(event_store_server, event_store_template) as dsn:
        with new_engine(dsn).begin() as connection:
            add_tenants(connection)
            grant(connection, [role for role in Role if role is not Role.OWNER], tenants_login)
            # For a table of the app's.
            connection.exec_driver_sql(f"GRANT CREATE ON SCHEMA public TO {tenants_login}")
        yield split_url(dsn).path.removeprefix("/")


@pytest.fixture
def tenants_owner_dsn(event_store_server, tenants_template):
    """DSN of a superuser, for a database of this test's own whose tables keep tenants apart."""
    with cloned_database(event_store_server, tenants_template) as dsn:
        yield dsn


@pytest.fixture
def tenants_dsn(tenants_owner_dsn, tenants_login):
    """DSN of the app's role there."""
    return login_dsn(tenants_owner_dsn, tenants_login)


@pytest.fixture
def acme(tenants_dsn):
    """Settings of a tenant."""
    return EventStoreConfig(dsn=tenants_dsn, tenant="acme")
