"""Data sets that users bring, by name and version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), unique=True),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text()),
        sa.Column("facts", sa.JSON()),
        sa.Column("rejected", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("ready_at", MOMENT),
        sa.CheckConstraint("status IN ('uploading', 'processing', 'ready', 'failed')", name="dataset_status"),
        sa.UniqueConstraint("name", "version", name="dataset_version"),
    )
    op.create_index("model_dataset", "models", ["dataset"])


def downgrade() -> None:
    op.drop_index("model_dataset", "models")
    op.drop_table("datasets")
