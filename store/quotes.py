"""What trainings were said to take, and what they took: the one corrects the other."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from specs.jobs import DistillSpec, TrainSpec
from store.metrics import list_metrics
from store.queue import Claim
from store.tables import Job

LOOKED_AT = 200


def key_of(spec: TrainSpec | DistillSpec) -> str:
    """Tells trainings apart that take different times: a SHA-256 of all but the name, in hexadecimal."""
    return hashlib.sha256(spec.model_dump_json(exclude={"name"}).encode()).hexdigest()


def compared(session: Session, claim: Claim, spec: TrainSpec | DistillSpec) -> dict[str, Any]:
    """For the result of a training that was quoted: by which job, and its seconds an epoch over those it took.

    Empty if it was not, or if it has told of no epoch.
    """
    quote = _newest(session, spec)
    taken = [row.seconds for row in list_metrics(session, claim.job_id) if row.seconds]
    if quote is None or quote.result is None or not taken:
        return {}
    # Without the corrections of then: they would be corrected twice.
    measured = quote.result["measured_seconds_per_epoch"]
    return {"quote": {"job": quote.id, "error": round(sum(taken) / len(taken) / measured, 4)}}


def quoted_memory(session: Session, spec: TrainSpec | DistillSpec) -> int | None:
    """The bytes that this training would take at most, if it was quoted."""
    quote = _newest(session, spec)
    return None if quote is None or quote.result is None else int(quote.result["peak_memory_bytes"])


def _newest(session: Session, spec: TrainSpec | DistillSpec) -> Job | None:
    query = select(Job).where(
        Job.kind == "quote", Job.status == "succeeded", Job.result["of"].as_string() == key_of(spec)
    )
    return session.scalar(query.order_by(Job.number.desc()).limit(1))


def errors(session: Session) -> list[float]:
    """Of the newest trainings that were quoted: what an epoch took over what was measured beforehand."""
    query = select(Job.result).where(Job.status == "succeeded", Job.kind.in_(("train", "distill")))
    results = session.scalars(query.order_by(Job.number.desc()).limit(LOOKED_AT))
    return [result["quote"]["error"] for result in results if result and "quote" in result]
