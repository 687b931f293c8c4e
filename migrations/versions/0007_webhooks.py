"""Messages about ends of jobs that are still to be delivered, and why a worker starts no training."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("since", MOMENT, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
    )
    op.add_column("workers", sa.Column("hold", sa.JSON()))
    op.create_index("delivery_due", "deliveries", ["due_at", "number"])


def downgrade() -> None:
    op.drop_column("workers", "hold")
    op.drop_table("deliveries")
    op.drop_table("webhooks")
