"""Small published models: one convolution, a rectifier, the mean over the image and a linear head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from formats.graphs import GRAPH_NAME, bare_graph
from formats.manifest import GOLDEN_NAME, Calibration, ModelManifest, Preprocessing, Weights, write_manifest
from formats.weights import DENSE_NAME, SPARSE_NAME, write_dense, write_sparse

SIZE = 8
CLASSES = ("ant", "bee", "cat", "dog")
HIDDEN = 6

Tensors = dict[str, NDArray[np.float32]]


def weights_of(seed: int, channels: int) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(HIDDEN, channels, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=HIDDEN).astype(np.float32),
        "head.weight": rng.normal(size=(len(CLASSES), HIDDEN)).astype(np.float32),
        "head.bias": rng.normal(size=len(CLASSES)).astype(np.float32),
    }


def graph_of(weights: Tensors, channels: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["images", "conv.weight", "conv.bias"], ["maps"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["maps"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", channels, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [images], [logits], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def reference_logits(weights: Tensors, pixels: NDArray[np.uint8], rule: Preprocessing) -> NDArray[np.float32]:
    """The same network in plain numpy and float64."""
    images = (pixels / 255 - np.array(rule.mean)) / np.array(rule.std)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.einsum("nhwcij,ocij->nhwo", windows, weights["conv.weight"].astype(float)) + weights["conv.bias"]
    means = np.maximum(maps, 0).mean(axis=(1, 2))
    return (means @ weights["head.weight"].T + weights["head.bias"]).astype(np.float32)


def random_pixels(count: int, channels: int, seed: int = 7) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, channels), dtype=np.uint8)


def described(classes: int | tuple[str, ...], calibration: Calibration | None = None) -> ModelManifest:
    """What a model says of itself, as far as answers need it; classes without names are named by their numbers."""
    names = classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))
    return ModelManifest.model_construct(classes=names, calibration=calibration)


class Published:
    """A directory with a model in it, and the answers it should give."""

    def __init__(self, directory: Path, *, channels: int = 3, seed: int = 0, coding: Any = "dense") -> None:
        self.directory = directory
        self.rule = Preprocessing(
            image_size=SIZE, channels=channels, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels]
        )
        self.weights = weights_of(seed, channels)
        self.coding = coding
        directory.mkdir(exist_ok=True)
        sparse = coding == "sparse-3"
        (write_sparse if sparse else write_dense)(directory / self.weights_file, self.weights)
        (directory / GRAPH_NAME).write_bytes(bare_graph(graph_of(self.weights, channels), self.weights))
        pixels = random_pixels(3, channels)
        self.write_golden(pixels, self.expected(pixels))

    @property
    def weights_file(self) -> str:
        return SPARSE_NAME if self.coding == "sparse-3" else DENSE_NAME

    def expected(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return reference_logits(self.weights, pixels, self.rule)

    def write_golden(self, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        save_file({"pixels": pixels, "logits": logits}, self.directory / GOLDEN_NAME)
        self.record()

    def record(self, **changes: Any) -> ModelManifest:
        """Writes model.json anew, so that whatever the files now hold counts as what was written."""
        manifest = ModelManifest(
            id="mdl_test",
            kind="trained",
            architecture={"name": "test"},
            classes=CLASSES,
            preprocessing=self.rule,
            weights=Weights(file=self.weights_file, coding=self.coding, sha256="0" * 64),
            shapes={name: tensor.shape for name, tensor in self.weights.items()},
            parameters=1,
            nonzero_parameters=1,
            macs=1,
            metrics={},
            training={},
            dataset={},
            lineage={},
            environment={},
        )
        return write_manifest(self.directory, manifest.model_copy(update=changes))


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Published]:
    """Writes a model under the test's own folder: `publish(name, channels=3, seed=0, coding="dense")`."""

    def write(name: str = "model", **choices: Any) -> Published:
        return Published(tmp_path / name, **choices)

    return write


@pytest.fixture
def pixels() -> Callable[..., NDArray[np.uint8]]:
    return random_pixels
