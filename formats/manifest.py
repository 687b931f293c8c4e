"""`model.json`: what a published model says of itself. It is written once and never changed."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from formats.files import DamagedFiles, Frozen, Recorded, read_recorded, verify_files, write_recorded
from formats.images import ImageShape
from formats.weights import Coding

MANIFEST_NAME = "model.json"
GOLDEN_NAME = "golden.safetensors"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

# The coverages in ten thousandths for which a model may know a label set: each hundredth from a half on, each
# thousandth from 0.99 on, and each ten thousandth from 0.999 on.
WHOLE = 10000
COVERAGES = (*range(5000, 9900, 100), *range(9900, 9990, 10), *range(9990, WHOLE))


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


class CoverageCheck(Frozen):
    """How often label sets held the label of a test image, and how many labels they had, for a coverage asked for."""

    asked: Share
    measured: Share
    mean_set_size: Annotated[float, Field(ge=1)]


class CalibrationCheck(Frozen):
    """Expected calibration errors on so many test images without the temperature and with it, and label sets."""

    images: Count
    ece_uncalibrated: Share
    ece: Share
    coverage: tuple[CoverageCheck, ...]


class Calibration(Frozen):
    """What makes probabilities and label sets of logits, fitted on so many validation images.

    Probabilities are the softmax of logits / temperature. A label set has the classes that are at least as probable
    as `least_probabilities` says for each of COVERAGES, in their order, as far as there were images enough.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    images: Count
    least_probabilities: Annotated[tuple[Share, ...], Field(max_length=len(COVERAGES))]
    test: CalibrationCheck | None = None

    def least_probability(self, coverage: float) -> float | None:
        """That of the next coverage that is no lower; None beyond what the images can promise."""
        place = bisect_left(COVERAGES, coverage * WHOLE - 1e-6)
        return self.least_probabilities[place] if place < len(self.least_probabilities) else None


class ModelManifest(Recorded):
    """The whole of `model.json`; `files` records every other file of the model's directory.

    Models of before there was calibration have none: their temperature is 1.
    """

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
    calibration: Calibration | None = None

    def path_of(self, directory: Path, name: str) -> Path:
        """A file of the model. DamagedFiles for a name that is not recorded: nobody verified what it leads to."""
        if name not in self.files:
            raise DamagedFiles(f"model.json does not record {name}")
        return directory / name

    @property
    def temperature(self) -> float:
        return 1.0 if self.calibration is None else self.calibration.temperature

    def least_probability(self, coverage: float) -> float:
        """How probable a class has to be to be in the label set of this coverage; 0, all, where nothing is known."""
        known = None if self.calibration is None else self.calibration.least_probability(coverage)
        return 0.0 if known is None else known


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
