"""From a valid spec to a job: what it names must be there and fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from service.datasets import KnownDataset, UnknownDataset, find_known
from service.problems import BadField
from specs.architectures import ARCHITECTURES
from specs.changes import with_changes
from specs.jobs import (
    JOB_SPEC,
    LEAST_CALIBRATION,
    DistillSpec,
    FineTune,
    IngestSpec,
    JobSpec,
    PruneSpec,
    QuantizeSpec,
    QuoteSpec,
    TrainSpec,
    parse_job,
)
from specs.networks.base import NetworkOptions
from specs.options import Strict
from specs.splits import VALIDATION_FRACTION
from specs.training import LossOptions
from store import models, queue
from store.checkpoints import kept_epochs
from store.database import Session
from store.errors import Conflict, NotFound
from store.tables import Job, Model

# What says which images a job has.
SOURCES = frozenset({"dataset", "model", "teacher", "validation_fraction"})
Batched = TypeVar("Batched", TrainSpec, DistillSpec, FineTune)


def submit(session: Session, spec: JobSpec, *, key: str | None, dry_run: bool = False, priority: int = 0) -> Job:
    """Writes a new job, or finds the one that this idempotency key made for the same spec before.

    With `dry_run` it is one that tells what the asked one would meet, ahead of all others.
    """
    request = (b"dry run of " if dry_run else b"") + spec.model_dump_json().encode()
    if key is not None and (earlier := queue.replay(session, key, request)) is not None:
        return earlier
    fitted, name = _fit(session, spec)
    if dry_run:
        quote = QuoteSpec(job=fitted)
        name, text = f"{name[:94]} quote", quote.model_dump_json()
        job = queue.enqueue(session, kind="quote", name=name, spec=text, priority=priority)
    else:
        job = queue.enqueue(session, kind=spec.kind, name=name, spec=fitted.model_dump_json(), priority=priority)
    if key is not None:
        queue.remember_key(session, key, request, job)
    return job


def retry(session: Session, job_id: str) -> Job:
    """Puts a job that failed or was cancelled back into the queue, if what it names is still there."""
    job = queue.find_job(session, job_id)
    try:
        spec = parse_job(job.spec)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].rstrip(".")
        message = f"This version cannot read what the job was asked for: {why}."
        raise Conflict(f"{message} Ask for a new one by POST /v1/jobs.") from error
    if job.status in {"failed", "cancelled"} and not isinstance(spec, IngestSpec):
        _fit(session, spec.job if isinstance(spec, QuoteSpec) else spec)
    return queue.retry(session, job_id)


def clone(session: Session, job_id: str, changes: Mapping[str, Any], *, key: str | None, priority: int = 0) -> Job:
    """A new job with the spec of another one but for these fields; or the one that this key made before."""
    job = queue.find_job(session, job_id)
    if job.kind in {"ingest", "quote"}:
        raise Conflict("Only jobs that make a model can be cloned.")
    if changes.get("kind", job.kind) != job.kind:
        hint = f"Leave it out: it is {job.kind}. Another kind of job is asked for by POST /v1/jobs."
        raise BadField("kind", message="A clone is of the same kind.", hint=hint)
    stored = json.loads(job.spec)
    body = with_changes(stored, changes)
    if not SOURCES.isdisjoint(changes):
        body = _without_what_fitted(body, changes, _training_images(session, stored))
    try:
        spec = JOB_SPEC.validate_json(json.dumps(body))
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from None
    return submit(session, spec, key=key, priority=priority)


def _training_images(session: Session, stored: Mapping[str, Any]) -> int | None:
    """How many images the job trained on, if what it names is still there."""
    with suppress(UnknownDataset, NotFound):
        if stored["kind"] == "train":
            return find_known(session, stored["dataset"]).training_images(
                stored.get("validation_fraction", VALIDATION_FRACTION)
            )
        images: int = models.find_model(session, stored.get("model") or stored["teacher"]).facts["training_images"]
        return images
    return None


def _without_what_fitted(body: dict[str, Any], changes: Mapping[str, Any], images: int | None) -> dict[str, Any]:
    """Other images may take another batch: what stands at its default, or was made to fit, is open again."""
    defaults: dict[str, type[Strict]] = {"batch_size": TrainSpec, "calibration_images": QuantizeSpec}
    fitted = {}
    for name, kind in defaults.items():
        default = kind.model_fields[name].default
        # To fit, it was only ever made smaller.
        fitted[name] = {default} if images is None else {default, min(images, default)}
    kept = {name: value for name, value in body.items() if name in changes or value not in fitted.get(name, ())}
    inner = body.get("fine_tune")
    if isinstance(inner, dict):
        asked = changes.get("fine_tune")
        kept["fine_tune"] = _without_what_fitted(inner, asked if isinstance(asked, dict) else {}, images)
    return kept


def _fit(session: Session, spec: JobSpec) -> tuple[JobSpec, str]:
    """The spec with ids for names, and a name for the job."""
    if isinstance(spec, TrainSpec):
        return _fit_training(session, spec)
    if isinstance(spec, QuantizeSpec):
        return _fit_quantizing(session, spec)
    return _fit_distilling(session, spec) if isinstance(spec, DistillSpec) else _fit_pruning(session, spec)


def _fit_training(session: Session, spec: TrainSpec) -> tuple[TrainSpec, str]:
    dataset = _find_ready(session, spec.dataset)
    images = dataset.training_images(spec.validation_fraction)
    spec = _fit_batch_size(spec, images)
    _check_batch_size(spec.batch_size, spec.architecture, images, "batch_size", frozen=spec.freeze is not None)
    _check_class_weights(spec.loss, len(dataset.class_splits), "loss", "class_weights")
    _check_image_size(spec, dataset)
    name = spec.name or f"{spec.architecture.name} {dataset.name}"[:100]
    # The id, not the name: a new version must not change what a waiting job means.
    return spec.model_copy(update={"dataset": dataset.id}), name


def _find_ready(session: Session, reference: str) -> KnownDataset:
    try:
        dataset = find_known(session, reference)
    except UnknownDataset as error:
        raise BadField("dataset", message=str(error), hint=error.hint) from None
    if dataset.status != "ready":
        message = f"This data set is {dataset.status}, not ready."
        raise BadField("dataset", message=message, hint=f"GET /v1/datasets/{dataset.id} says how far it is, or why.")
    return dataset


def _fit_pruning(session: Session, spec: PruneSpec) -> tuple[PruneSpec, str]:
    parent = _find_parent(session, spec.model, "model")
    _check_data_of(session, parent, "model")
    if spec.fine_tune is not None:
        images = parent.facts["training_images"]
        _check_class_weights(spec.fine_tune.loss, len(parent.facts["classes"]), "fine_tune", "loss", "class_weights")
        if not spec.fine_tune.rewind:  # then the batch is the parent's, which fits
            fine_tune = _fit_batch_size(spec.fine_tune, images)
            _check_batch_size(fine_tune.batch_size, _network_of(parent), images, "fine_tune", "batch_size")
            spec = spec.model_copy(update={"fine_tune": fine_tune})
    name = spec.name or f"{parent.name[:92]} pruned"
    # The id, not the alias or name: what it means must not change while the job waits.
    return spec.model_copy(update={"model": parent.id}), name


def _fit_distilling(session: Session, spec: DistillSpec) -> tuple[DistillSpec, str]:
    teacher = _find_parent(session, spec.teacher, "teacher")
    _check_data_of(session, teacher, "teacher")
    _check_teacher_epoch(session, teacher, spec.teacher_epoch)
    images = teacher.facts["training_images"]
    spec = _fit_batch_size(spec, images)
    _check_batch_size(spec.batch_size, spec.architecture, images, "batch_size")
    _check_class_weights(spec.loss, len(teacher.facts["classes"]), "loss", "class_weights")
    least = spec.architecture.least_image_size()
    if teacher.facts["image_size"] < least:
        size = teacher.facts["image_size"]
        message = (
            f"The teacher's images have {size} pixels a side; with these options this network takes {least} or more."
        )
        raise BadField("architecture", message=message, hint="Take another stem or network, or another teacher.")
    return spec.model_copy(update={"teacher": teacher.id}), spec.name or f"{teacher.name[:88]} distilled"


def _check_teacher_epoch(session: Session, teacher: Model, epoch: int | None) -> None:
    kept = kept_epochs(session, teacher.job_id) if epoch is not None else []
    if epoch is not None and epoch not in kept:
        message = f"Of this epoch the teacher's training kept nothing; it kept {kept or 'no epoch'}."
        hint = "Train a teacher with keep_epochs, or leave out teacher_epoch."
        raise BadField("teacher_epoch", message=message, hint=hint)


def _fit_quantizing(session: Session, spec: QuantizeSpec) -> tuple[QuantizeSpec, str]:
    parent = _find_parent(session, spec.model, "model")
    _check_data_of(session, parent, "model")
    images = parent.facts["training_images"]
    if images < LEAST_CALIBRATION:
        message = f"This model was trained on {images} images; calibration takes {LEAST_CALIBRATION} or more."
        raise BadField("model", message=message, hint="Train it on a data set with more images.")
    if spec.calibration_images > images:
        if "calibration_images" in spec.model_fields_set:
            message = f"The model was trained on {images} images only."
            raise BadField("calibration_images", message=message, hint=f"Give at most {images}, or leave it out.")
        spec = spec.model_copy(update={"calibration_images": images})
    name = spec.name or f"{parent.name[:90]} in int8"
    return spec.model_copy(update={"model": parent.id}), name


def _find_parent(session: Session, reference: str, field: str) -> Model:
    """The model that a job is to begin with: one whose weights can be trained."""
    try:
        parent = models.find_model(session, reference, keep=True)
    except NotFound:
        hint = "GET /v1/models lists the models; a model is there once its job has succeeded."
        raise BadField(field, message="There is no model of this id, alias or name.", hint=hint) from None
    if parent.kind == "quantized":
        hint = f"Take its parent {parent.parent}, and quantize what comes of that."
        raise BadField(field, message="This model is quantized: its weights are integers for good.", hint=hint)
    return parent


def _check_data_of(session: Session, parent: Model, field: str) -> None:
    try:
        find_known(session, parent.dataset)
    except UnknownDataset:
        message = "The data set that this model was trained on has been deleted, and it is needed."
        raise BadField(field, message=message, hint="Train a model on a data set that is there.") from None


def _check_image_size(spec: TrainSpec, dataset: KnownDataset) -> None:
    least = spec.architecture.least_image_size()
    if (spec.image_size or dataset.image_size) < least:
        message = f"With these options {spec.architecture.name} takes images of {least} pixels a side or more."
        hint = f"Give an image_size of at least {least}: images are resized. Or take another stem, if it has one."
        raise BadField("image_size", message=message, hint=hint)


def _check_class_weights(loss: LossOptions, classes: int, *path: str) -> None:
    given = loss.class_weights
    if isinstance(given, tuple) and len(given) != classes:
        message = f"The data set has {classes} classes, and these are {len(given)} numbers."
        hint = "Give one for each, in the order in which the data set names its classes, or 'balanced'."
        raise BadField(*path, message=message, hint=hint)


def _fit_batch_size(asked: Batched, images: int) -> Batched:
    """The same with a smaller batch, where nobody chose its size and the split has fewer images."""
    if "batch_size" in asked.model_fields_set or asked.batch_size <= images or images < 1:
        return asked
    return asked.model_copy(update={"batch_size": images})


def _network_of(model: Model) -> NetworkOptions:
    given = model.facts["architecture"]
    options = ARCHITECTURES[given["name"]].options.model_validate(given)
    assert isinstance(options, NetworkOptions)
    return options


def _check_batch_size(batch_size: int, network: NetworkOptions, images: int, *path: str, frozen: bool = False) -> None:
    # A frozen backbone normalises by what it has seen already.
    least = 1 if frozen else network.least_batch()
    if images < least:
        message = "This network normalises over batches, and the training split has one image."
        hint = "Take a data set with more images, or a smaller validation_fraction where one is asked for."
        raise BadField(*path, message=message if images else "The training split has no image.", hint=hint)
    if batch_size < least:
        message = "This network normalises over batches, and there is nothing to normalise in a batch of one image."
        raise BadField(*path, message=message, hint=f"Give a number of at least {least}.")
    if batch_size > images:
        message = f"A batch cannot be larger than the training split, which has {images} images."
        raise BadField(*path, message=message, hint=f"Give a number of at most {images}.")
