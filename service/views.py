"""From rows to responses."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inference.choices import shown
from service.house import House
from service.images import builtin_facts
from service.schemas import (
    AliasMoveView,
    AliasView,
    CheckpointView,
    DatasetView,
    EventView,
    JobView,
    MetricView,
    ModelView,
    UploadState,
)
from service.waiting import waits_for
from specs.datasets import BuiltinDataset, class_split_sizes, split_sizes
from specs.splits import VALIDATION_FRACTION
from store import queue
from store.database import Session
from store.tables import Alias, AliasMove, Checkpoint, Dataset, Event, Job, Metric, Model
from store.uploads import received_bytes

JOB_FIELDS = (
    "id",
    "kind",
    "name",
    "status",
    "phase",
    "reason",
    "message",
    "attempt",
    "priority",
    "cancel_requested",
    "pause_requested",
    "progress",
    "result",
    "created_at",
    "started_at",
    "finished_at",
)


def job_view(session: Session, job: Job) -> JobView:
    """A job as clients see it."""
    fields = {name: getattr(job, name) for name in JOB_FIELDS}
    position = queue.queue_position(session, job)
    waiting = waits_for(session, job, position=position)
    return JobView(**fields, spec=json.loads(job.spec), queue_position=position, waits_for=waiting)


def metric_view(row: Metric) -> MetricView:
    """One epoch as clients see it."""
    return MetricView.model_validate(row)


def checkpoint_view(row: Checkpoint) -> CheckpointView:
    """A checkpoint as clients see it."""
    return CheckpointView.model_validate(row)


def event_view(row: Event) -> EventView:
    """An event as clients see it."""
    return EventView(id=row.number, type=row.type, at=row.at, data=row.data)


def model_view(model: Model, aliases: Sequence[str], problem: str | None) -> ModelView:
    """A model as clients see it; `problem` is why it cannot be served, where that is known."""
    fields = ("id", "name", "kind", "bytes", "weights_sha256", "parent", "family", "dataset", "created_at")
    facts = {name: value for name, value in model.facts.items() if name in ModelView.model_fields}
    return ModelView(
        **{name: getattr(model, name) for name in fields},
        **facts,
        status="ready" if problem is None else "broken",
        problem=problem,
        job=model.job_id,
        latency_ms=shown(model.latency),
        aliases=list(aliases),
    )


def alias_view(row: Alias, name: str) -> AliasView:
    """An alias as clients see it, with the name of its model."""
    return AliasView(alias=row.alias, model=row.model_id, name=name, updated_at=row.updated_at)


def alias_move_view(move: AliasMove, there: bool) -> AliasMoveView:
    """A move of an alias as clients see it; `there` says whether its model is there still."""
    return AliasMoveView(
        model=move.model_id,
        name=move.model_name,
        since=move.at,
        action=move.action,
        deleted=move.model_id is not None and not there,
    )


DATASET_FIELDS = ("id", "name", "version", "status", "reason", "message", "rejected", "created_at", "ready_at")
LISTED_REJECTED = 10
LISTED_CLASSES = 100


def dataset_view(row: Dataset, house: House, *, brief: bool = False) -> DatasetView:
    """A data set as clients see it; a brief one, for lists, leaves out what grows with its classes and files."""
    fields = {name: getattr(row, name) for name in DATASET_FIELDS}
    facts = {name: value for name, value in (row.facts or {}).items() if name in DatasetView.model_fields}
    classes = facts.get("classes")
    fields["class_count"] = None if classes is None else len(classes)
    if brief:
        fields["rejected"] = row.rejected[:LISTED_REJECTED]
        facts |= {"class_images": None, "class_splits": None}
        facts["classes"] = classes if len(classes or ()) <= LISTED_CLASSES else None
    if row.status == "uploading":
        received = received_bytes(house.artifacts, row.id)
        fields["upload"] = UploadState(received=received, max_bytes=house.settings.max_upload_bytes)
    return DatasetView(
        **{**facts, **fields}, job=row.job_id, source=row.spec["source"], max_rejected=row.spec["max_rejected"]
    )


def builtin_view(dataset: BuiltinDataset) -> DatasetView:
    """A built-in data set as clients see it."""
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        version=1,
        title=dataset.title,
        status="ready",
        source={"kind": "builtin", "reference": dataset.source},
        class_count=len(dataset.classes),
        classes=list(dataset.classes),
        class_images=dict(zip(dataset.classes, dataset.class_images, strict=True)),
        class_splits=class_split_sizes(dataset, VALIDATION_FRACTION),
        splits=split_sizes(dataset, VALIDATION_FRACTION),
        splits_from="rule",
        images=dataset.images,
        channels=dataset.channels,
        image_size=dataset.image_size,
        imbalance=max(dataset.class_images) / min(dataset.class_images),
        rejected_count=0,
        **builtin_facts(dataset),
    )
