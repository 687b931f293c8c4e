"""Published models, ready to predict. No model is handed out that does not repeat its golden answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME, filled_graph
from formats.manifest import GOLDEN_NAME, ModelManifest, read_manifest
from formats.weights import read_weights
from inference.devices import CPU, Device
from inference.kernel_cache import KernelCache, key_of
from inference.memory import give_back
from inference.preprocessing import Normaliser, normaliser
from inference.runtimes import RUNTIMES, CannotRun, Network, Runtime, blob_of

# Float32 runtimes sum in different orders and fold batch normalisation: they differ by about 1e-6 of the largest
# logit, and a deep net may make a hundred times that of it. A wrong weight or a wrong mean moves logits by
# percents. A thousandth lies between, and changes no probability by more than a few thousandths of itself.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5
# Runtimes and processors round integers in other places, and may take one step of a scale more or less at each layer:
# ONNX Runtime and OpenVINO differ by 1 to 4 % of the largest logit. One that cannot hold its sums (8-bit products
# saturate without VNNI) is off by far more.
QUANTIZED_TOLERANCE = 0.1
# Tried with PyTorch in float16 on random images: ResNet-18 is 0.0021 of the largest logit off, its quarter 0.0017,
# MobileNetV2 0.0010. This changes no probability by more than a few hundredths of itself, and the labels must be the
# same besides.
HALF_TOLERANCE = 5e-3

# Room for the activations of a batch, beside the weights, in the figure that the cache counts with.
WORKING_BYTES = 16 * 1024 * 1024


class GoldenMismatch(RuntimeError):
    """A runtime answers otherwise than the network did when the model was published."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory; `bytes` is about what it takes there.

    `prompt` says that a call takes as long as the network does; one that may wait for a device, up to a limit, is not.
    """

    manifest: ModelManifest
    runtime: str
    bytes: int
    normalise: Normaliser = field(repr=False)
    network: Network = field(repr=False)
    device: Device = CPU
    precision: str = "f32"
    prompt: bool = True

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (N, classes) of pixels (N, size, size, channels), from any thread; ValueError for other pixels."""
        images = self.normalise(pixels)
        if not len(images):
            return np.zeros((0, len(self.manifest.classes)), dtype=np.float32)
        return self.network(images)

    def keep_compiled(self, kernels: KernelCache) -> None:
        """Keeps the network as it was compiled, where its runtime can take that up again."""
        key = _key(self.manifest, RUNTIMES[self.runtime], self.device, self.precision)
        blob = None if key is None else blob_of(self.network)
        if key is not None and blob is not None:
            kernels.put(key, blob)


def load_model(
    directory: Path, *, runtime: str | None = None, threads: int = 0, kernels: KernelCache | None = None
) -> LoadedModel:
    """The model of a directory in one runtime on the CPU, checked against its golden answers.

    Without a name, the first runtime that runs it and agrees. `threads` 0 is one for each physical core. What `kernels`
    hold is not compiled again. Raises DamagedFiles, UnknownName, CannotRun or GoldenMismatch.
    """
    candidates = list(RUNTIMES.values()) if runtime is None else [RUNTIMES[runtime]]
    stored = read_stored(directory)
    failure: CannotRun | GoldenMismatch | None = None
    for candidate in candidates:
        try:
            return stored.load(candidate, threads=threads, kernels=kernels)
        except (CannotRun, GoldenMismatch) as error:
            failure = failure or error
    raise failure or CannotRun("there is no runtime")


@dataclass(frozen=True)
class Golden:
    """A few images, uint8 (N, size, size, channels), and the logits (N, classes) that they were published with."""

    pixels: NDArray[Any]
    logits: NDArray[Any]


