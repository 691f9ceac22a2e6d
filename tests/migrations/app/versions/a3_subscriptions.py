"""The event store's next revision, as a later version of the library brings it."""

from __future__ import annotations

from alembic import op

from k1s0_event_store.postgres import schema

revision = "a3"
down_revision = "a2"


def _schema() -> str:
    """An app writes the name here; the tests try several."""
    return op.get_context().config.attributes["event_store_schema"]


def upgrade() -> None:
    schema.upgrade(op, schema=_schema(), to="0002")


def downgrade() -> None:
    schema.downgrade(op, schema=_schema(), to="0001")
