"""The tables. Types are portable: the same schema runs on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JOB_STATUSES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
DATASET_STATUSES = ("uploading", "processing", "ready", "failed")
ALIAS_ACTIONS = ("set", "rollback", "remove")

# SQLite numbers rows by itself only where the key is exactly INTEGER.
BigKey = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


class Table(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Worker(Table):
    """One life of a worker process; `beat` counts its heartbeats.

    `devices` are the names that it trains on; `findings` say why, once it has looked. `hold` is the
    `reason` for which it starts no training now, with a `message`.
    """

    __tablename__ = "workers"

    incarnation: Mapped[str] = mapped_column(String(36), primary_key=True)
    place: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    pid_created: Mapped[float]
    devices: Mapped[list[Any]]
    findings: Mapped[list[Any] | None] = mapped_column(JSON, default=None)
    hold: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    beat: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]


class Job(Table):
    """A job: `attempt` counts its claims and fences every write of a worker."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"status IN {JOB_STATUSES}", name="job_status"),
        Index("job_queue", "status", "priority", "number"),
    )

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    spec: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(10), default="queued")
    phase: Mapped[str | None] = mapped_column(String(20), default=None)
    reason: Mapped[str | None] = mapped_column(String(40), default=None)
    message: Mapped[str | None] = mapped_column(Text, default=None)
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None] = mapped_column(ForeignKey("workers.incarnation", ondelete="SET NULL"), default=None)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    step: Mapped[int] = mapped_column(BigInteger, default=0)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)


class IdempotencyKey(Table):
    """A key that a client gave with a request that made a job, and what that request was."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Webhook(Table):
    """That ends of jobs are told: entered by a service whose settings have an address, which are not kept here."""

    __tablename__ = "webhooks"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    since: Mapped[datetime] = mapped_column(default=now)


class Delivery(Table):
    """A message that is still to be delivered, as it was when it was written; nobody sends it before `due_at`."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("delivery_due", "due_at", "number"),)

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    body: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    due_at: Mapped[datetime] = mapped_column(default=now)


class Metric(Table):
    """One epoch of a job. A number that was not finite is NULL, with `non_finite` set."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    train_loss: Mapped[float | None]
    train_accuracy: Mapped[float | None]
    validation_loss: Mapped[float | None]
    validation_accuracy: Mapped[float | None]
    lr: Mapped[float | None]
    images_per_second: Mapped[float | None]
    seconds: Mapped[float | None]
    non_finite: Mapped[bool] = mapped_column(default=False)


class Event(Table):
    """Something that happened to a job; `number` is the id of a server-sent event."""

    __tablename__ = "events"
    __table_args__ = (Index("event_job", "job_id", "number"),)

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(20))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(default=now)


class Checkpoint(Table):
    """A checkpoint directory of a job, complete on disk before its row is written."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "directory", name="checkpoint_directory"),)

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    directory: Mapped[str] = mapped_column(String(60))
    attempt: Mapped[int]
    epoch: Mapped[int]
    step: Mapped[int] = mapped_column(BigInteger)
    best: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Dataset(Table):
    """A data set that somebody brought: its files do not change once it is ready. `facts` say what is in it."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint(f"status IN {DATASET_STATUSES}", name="dataset_status"),
        UniqueConstraint("name", "version", name="dataset_version"),
    )

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    status: Mapped[str] = mapped_column(String(12))
    spec: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True, default=None)
    reason: Mapped[str | None] = mapped_column(String(40), default=None)
    message: Mapped[str | None] = mapped_column(Text, default=None)
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    rejected: Mapped[list[Any]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(default=now)
    ready_at: Mapped[datetime | None] = mapped_column(default=None)


class CountedFigures(Table):
    """Parameters and multiply-accumulates of a network; `key` is a SHA-256 over all that they depend on."""

    __tablename__ = "figures"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    parameters: Mapped[int] = mapped_column(BigInteger)
    macs: Mapped[int] = mapped_column(BigInteger)
    counted_at: Mapped[datetime] = mapped_column(default=now)


class Model(Table):
    """A published model; its files are immutable, its name and aliases are not part of them."""

    __tablename__ = "models"
    __table_args__ = (Index("model_name", "name", "number"), Index("model_dataset", "dataset"))

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(12))
    status: Mapped[str] = mapped_column(String(10))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset: Mapped[str] = mapped_column(String(40))
    parent: Mapped[str | None] = mapped_column(String(40))
    family: Mapped[str] = mapped_column(String(40))
    weights_sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]]
    latency: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    # A row for each layer: read for itself only, not with lists of models.
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON, deferred=True, default=None)
    # Of the test images: [class, the class it was taken for, how many], for each pair that there is.
    confusion: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True, default=None)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Alias(Table):
    """A name that points at a model and can be moved."""

    __tablename__ = "aliases"

    alias: Mapped[str] = mapped_column(String(100), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    updated_at: Mapped[datetime] = mapped_column(default=now)


class AliasMove(Table):
    """Since when an alias pointed where; nowhere (NULL) after it was removed.

    Models may be deleted while moves tell of them, so the id is no foreign key and the name is kept. A rollback
    bears the number of the move that it `restores`: the next one looks for what was before that.
    """

    __tablename__ = "alias_moves"
    __table_args__ = (
        CheckConstraint(f"action IN {ALIAS_ACTIONS}", name="alias_action"),
        Index("alias_move", "alias", "number"),
    )

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    alias: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(10))
    model_id: Mapped[str | None] = mapped_column(String(40))
    model_name: Mapped[str | None] = mapped_column(String(100))
    restores: Mapped[int | None] = mapped_column(BigInteger, default=None)
    at: Mapped[datetime] = mapped_column(default=now)
