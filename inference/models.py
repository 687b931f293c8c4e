"""Published models, ready to predict. No model is handed out that does not repeat its golden answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME, filled_graph
from formats.manifest import GOLDEN_NAME, ModelManifest, read_manifest
from formats.weights import read_weights
from inference.memory import give_back
from inference.preprocessing import Normaliser, normaliser
from inference.runtimes import RUNTIMES, CannotRun, Network, Runtime

# Float32 runtimes sum in different orders and fold batch normalisation: they differ by about 1e-6 of the largest
# logit, and a deep net may make a hundred times that of it. A wrong weight or a wrong mean moves logits by
# percents. A thousandth lies between, and changes no probability by more than a few thousandths of itself.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5
# Runtimes and processors round integers in other places, and may take one step of a scale more or less at each layer:
# ONNX Runtime and OpenVINO differ by 1 to 4 % of the largest logit. One that cannot hold its sums (8-bit products
# saturate without VNNI) is off by far more.
QUANTIZED_TOLERANCE = 0.1

# Room for the activations of a batch, beside the weights, in the figure that the cache counts with.
WORKING_BYTES = 16 * 1024 * 1024


class GoldenMismatch(RuntimeError):
    """A runtime answers otherwise than the network did when the model was published."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory; `bytes` is about what it takes there."""

    manifest: ModelManifest
    runtime: str
    bytes: int
    normalise: Normaliser = field(repr=False)
    network: Network = field(repr=False)

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (N, classes) of pixels (N, size, size, channels), from any thread; ValueError for other pixels."""
        images = self.normalise(pixels)
        if not len(images):
            return np.zeros((0, len(self.manifest.classes)), dtype=np.float32)
        return self.network(images)


def load_model(directory: Path, *, runtime: str | None = None, threads: int = 0) -> LoadedModel:
    """The model of a directory in one runtime, checked against its golden answers.

    Without a name, the first runtime that runs it and agrees. `threads` 0 is one for each physical core. Raises
    DamagedFiles, UnknownName, CannotRun or GoldenMismatch.
    """
    candidates = list(RUNTIMES.values()) if runtime is None else [RUNTIMES[runtime]]
    stored = read_stored(directory)
    manifest, golden, graph = stored.manifest, stored.golden, stored.graph()
    del stored  # and with it the weights, which are in the graph now
    try:
        return _first_that_agrees(candidates, graph, threads=threads, manifest=manifest, golden=golden)
    finally:
        del graph
        give_back()


@dataclass(frozen=True)
class Golden:
    """A few images, uint8 (N, size, size, channels), and the logits (N, classes) that they were published with."""

    pixels: NDArray[Any]
    logits: NDArray[Any]


@dataclass(frozen=True)
class StoredModel:
    """A model as it lies in its directory."""

    manifest: ModelManifest
    golden: Golden
    bare: bytes
    tensors: Mapping[str, NDArray[Any]]

    def graph(self) -> bytes:
        """The whole ONNX model, serialized."""
        return filled_graph(self.bare, self.tensors)

    def check(self, name: str, network: Network) -> None:
        """Raises GoldenMismatch unless a network answers as this one did when published; `name` is for people."""
        _check(LoadedModel(self.manifest, name, 0, _normaliser(self.manifest), network), self.golden)


def read_stored(directory: Path) -> StoredModel:
    """What lies in a model's directory; DamagedFiles if that is not what was written."""
    manifest = read_manifest(directory)
    golden, bare = _read_golden(directory, manifest), _read_file(directory, manifest, GRAPH_NAME)
    return StoredModel(manifest, golden, bare, _read_tensors(directory, manifest))


def _first_that_agrees(
    candidates: Iterable[Runtime], graph: bytes, *, threads: int, manifest: ModelManifest, golden: Golden
) -> LoadedModel:
    normalise = _normaliser(manifest)
    failure: CannotRun | GoldenMismatch | None = None
    for runtime in candidates:
        try:
            network = runtime.compile(graph, threads=threads)
            size = int(runtime.footprint * len(graph)) + WORKING_BYTES
            model = LoadedModel(manifest, runtime.name, size, normalise, network)
            _check(model, golden)
            return model
        except (CannotRun, GoldenMismatch) as error:
            failure = failure or error
    raise failure or CannotRun("there is no runtime")


def _normaliser(manifest: ModelManifest) -> Normaliser:
    try:
        return normaliser(manifest.preprocessing)
    except ValueError as error:
        raise DamagedFiles(str(error)) from error


def _read_file(directory: Path, manifest: ModelManifest, name: str) -> bytes:
    return _recorded(directory, manifest, name).read_bytes()


def _read_tensors(directory: Path, manifest: ModelManifest) -> dict[str, NDArray[Any]]:
    return read_weights(_recorded(directory, manifest, manifest.weights.file))


def _recorded(directory: Path, manifest: ModelManifest, name: str) -> Path:
    """Only files of the manifest's records have been verified; a name that leads elsewhere is not among them."""
    if name not in manifest.files:
        raise DamagedFiles(f"model.json does not record {name}")
    return directory / name


def _read_golden(directory: Path, manifest: ModelManifest) -> Golden:
    tensors = read_weights(_recorded(directory, manifest, GOLDEN_NAME))
    pixels, logits = tensors.get("pixels"), tensors.get("logits")
    if pixels is None or logits is None:
        raise DamagedFiles(f"{GOLDEN_NAME} lacks pixels or logits")
    rule = manifest.preprocessing
    size = (rule.image_size, rule.image_size, rule.channels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != size or not len(pixels):
        raise DamagedFiles(f"{GOLDEN_NAME} holds no pixels of this model's size")
    if logits.shape != (len(pixels), len(manifest.classes)) or not np.all(np.isfinite(logits)):
        raise DamagedFiles(f"{GOLDEN_NAME} does not hold a finite logit for each image and class")
    return Golden(pixels, logits)


def _check(model: LoadedModel, golden: Golden) -> None:
    try:
        logits = model.predict(golden.pixels)
    except Exception as error:
        raise CannotRun(f"{model.runtime} cannot run this model: {str(error)[:300]}") from error
    if logits.shape != golden.logits.shape:
        raise GoldenMismatch(f"{model.runtime} gives logits {logits.shape}, not {golden.logits.shape}")
    relative = QUANTIZED_TOLERANCE if model.manifest.kind == "quantized" else RELATIVE_TOLERANCE
    allowed = ABSOLUTE_TOLERANCE + relative * float(np.max(np.abs(golden.logits)))
    worst = float(np.max(np.abs(logits - golden.logits)))
    if not worst <= allowed:
        raise GoldenMismatch(f"{model.runtime} is {worst:.3g} off the golden logits; {allowed:.3g} is allowed")
