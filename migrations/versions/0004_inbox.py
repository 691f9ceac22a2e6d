"""The inbox: the messages that consumers have handled."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op as alembic_op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = (
    """
    CREATE TABLE {schema}.inbox (
        consumer text NOT NULL,
        message_id text NOT NULL,
        handled_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_inbox PRIMARY KEY (consumer, message_id)
    )
    """,
    # For deleting what is old.
    "CREATE INDEX idx_inbox_handled_at ON {schema}.inbox (consumer, handled_at)",
)

# Without the marks a message that is delivered again is handled again.
DOWN = ("DROP TABLE {schema}.inbox",)


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
