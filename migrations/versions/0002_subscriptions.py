"""Subscriptions: checkpoints, leases and parked events; the cluster that transaction ids belong to."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op as alembic_op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = (
    # One row: where the transaction ids in events.tx were drawn. They mean nothing in another cluster.
    """
    CREATE TABLE {schema}.cluster (
        system_identifier bigint NOT NULL,
        CONSTRAINT pk_cluster PRIMARY KEY (system_identifier)
    )
    """,
    "INSERT INTO {schema}.cluster SELECT system_identifier FROM pg_control_system()",
    # The checkpoint and the lease of a partition stand in one row: both are checked in one update.
    # fillfactor leaves room for the new version of a row on its own page (HOT updates).
    """
    CREATE TABLE {schema}.subscriptions (
        name text NOT NULL,
        version bigint NOT NULL,
        partition bigint NOT NULL,
        cursor text,
        replay_until text,
        handled bigint NOT NULL DEFAULT 0,
        live boolean NOT NULL DEFAULT false,
        repeats boolean NOT NULL DEFAULT true,
        paused boolean NOT NULL DEFAULT false,
        token bigint NOT NULL DEFAULT 0,
        owner text,
        leased_until timestamptz,
        error text,
        failed_at timestamptz,
        stopped boolean NOT NULL DEFAULT false,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_subscriptions PRIMARY KEY (name, version, partition),
        CONSTRAINT chk_subscriptions_numbers CHECK (version > 0 AND partition >= 0)
    ) WITH (fillfactor = 50)
    """,
    # One version of a subscription is live.
    "CREATE UNIQUE INDEX uq_subscriptions_live ON {schema}.subscriptions (name, partition) WHERE live",
    """
    CREATE TABLE {schema}.subscription_workers (
        name text NOT NULL,
        version bigint NOT NULL,
        worker text NOT NULL,
        alive_until timestamptz NOT NULL,
        CONSTRAINT pk_subscription_workers PRIMARY KEY (name, version, worker)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE {schema}.dead_letters (
        name text NOT NULL,
        version bigint NOT NULL,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        event_version bigint NOT NULL,
        partition bigint NOT NULL,
        event_type text NOT NULL,
        position bigint NOT NULL,
        error text,
        attempts bigint NOT NULL DEFAULT 0,
        retry boolean NOT NULL DEFAULT false,
        parked_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_dead_letters PRIMARY KEY
            (name, version, aggregate_type, aggregate_id, event_version)
    )
    """,
)

DOWN = (
    "DROP TABLE {schema}.dead_letters",
    "DROP TABLE {schema}.subscription_workers",
    "DROP TABLE {schema}.subscriptions",
    "DROP TABLE {schema}.cluster",
)


def up(op: Any, schema: str) -> None:
    """Apply this revision to `schema`."""
    _execute(op, schema, UP)


def down(op: Any, schema: str) -> None:
    """Take this revision back."""
    _execute(op, schema, DOWN)


def _execute(op: Any, schema: str, statements: tuple[str, ...]) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    for statement in statements:
        # A colon would start a bind parameter.
        op.execute(sa.text(statement.replace("{schema}", quoted).replace(":", "\\:")))


def upgrade() -> None:
    up(alembic_op, alembic_op.get_context().version_table_schema)


def downgrade() -> None:
    down(alembic_op, alembic_op.get_context().version_table_schema)
