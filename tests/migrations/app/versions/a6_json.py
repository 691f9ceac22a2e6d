"""One more revision of the event store's."""

from __future__ import annotations

from alembic import op

from k1s0_event_store.postgres import schema

revision = "a6"
down_revision = "a5"


def _schema() -> str:
    """An app writes the name here; the tests try several."""
    return op.get_context().config.attributes["event_store_schema"]


def upgrade() -> None:
    schema.upgrade(op, schema=_schema(), to="0005")


def downgrade() -> None:
    schema.downgrade(op, schema=_schema(), to="0004")
