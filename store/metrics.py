"""Metrics of each epoch of a job."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sqlalchemy import BigInteger, literal, select
from sqlalchemy.orm import Session

from store.events import record
from store.queue import Claim, held
from store.tables import Metric

COLUMNS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "lr",
    "images_per_second",
    "seconds",
)


def record_epoch(session: Session, claim: Claim, epoch: int, values: Mapping[str, float]) -> None:
    """Writes an epoch's row; an epoch that is run again after a resume replaces its row."""
    held(session, claim)
    finite = {name: values[name] if math.isfinite(values[name]) else None for name in COLUMNS}
    row = Metric(job_id=claim.job_id, epoch=epoch, **finite, non_finite=None in finite.values())
    session.merge(row)
    record(session, claim.job_id, "epoch", {"epoch": epoch, **finite, "non_finite": row.non_finite})


def list_metrics(session: Session, job_id: str, *, after: int = 0, limit: int = 1000) -> list[Metric]:
    """Rows of a job above epoch `after`, in order."""
    # A cursor may be larger than any epoch; PostgreSQL would not even look for it among integers.
    later = Metric.epoch > literal(after, BigInteger)
    query = select(Metric).where(Metric.job_id == job_id, later).order_by(Metric.epoch).limit(limit)
    return list(session.scalars(query))
