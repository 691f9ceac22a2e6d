"""${message}"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op as alembic_op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def up(op: Any, schema: str) -> None:
    """Apply this revision to `schema`."""


def down(op: Any, schema: str) -> None:
    """Take this revision back."""


def upgrade() -> None:
    up(alembic_op, alembic_op.get_context().version_table_schema)


def downgrade() -> None:
    down(alembic_op, alembic_op.get_context().version_table_schema)