@dataclass(frozen=True)
class StoredModel:
    """A model as it lies in its directory, whose files have been verified. The weights are read when they are used."""

    manifest: ModelManifest
    golden: Golden
    bare: bytes
    directory: Path

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """The weights by name; DamagedFiles."""
        return read_weights(self.manifest.path_of(self.directory, self.manifest.weights.file))

    def graph(self) -> bytes:
        """The whole ONNX model, serialized."""
        return filled_graph(self.bare, self.tensors)

    def check(self, name: str, network: Network) -> None:
        """Raises GoldenMismatch unless a network answers as this one did when published; `name` is for people."""
        _check(LoadedModel(self.manifest, name, 0, _normaliser(self.manifest), network), self.golden)

    def load(
        self,
        runtime: Runtime,
        *,
        threads: int,
        device: Device = CPU,
        precision: str = "f32",
        kernels: KernelCache | None = None,
    ) -> LoadedModel:
        """The model in one runtime on one device; DamagedFiles, CannotRun or GoldenMismatch."""
        choices: dict[str, Any] = {"threads": threads, "device": device, "precision": precision}
        try:
            kept = None if kernels is None else self._taken_up(runtime, kernels, choices)
            if kept is not None:
                return kept
            graph = self.graph()
            model = self._checked(runtime, runtime.compile(graph, **choices), len(graph), choices)
            del graph
        finally:
            give_back()
        if kernels is not None:
            model.keep_compiled(kernels)
        return model

    def _taken_up(self, runtime: Runtime, kernels: KernelCache, choices: dict[str, Any]) -> LoadedModel | None:
        """The model from what was compiled before, if that is kept and agrees."""
        key = _key(self.manifest, runtime, choices["device"], choices["precision"])
        blob = None if key is None else kernels.get(key)
        if key is None or blob is None:
            return None
        try:
            return self._checked(runtime, runtime.take_up(blob, **choices), len(blob), choices)
        except (CannotRun, GoldenMismatch):
            kernels.drop(key)
            return None

    def _checked(self, runtime: Runtime, network: Network, size: int, choices: dict[str, Any]) -> LoadedModel:
        place = {name: choices[name] for name in ("device", "precision")}
        size = int(runtime.footprint * size) + WORKING_BYTES
        model = LoadedModel(self.manifest, runtime.name, size, _normaliser(self.manifest), network, **place)
        _check(model, self.golden)
        return model


def read_stored(directory: Path) -> StoredModel:
    """What lies in a model's directory; DamagedFiles if that is not what was written."""
    manifest = read_manifest(directory)
    manifest.path_of(directory, manifest.weights.file)
    golden, bare = _read_golden(directory, manifest), manifest.path_of(directory, GRAPH_NAME).read_bytes()
    return StoredModel(manifest, golden, bare, directory)


def _key(manifest: ModelManifest, runtime: Runtime, device: Device, precision: str) -> str | None:
    """What a compiled network is kept under; None if there is no telling, or nothing to keep.

    Threads are no part of it: they are told anew when a network is taken up.
    """
    if runtime.restore is None:
        return None
    content = {name: manifest.files[name].sha256 for name in (GRAPH_NAME, manifest.weights.file)}
    own = {"runtime": runtime.name, "version": runtime.version, "device": device.name, "precision": precision}
    try:
        return key_of({**content, **own, **device.identity()})
    except Exception:  # the runtime is missing or broken, which compiling will tell
        return None


def _normaliser(manifest: ModelManifest) -> Normaliser:
    try:
        return normaliser(manifest.preprocessing)
    except ValueError as error:
        raise DamagedFiles(str(error)) from error


def _read_golden(directory: Path, manifest: ModelManifest) -> Golden:
    tensors = read_weights(manifest.path_of(directory, GOLDEN_NAME))
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
    allowed = ABSOLUTE_TOLERANCE + _relative_tolerance(model) * float(np.max(np.abs(golden.logits)))
    worst = float(np.max(np.abs(logits - golden.logits)))
    if not worst <= allowed:
        raise GoldenMismatch(f"{model.runtime} is {worst:.3g} off the golden logits; {allowed:.3g} is allowed")
    if model.precision == "f16" and not np.array_equal(logits.argmax(axis=1), golden.logits.argmax(axis=1)):
        raise GoldenMismatch(f"{model.runtime} gives other labels in half precision")


def _relative_tolerance(model: LoadedModel) -> float:
    if model.manifest.kind == "quantized":
        return QUANTIZED_TOLERANCE
    return HALF_TOLERANCE if model.precision == "f16" else RELATIVE_TOLERANCE
