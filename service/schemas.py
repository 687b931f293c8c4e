"""What responses look like. Numbers that are not finite come out as null."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer
from pydantic_core import PydanticCustomError, core_schema

from formats.manifest import CalibrationCheck
from inference.choices import AUTO
from inference.devices import DEVICES
from inference.runtimes import RUNTIMES
from specs.options import Name, Strict
from specs.registry import nearest

T = TypeVar("T")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]


class Schema(BaseModel):
    """A response, filled from attributes of rows or from keywords."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class Page(Schema, Generic[T]):
    """A part of a list; `next_cursor` asks for the next part."""

    items: list[T]
    next_cursor: str | None = None


class Progress(Schema):
    """How far a job is: a training counts epochs, the reading of a data set files; `fraction` is of the whole."""

    epoch: int | None = None
    epochs: int | None = None
    done: int | None = None
    total: int | None = None
    fraction: float
    eta_seconds: float | None


class Waiting(Schema):
    """What a queued job waits for."""

    reason: str = Field(
        description="`no_worker`, `earlier_jobs`, `busy`, `on_battery`, `outside_hours`, `too_few_cores`, "
        "`too_little_memory`, `insufficient_storage`.",
        examples=["busy"],
    )
    message: str = Field(description="The same in a sentence.", examples=['The worker is at "first try".'])
    eta_seconds: float | None = Field(
        default=None,
        description="Until a worker is free, where running jobs can tell; their export and measurement come on top.",
    )


class JobView(Schema):
    """A job."""

    id: str
    kind: Literal["train", "prune", "distill", "quantize", "quote", "ingest"]
    name: str
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    phase: str | None = Field(description="What a running job does.")
    reason: str | None = Field(description="Why it ended, or what it waits for, in one word.")
    message: str | None = Field(description="Why it ended or waits, in a sentence.")
    attempt: int
    priority: int = Field(description="Waiting jobs of a higher one go first.")
    queue_position: int | None = Field(description="How many jobs run before it; null unless queued.")
    waits_for: Waiting | None = Field(
        description="Why a queued job does not run; null if a worker is about to take it."
    )
    cancel_requested: bool = Field(description="A running job is to end; its worker sees to it.")
    pause_requested: bool = Field(description="A running job is to be set aside; its worker sees to it.")
    progress: Progress | None
    spec: dict[str, Any]
    result: dict[str, Any] | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None


class MetricView(Schema):
    """One epoch of a job. A number that was not finite is null, and `non_finite` is true."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float | None
    images_per_second: float | None
    seconds: float | None
    non_finite: bool


class CheckpointView(Schema):
    """A place that a job goes on from."""

    epoch: int = Field(description="How many whole epochs it has.")
    step: int = Field(description="Steps of the epoch after them; 0 where it was written between epochs.")
    best: bool = Field(description="Whether no epoch before had a better validation accuracy.")
    attempt: int
    created_at: Moment


class EventView(Schema):
    """Something that happened to a job."""

    id: int
    type: str
    at: Moment
    data: dict[str, Any]


class CalibrationView(Schema):
    """How far a model's probabilities can be believed."""

    temperature: float = Field(description="Probabilities are the softmax of logits / temperature.")
    images: int = Field(description="Validation images that it was fitted on.")
    test: CalibrationCheck | None = Field(description="What it is worth on test images.")


@dataclass(frozen=True)
class OneOf:
    """Holds text to be one of some names; for any other, the nearest is offered."""

    kind: str
    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, _schema: core_schema.CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names)}

    def _known(self, value: str) -> str:
        if value not in self.names:
            context = {"message": f"There is no {self.kind} of this name.", "hint": nearest(value, self.names)}
            raise PydanticCustomError("unknown_name", "{message}", context)
        return value


RuntimeName = Annotated[str, OneOf("runtime", (AUTO, *RUNTIMES))]
DeviceName = Annotated[str, OneOf("device", (AUTO, *DEVICES))]


class ModelChanges(Strict):
    """What is to be changed of a model; what is not named, or null, stays."""

    name: Name | None = Field(default=None, description="A label, not an id.")
    runtime: RuntimeName | None = None
    device: DeviceName | None = None


class ModelView(Schema):
    """A published model."""

    id: str
    name: str
    status: Literal["ready", "broken"] = Field(
        description="`broken` once a load found that it cannot be served, until one succeeds."
    )
    problem: str | None = Field(default=None, description="Why it is broken.")
    kind: Literal["trained", "pruned", "distilled", "quantized"]
    architecture: dict[str, Any]
    classes: list[str]
    image_size: int
    channels: int
    parameters: int
    nonzero_parameters: int
    macs: int = Field(description="Multiply-accumulates of one image.")
    bytes: int = Field(description="Of everything stored for it.")
    metrics: dict[str, float]
    calibration: CalibrationView | None = Field(
        default=None, description="Null for models of before there was calibration: their temperature is 1."
    )
    latency_ms: dict[str, Any] | None
    weights_sha256: str
    parent: str | None
    family: str
    job: str
    dataset: str
    aliases: list[str]
    created_at: Moment


