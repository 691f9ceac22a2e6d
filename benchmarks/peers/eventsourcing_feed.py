"""eventsourcing 9.5.6 for the comparison of projections: its ProjectionRunner, and a view whose rows
and tracking commit together, as its documentation shows."""

import threading
import time
from uuid import UUID

import eventsourcing_pg
from _common import parse_dsn
from _read_model import COUNT, EMPTY, PLACED, TABLE
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import Environment, register_topic
from eventsourcing_pg import append
from psycopg.sql import SQL

__all__ = ["append", "clear", "project", "rows", "setup"]

env: dict[str, str] = {}
view = None
last = 0
done = threading.Event()


class Happened:
    originator_id: UUID
    originator_version: int
    total: float


register_topic(eventsourcing_pg.TOPIC, Happened)


class Bench(Application):
    """Its events are in bench_events, where eventsourcing_pg writes them."""


class Rows(PostgresTrackingRecorder):
    def __init__(self, datastore, **options) -> None:
        super().__init__(datastore, **options)
        self.sql_create_statements.append(SQL(TABLE.format(id="bigint")))

    def add(self, event: Happened, tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            row = (tracking.notification_id, str(event.originator_id), event.originator_version, event.total)
            cursor.execute(PLACED, row, prepare=True)


class RowPerEvent(Projection[Rows]):
    name = "rows"

    def process_event(self, domain_event: Happened, tracking) -> None:
        self.view.add(domain_event, tracking)
        if tracking.notification_id == last:
            done.set()


def setup(dsn: str, pool_size: int = 10) -> None:
    global env, view
    eventsourcing_pg.setup(dsn, pool_size)
    parts = {f"POSTGRES_{key.upper()}": value for key, value in parse_dsn(dsn).items()}
    env = {"PERSISTENCE_MODULE": "eventsourcing.postgres", **parts}
    view = InfrastructureFactory.construct(Environment(RowPerEvent.name, env)).tracking_recorder(Rows)


def clear() -> None:
    global last
    with view.datastore.transaction(commit=True) as cursor:
        cursor.execute(EMPTY)
        cursor.execute("DELETE FROM rows_tracking WHERE application_name = %s", (Bench.name,))
    last = eventsourcing_pg.rec.max_notification_id()
    done.clear()


def rows() -> int:
    with view.datastore.transaction() as cursor:
        return cursor.execute(COUNT).fetchone()["count"]


def project() -> float:
    with ProjectionRunner(
        application_class=Bench, projection_class=RowPerEvent, view_class=Rows, env=env
    ) as runner:
        while not done.wait(0.1) and not runner.is_interrupted.is_set():
            pass
        return time.perf_counter()
