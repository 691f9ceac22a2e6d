"""What all tests share."""

import psycopg
import pytest
from hypothesis import settings

from .long_form import left_out
from .pooler import pooled_dsn, running_pooler

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
