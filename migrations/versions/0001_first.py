"""Workers, jobs and what they leave: metrics, events, checkpoints, models, aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATUSES = "'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled'"


def upgrade() -> None:
    _create_workers()
    _create_jobs()
    _create_records()
    _create_checkpoints()
    _create_models()


def downgrade() -> None:
    for table in ("aliases", "models", "checkpoints", "events", "metrics", "idempotency_keys", "jobs", "workers"):
        op.drop_table(table)


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("incarnation", sa.String(36), primary_key=True),
        sa.Column("place", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_created", sa.Double(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("beat", sa.Integer(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("beat_at", MOMENT, nullable=False),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("phase", sa.String(20)),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(36), sa.ForeignKey("workers.incarnation", ondelete="SET NULL")),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.CheckConstraint(f"status IN ({STATUSES})", name="job_status"),
    )
    op.create_index("job_queue", "jobs", ["status", "priority", "number"])
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )


def _create_records() -> None:
    op.create_table(
        "metrics",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("epoch", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("train_loss", sa.Double()),
        sa.Column("train_accuracy", sa.Double()),
        sa.Column("validation_loss", sa.Double()),
        sa.Column("validation_accuracy", sa.Double()),
        sa.Column("lr", sa.Double()),
        sa.Column("images_per_second", sa.Double()),
        sa.Column("seconds", sa.Double()),
        sa.Column("non_finite", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
    )
    op.create_index("event_job", "events", ["job_id", "number"])


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("directory", sa.String(60), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("best", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.UniqueConstraint("job_id", "directory", name="checkpoint_directory"),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), nullable=False, unique=True),
        sa.Column("dataset", sa.String(40), nullable=False),
        sa.Column("parent", sa.String(40)),
        sa.Column("family", sa.String(40), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("latency", sa.JSON()),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_index("model_name", "models", ["name", "number"])
    op.create_table(
        "aliases",
        sa.Column("alias", sa.String(100), primary_key=True),
        sa.Column("model_id", sa.String(40), sa.ForeignKey("models.id"), nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
