"""A network as a model directory that can be served without torch, and back."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import nn

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME, bare_graph
from formats.manifest import (
    GOLDEN_NAME,
    Calibration,
    ModelManifest,
    Preprocessing,
    Weights,
    read_manifest,
    write_manifest,
)
from formats.weights import CODED, DENSE_NAME, SPARSE, SPARSE_NAME, Coding, read_weights, write_dense, write_sparse
from nets.answers import Ask
from nets.architectures import architecture_options, build, without_auxiliary
from nets.batches import normalised
from nets.datasets import Dataset
from nets.export import GraphCache, graph
from nets.figures import Figures, figures
from nets.narrowing import fit_shapes

GOLDEN_IMAGES = 8
# Elements from which on a tensor of a quantized model is worth an entry in the header of the weights.
LARGE = 256
# Fewer zeros do not pay for the mask, and compressing all words of a large network takes long.
SPARSE_SHARE = 0.02


@dataclass(frozen=True)
class Publication:
    """What a model says of itself beside its weights; `data` gives classes, normalisation and golden images."""

    id: str
    kind: Literal["trained", "pruned", "distilled", "quantized"]
    architecture: dict[str, Any]
    data: Dataset
    training: dict[str, Any]
    metrics: dict[str, float]
    dataset: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None


def publish(directory: Path, network: nn.Module, *, request: Publication, graphs: GraphCache) -> ModelManifest:
    """Fills an empty directory with graph, weights, golden images and manifest; returns the manifest.

    Auxiliary heads are left out: they are for trainings.
    """
    data = request.data
    network, architecture = without_auxiliary(
        network.to("cpu").eval(), architecture_options(request.architecture), **data.look
    )
    request = replace(request, architecture=architecture.model_dump(mode="json"))
    bare = graph(network, architecture, channels=data.channels, image_size=data.image_size, cache=graphs)
    counts = figures(network, channels=data.channels, image_size=data.image_size)
    with torch.inference_mode():
        golden = _golden(network, data)
    return _write(directory, request, bare=bare, tensors=state_arrays(network), golden=golden, counts=counts)


def publish_quantized(
    directory: Path, model: onnx.ModelProto, *, request: Publication, ask: Ask, counts: Figures
) -> ModelManifest:
    """The same of an ONNX model with integer weights; `ask` runs it, `counts` are of the network it was.

    Its large tensors are stored as weights, its scales stay in the graph: they are many and small.
    """
    large = {tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) >= LARGE}
    tensors = {name: numpy_helper.to_array(tensor) for name, tensor in large.items()}
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in tensors.values() if array.dtype == np.int8)
    counts = replace(counts, nonzero_parameters=min(counts.nonzero_parameters, counts.parameters - zeros))
    golden = _golden(ask, request.data)
    return _write(directory, request, bare=bare_graph(model, large), tensors=tensors, golden=golden, counts=counts)


def _write(
    directory: Path,
    request: Publication,
    *,
    bare: bytes,
    tensors: Mapping[str, NDArray[Any]],
    golden: Mapping[str, NDArray[Any]],
    counts: Figures,
) -> ModelManifest:
    (directory / GRAPH_NAME).write_bytes(bare)
    weights = _write_weights(directory, tensors)
    save_file(dict(golden), directory / GOLDEN_NAME)
    return write_manifest(directory, _manifest(request, weights=weights, tensors=tensors, counts=counts))


def load_network(directory: Path) -> tuple[nn.Module, ModelManifest]:
    """Rebuilds a published network, in evaluation mode; DamagedFiles if the directory is not what was written."""
    manifest = read_manifest(directory)
    look = manifest.preprocessing
    network = build(
        architecture_options(manifest.architecture),
        classes=len(manifest.classes),
        channels=look.channels,
        image_size=look.image_size,
        seed=0,
    )
    tensors = read_weights(manifest.path_of(directory, manifest.weights.file))
    if weights_sha256(tensors) != manifest.weights.sha256:
        raise DamagedFiles("the weights are not those that were published")
    state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    # One that was cut has fewer channels than its options say.
    cut = fit_shapes(network, {name: array.shape for name, array in tensors.items()})
    try:
        network.load_state_dict(state)
        if cut:  # whether what one layer makes is what the next one reads
            image = torch.zeros(1, look.channels, look.image_size, look.image_size)
            with torch.inference_mode():
                network.eval()(image)
    except RuntimeError as error:
        raise DamagedFiles(f"the weights do not fit the architecture: {error}") from error
    return network.to(memory_format=torch.channels_last).eval(), manifest


def state_arrays(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The state dict as contiguous arrays."""
    return {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}


def weights_sha256(tensors: Mapping[str, NDArray[Any]]) -> str:
    """A SHA-256 over names, types, shapes and values, whatever the coding on disk; in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_weights(directory: Path, tensors: Mapping[str, NDArray[Any]]) -> Weights:
    coding: Coding
    coded = [array for array in tensors.values() if array.dtype in CODED]
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in coded)
    write_dense(directory / DENSE_NAME, tensors)
    name, coding = DENSE_NAME, "dense"
    if zeros >= SPARSE_SHARE * sum(array.size for array in coded):
        write_sparse(directory / SPARSE_NAME, tensors)
        name, coding = _keep_smaller(directory)
    return Weights(file=name, coding=coding, sha256=weights_sha256(tensors))


def _keep_smaller(directory: Path) -> tuple[str, Coding]:
    dense, sparse = directory / DENSE_NAME, directory / SPARSE_NAME
    smaller, larger = sorted((sparse, dense), key=lambda path: path.stat().st_size)
    larger.unlink()
    return smaller.name, SPARSE if smaller == sparse else "dense"


def _golden(ask: Ask, data: Dataset) -> dict[str, NDArray[Any]]:
    """A few validation images, spread over the split and so over the classes, with their logits."""
    split = data.validation
    count = min(GOLDEN_IMAGES, len(split))
    pixels = split.images(torch.linspace(0, len(split) - 1, count).long())
    logits = ask(normalised(pixels, data, torch.device("cpu")))
    return {"pixels": pixels.contiguous().numpy(), "logits": logits.contiguous().numpy()}


def _manifest(
    request: Publication, *, weights: Weights, tensors: Mapping[str, NDArray[Any]], counts: Figures
) -> ModelManifest:
    data = request.data
    look = {"image_size": data.image_size, "channels": data.channels, "mean": data.mean, "std": data.std}
    return ModelManifest(
        id=request.id,
        kind=request.kind,
        architecture=request.architecture,
        classes=data.classes,
        preprocessing=Preprocessing.model_validate(look),
        weights=weights,
        shapes={name: array.shape for name, array in tensors.items()},
        parameters=counts.parameters,
        nonzero_parameters=counts.nonzero_parameters,
        macs=counts.macs,
        metrics=request.metrics,
        training=request.training,
        dataset={"fingerprint": data.fingerprint, **request.dataset},
        lineage=request.lineage,
        environment=environment(),
        calibration=request.calibration,
    )


def environment() -> dict[str, str]:
    """What a result may depend on beside the spec."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }
