"""The keys that personal data is encrypted with, one per subject."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op as alembic_op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = (
    # secret is encrypted with the wrapping key of that name, which the app keeps outside the database.
    # Forgetting a subject deletes the row: what was encrypted with its key can never be read again.
    """
    CREATE TABLE {schema}.personal_keys (
        key_id uuid NOT NULL,
        subject text NOT NULL,
        wrapping_key text NOT NULL,
        secret bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT pk_personal_keys PRIMARY KEY (key_id),
        CONSTRAINT uq_personal_keys_subject UNIQUE (subject)
    )
    """,
)

# With the keys goes all personal data in the events.
DOWN = ("DROP TABLE {schema}.personal_keys",)


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
