"""Which classes a model takes for which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("confusion", sa.JSON()))


def downgrade() -> None:
    op.drop_column("models", "confusion")
