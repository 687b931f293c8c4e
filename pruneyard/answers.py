"""Shapes of what the service answers; more fields may stand beside these."""

from __future__ import annotations

from typing import Any, TypedDict


class FieldProblem(TypedDict, total=False):
    """One bad field of a request; `pointer` is a URI fragment such as `#/architecture/width`."""

    pointer: str
    message: str
    hint: str


class Progress(TypedDict, total=False):
    """How far a job is; `fraction` from 0 to 1."""

    epoch: int
    epochs: int
    fraction: float
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
    queue_position: int | None
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


class Dataset(TypedDict, total=False):
    """A data set."""

    id: str
    name: str
    status: str
    classes: list[str]
    splits: dict[str, int]
    images: int


class Guess(TypedDict, total=False):
    """One class of a prediction; `probability` from 0 to 1."""

    label: str
    index: int
    probability: float


class Prediction(Guess, total=False):
    """The answer for one image: its likeliest class, and the `top` ones in order."""

    top: list[Guess]


class Predictions(TypedDict):
    """Answers in the order of the images."""

    model: str
    predictions: list[Prediction]


class Event(TypedDict):
    """One event of a job; `id` is where a broken stream is taken up again."""

    id: str | None
    event: str
    data: Any
