"""What the bodies of the protocol look like on the docs page. Requests are read without them, for speed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.schemas import Schema


class Refusal(Schema):
    """An error: one sentence."""

    error: str


class Liveness(Schema):
    """The service answers."""

    live: bool


class Readiness(Schema):
    """The service takes requests."""

    ready: bool


class ModelReadiness(Readiness):
    """The model is in memory."""

    name: str


class ServerMetadata(Schema):
    """The service, and the extensions of the protocol that it speaks."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Schema):
    """A tensor that a model takes or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Schema):
    """A model's input and output."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """An output; `data` is row-major, and absent where raw bytes follow the JSON."""

    parameters: dict[str, Any] | None = None
    data: list[float] | list[str] | None = None


class InferAnswer(Schema):
    """The answer to a request."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="That of the request, if it had one.")
    parameters: dict[str, Any] = Field(description="`model` is the id of the model that answered.")
    outputs: list[OutputTensor]


class IndexEntry(Schema):
    """A model of the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Statistics(Schema):
    """What models have done since the service started; durations in nanoseconds."""

    model_stats: list[dict[str, Any]]
