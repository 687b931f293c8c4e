"""Shapes of what the service answers; more fields may stand beside these."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class FieldProblem(TypedDict, total=False):
    """One bad field of a request; `pointer` is a URI fragment such as `#/architecture/width`."""

    pointer: str
    message: str
    hint: str


class Progress(TypedDict, total=False):
    """How far a job is: a training in epochs, the reading of a data set in files; `fraction` from 0 to 1."""

    epoch: int | None
    epochs: int | None
    done: int | None
    total: int | None
    fraction: float
    eta_seconds: float | None


class Waiting(TypedDict):
    """What a queued job waits for."""

    reason: str
    message: str
    eta_seconds: float | None


class _JobCore(TypedDict):
    id: str
    kind: str
    status: str


class Job(_JobCore, total=False):
    """A job; `status` is queued, running, paused, succeeded, failed or cancelled."""

    name: str | None
    phase: str | None
    reason: str | None
    message: str | None
    attempt: int
    priority: int
    queue_position: int | None
    waits_for: Waiting | None
    cancel_requested: bool
    pause_requested: bool
    progress: Progress | None
    spec: dict[str, Any]
    result: dict[str, Any] | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class EpochMetrics(TypedDict, total=False):
    """One epoch; numbers that were not finite are None."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float | None
    images_per_second: float | None
    seconds: float | None


class _ModelCore(TypedDict):
    id: str
    kind: str
    status: str


class Model(_ModelCore, total=False):
    """A published model; `bytes` is what it takes in the data folder."""

    name: str | None
    architecture: dict[str, Any]
    classes: list[str]
    image_size: int
    parameters: int
    nonzero_parameters: int
    macs: int
    bytes: int
    metrics: dict[str, float | None]
    latency_ms: dict[str, Any] | None
    parent: str | None
    family: str
    job: str | None
    dataset: str | None
    created_at: str


class Alias(TypedDict):
    """A name that points at a model; `name` is the model's, `updated_at` when it began to point there."""

    alias: str
    model: str
    name: str
    updated_at: str


class AliasMove(TypedDict, total=False):
    """Since when an alias pointed where; `model` and `name` are None where it was removed.

    `action` is set, rollback or remove; `deleted` says whether the model has been deleted since.
    """

    model: str | None
    name: str | None
    since: str
    action: str
    deleted: bool


class _UploadCore(TypedDict):
    received: int


class UploadState(_UploadCore, total=False):
    """How much of the content has arrived, of how much, and how much the service takes, all in bytes."""

    total: int | None
    max_bytes: int


class RejectedFile(TypedDict, total=False):
    """A file of a data set that could not be used: `reason` is a word, `message` a sentence."""

    path: str
    reason: str
    message: str


class ImageSizes(TypedDict, total=False):
    """Width and height in pixels: least, middle and largest, each on its own; `distinct` counts pairs."""

    min: list[int]
    median: list[int]
    max: list[int]
    distinct: int


class Duplicates(TypedDict, total=False):
    """Images beyond the first that have the same bytes, or show the same; `examples` are paths of such images."""

    same_bytes: int
    same_pixels: int
    examples: list[list[str]]


class ConflictExample(TypedDict, total=False):
    """Images that show the same, with the class and the split of each; `kind` is labels or splits."""

    kind: str
    paths: list[str]
    labels: list[str]
    splits: list[str]


class Conflicts(TypedDict, total=False):
    """Contents in several splits, contents of several classes, and images left out because of these."""

    splits: int
    labels: int
    left_out: int
    examples: list[ConflictExample]


class _DatasetCore(TypedDict):
    id: str
    status: str


class Dataset(_DatasetCore, total=False):
    """A data set; `status` is uploading, processing, ready or failed. What is in it is None until it is ready.

    `job` is the one that reads it. `mean` and `std` are of each channel, of values from 0 to 1; `imbalance` is the
    largest class over the smallest; `rejected` holds the first of the `rejected_count` files that were not used.
    """

    name: str
    version: int
    title: str
    reason: str | None
    message: str | None
    job: str | None
    upload: UploadState | None
    class_count: int
    classes: list[str]
    class_images: dict[str, int]
    class_splits: dict[str, dict[str, int]]
    splits: dict[str, int]
    splits_from: str
    images: int
    channels: int
    image_size: int
    sizes: ImageSizes
    mean: list[float]
    std: list[float]
    duplicates: Duplicates
    conflicts: Conflicts
    imbalance: float | None
    rejected_count: int
    rejected: list[RejectedFile]
    warnings: list[str]
    fingerprint: str
    bytes: int
    source: dict[str, Any]
    created_at: str
    ready_at: str | None


class Guess(TypedDict, total=False):
    """One class of a prediction; `probability` from 0 to 1."""

    label: str
    index: int
    probability: float


class Prediction(Guess, total=False):
    """The answer for one image: its likeliest class, the `top` ones in order, and the `label_set` if one was asked."""

    top: list[Guess]
    label_set: list[str]


class Predictions(TypedDict):
    """Answers in the order of the images; the `coverage` if one was asked for, with a note if all labels are listed."""

    model: str
    predictions: list[Prediction]
    coverage: NotRequired[float]
    coverage_note: NotRequired[str]


class Chosen(TypedDict):
    """The model of a family that answered, with the figures that it was chosen by, and why it was."""

    model: str
    name: str
    latency_ms: float | None
    validation_accuracy: float | None
    test_accuracy: float
    reason: str


class FamilyPredictions(Predictions):
    """Answers of the model of a family that was chosen."""

    chosen: Chosen


class Event(TypedDict):
    """One event of a job; `id` is where a broken stream is taken up again."""

    id: str | None
    event: str
    data: Any
