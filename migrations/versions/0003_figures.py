"""Figures of networks, counted once; what workers found out about their devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "figures",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("macs", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", MOMENT, nullable=False),
    )
    op.add_column("workers", sa.Column("findings", sa.JSON()))


def downgrade() -> None:
    op.drop_column("workers", "findings")
    op.drop_table("figures")
