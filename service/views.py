"""From rows to responses."""

from __future__ import annotations

import json
from collections.abc import Sequence

from service.schemas import EventView, JobView, MetricView, ModelView
from store import queue
from store.database import Session
from store.tables import Event, Job, Metric, Model

JOB_FIELDS = (
    "id",
    "kind",
    "name",
    "status",
    "phase",
    "reason",
    "message",
    "attempt",
    "cancel_requested",
    "progress",
    "result",
    "created_at",
    "started_at",
    "finished_at",
)


def job_view(session: Session, job: Job) -> JobView:
    """A job as clients see it."""
    fields = {name: getattr(job, name) for name in JOB_FIELDS}
    return JobView(**fields, spec=json.loads(job.spec), queue_position=queue.queue_position(session, job))


def metric_view(row: Metric) -> MetricView:
    """One epoch as clients see it."""
    return MetricView.model_validate(row)


def event_view(row: Event) -> EventView:
    """An event as clients see it."""
    return EventView(id=row.number, type=row.type, at=row.at, data=row.data)


def model_view(model: Model, aliases: Sequence[str]) -> ModelView:
    """A model as clients see it."""
    fields = ("id", "name", "status", "kind", "bytes", "weights_sha256", "parent", "family", "dataset", "created_at")
    facts = {name: value for name, value in model.facts.items() if name in ModelView.model_fields}
    return ModelView(
        **{name: getattr(model, name) for name in fields},
        **facts,
        job=model.job_id,
        latency_ms=model.latency,
        aliases=list(aliases),
    )
