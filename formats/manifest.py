"""`model.json`: what a published model says of itself. It is written once and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from formats.files import Frozen, Recorded, read_recorded, verify_files, write_recorded
from formats.images import ImageShape
from formats.weights import Coding

MANIFEST_NAME = "model.json"
GOLDEN_NAME = "golden.safetensors"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

Count = Annotated[int, Field(ge=0)]


class Preprocessing(Frozen):
    """From pixels to the network's input: resize by the image rule, then (pixel / 255 - mean) / std, a channel each."""

    image_size: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> ImageShape:
        return ImageShape(self.image_size, self.channels)


class Weights(Frozen):
    """Where the weights are and how they are coded; the hash is over names, shapes and values."""

    file: str
    coding: Coding
    sha256: str


class ModelManifest(Recorded):
    """The whole of `model.json`; `files` records every other file of the model's directory."""

    format: Literal[1] = 1
    id: str
    kind: Literal["trained", "pruned", "distilled", "quantized"]
    architecture: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    weights: Weights
    shapes: dict[str, tuple[int, ...]]
    parameters: Count
    nonzero_parameters: Count
    macs: Count
    metrics: dict[str, float]
    training: dict[str, Any]
    dataset: dict[str, Any]
    lineage: dict[str, Any]
    environment: dict[str, str]


def stored_bytes(manifest: ModelManifest) -> int:
    """Bytes of everything stored for the model, `model.json` counted."""
    return manifest.bytes + len(manifest.model_dump_json(indent=1).encode())


def write_manifest(directory: Path, manifest: ModelManifest) -> ModelManifest:
    """Records the files of the directory, writes `model.json` beside them and returns what it says."""
    return write_recorded(directory, MANIFEST_NAME, manifest)


def read_manifest(directory: Path, *, verify: bool = True) -> ModelManifest:
    """What `model.json` says; with `verify`, only if every file is still what was written (else DamagedFiles)."""
    manifest = read_recorded(directory, MANIFEST_NAME, ModelManifest, max_bytes=MAX_MANIFEST_BYTES)
    if verify:
        verify_files(directory, manifest.files)
    return manifest
