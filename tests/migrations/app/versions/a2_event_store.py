"""The event store's tables, between two changes of the app's own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from k1s0_event_store.postgres import schema

revision = "a2"
down_revision = "a1"


def _schema() -> str:
    """An app writes the name here; the tests try several."""
    return op.get_context().config.attributes["event_store_schema"]


def upgrade() -> None:
    schema.upgrade(op, schema=_schema(), to="0001")
    op.add_column("orders", sa.Column("status", sa.Text))


def downgrade() -> None:
    op.drop_column("orders", "status")
    schema.downgrade(op, schema=_schema(), to="base")