class AliasView(Schema):
    """A name that points at a model."""

    alias: str
    model: str
    name: str = Field(description="Of the model.")
    updated_at: Moment = Field(description="When it began to point there.")


class AliasMoveView(Schema):
    """Since when an alias pointed where; `model` and `name` are null where it was removed."""

    model: str | None
    name: str | None = Field(description="Of the model, at that time.")
    since: Moment
    action: Literal["set", "rollback", "remove"]
    deleted: bool = Field(description="Whether the model has been deleted since.")


class UploadState(Schema):
    """How much of a data set's content has arrived, in bytes; the next part begins at `received`."""

    received: int
    max_bytes: int


class RejectedFile(Schema):
    """A file that could not be used."""

    path: str
    reason: str = Field(description="One word for programs.")
    message: str


class DatasetView(Schema):
    """A data set. What is in it is null until it is ready."""

    id: str
    name: str
    version: int
    title: str | None = None
    status: Literal["uploading", "processing", "ready", "failed"]
    reason: str | None = Field(default=None, description="Why it failed, in one word.")
    message: str | None = Field(default=None, description="Why it failed, in a sentence, and the fix.")
    job: str | None = Field(default=None, description="The job that reads it.")
    upload: UploadState | None = Field(default=None, description="While it takes content.")
    source: dict[str, Any]
    max_rejected: float | None = None
    class_count: int | None = None
    classes: list[str] | None = Field(default=None, description="Null in lists where there are more than a hundred.")
    class_images: dict[str, int] | None = Field(default=None, description="Images of each class; null in lists.")
    class_splits: dict[str, dict[str, int]] | None = Field(
        default=None, description="The same by split; null in lists."
    )
    splits: dict[str, int] | None = Field(
        default=None, description="Images by split; where validation is made by the rule, with the default fraction."
    )
    splits_from: str | None = Field(default=None, description="Whether splits came with the set or by the rule.")
    images: int | None = None
    channels: int | None = None
    image_size: int | None = Field(
        default=None, description="What its images are resized to unless a job says otherwise."
    )
    sizes: dict[str, Any] | None = Field(default=None, description="Widths and heights of the images as they came.")
    mean: list[float] | None = Field(default=None, description="Of the training images, a channel each, 0 to 1.")
    std: list[float] | None = None
    duplicates: dict[str, Any] | None = Field(default=None, description="Files that are the same, in bytes or pixels.")
    conflicts: dict[str, Any] | None = Field(default=None, description="Pixels in two splits or under two labels.")
    imbalance: float | None = Field(default=None, description="The largest class over the smallest.")
    rejected_count: int | None = None
    rejected: list[RejectedFile] = Field(default=[], description="The first thousand files that could not be used.")
    warnings: list[str] = []
    fingerprint: str | None = Field(default=None, description="Over content, labels and splits; not over names.")
    bytes: int | None = Field(default=None, description="Of everything stored for it, decoded images not counted.")
    created_at: Moment | None = None
    ready_at: Moment | None = None


class DatasetImage(Schema):
    """One image of a data set, upright and at its own size."""

    index: int
    label: str
    path: str | None = Field(default=None, description="What the file was called.")
    png: str = Field(description="The image as a PNG file, in base64.")


class Answer(Schema):
    """One class with its probability."""

    label: str
    index: int
    probability: float


class PredictionView(Answer):
    """The most probable class of one image, and the next ones."""

    top: list[Answer]
    label_set: list[str] | None = Field(
        default=None, description="With `coverage`: the labels among which the right one is, most probable first."
    )


class Predictions(Schema):
    """Predictions in the order of the images."""

    model: str
    predictions: list[PredictionView]
    coverage: float | None = Field(default=None, description="As it was asked for.")
    coverage_note: str | None = Field(default=None, description="Why label sets have all labels, where they have to.")


class Chosen(Schema):
    """The model of a family that was asked; `latency_ms` is for one image, as it was measured."""

    model: str
    name: str
    latency_ms: float | None
    validation_accuracy: float | None = Field(description="What it was chosen by.")
    test_accuracy: float
    reason: str = Field(description="Why this one, in a sentence.")


class ChosenPredictions(Predictions):
    """Predictions of the model of a family that was chosen."""

    chosen: Chosen


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]]
