"""Streams, events and snapshots; events can only be added."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op as alembic_op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UP = (
    # The head row of a stream: locked, checked and moved by every append.
    # fillfactor leaves room for the new version of a row on its own page (HOT updates).
    """
    CREATE TABLE {schema}.streams (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_streams PRIMARY KEY (aggregate_type, aggregate_id),
        CONSTRAINT chk_streams_version CHECK (version >= 0)
    ) WITH (fillfactor = 80)
    """,
    # Every unique key holds aggregate_id, so that the table can be distributed or partitioned by it.
    # position and tx are drawn by the insert: the store-wide order and who is still writing.
    """
    CREATE TABLE {schema}.events (
        position bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
        tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_id uuid NOT NULL,
        event_type text NOT NULL,
        payload jsonb NOT NULL,
        metadata jsonb NOT NULL,
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT uq_events_version UNIQUE (aggregate_type, aggregate_id, version),
        CONSTRAINT uq_events_event_id UNIQUE (event_id, aggregate_id),
        CONSTRAINT chk_events_version CHECK (version > 0)
    )
    """,
    "CREATE INDEX idx_events_position ON {schema}.events (position)",
    "CREATE INDEX idx_events_tx_position ON {schema}.events (tx, position)",
    """
    CREATE TABLE {schema}.snapshots (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        schema_version bigint NOT NULL,
        state jsonb NOT NULL,
        taken_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_snapshots PRIMARY KEY (aggregate_type, aggregate_id, version)
    )
    """,
    # Set by a trigger, so that a writer needs the right to update nothing but the version.
    """
    CREATE FUNCTION {schema}.streams_touch() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at = pg_catalog.now();
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER trigger_streams_update_updated_at BEFORE UPDATE ON {schema}.streams
    FOR EACH ROW EXECUTE FUNCTION {schema}.streams_touch()
    """,
    """
    CREATE FUNCTION {schema}.events_refuse_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog AS $$
    BEGIN
        RAISE EXCEPTION 'events are append-only: % is refused', TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Append an event that corrects the earlier one.';
    END
    $$
    """,
    """
    CREATE TRIGGER trigger_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.events_refuse_change()
    """,
)

DOWN = (
    "DROP TABLE {schema}.snapshots",
    "DROP TABLE {schema}.events",
    "DROP TABLE {schema}.streams",
    "DROP FUNCTION {schema}.events_refuse_change()",
    "DROP FUNCTION {schema}.streams_touch()",
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
