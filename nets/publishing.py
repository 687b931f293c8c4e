"""A network as a model directory that can be served without torch, and back."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME
from formats.manifest import GOLDEN_NAME, ModelManifest, Preprocessing, Weights, read_manifest, write_manifest
from formats.weights import DENSE_NAME, SPARSE_NAME, Coding, read_weights, write_dense, write_sparse
from nets.architectures import architecture_options, build, without_auxiliary
from nets.batches import normalised
from nets.datasets import Dataset
from nets.export import GraphCache, graph
from nets.figures import figures
from nets.narrowing import fit_shapes

GOLDEN_IMAGES = 8
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


def publish(directory: Path, network: nn.Module, *, request: Publication, graphs: GraphCache) -> ModelManifest:
    """Fills an empty directory with graph, weights, golden images and manifest; returns the manifest.

    Auxiliary heads are left out: they are for trainings.
    """
    data = request.data
    network, architecture = without_auxiliary(
        network.to("cpu").eval(), architecture_options(request.architecture), **data.look
    )
    request = replace(request, architecture=architecture.model_dump(mode="json"))
    tensors = state_arrays(network)
    bare = graph(network, architecture, channels=data.channels, image_size=data.image_size, cache=graphs)
    (directory / GRAPH_NAME).write_bytes(bare)
    weights = _write_weights(directory, tensors)
    save_file(_golden(network, data), directory / GOLDEN_NAME)
    return write_manifest(directory, _manifest(network, request, weights=weights, tensors=tensors))


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
    tensors = read_weights(directory / manifest.weights.file)
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
    floats = [array for array in tensors.values() if array.dtype == np.float32]
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in floats)
    write_dense(directory / DENSE_NAME, tensors)
    name, coding = DENSE_NAME, "dense"
    if zeros >= SPARSE_SHARE * sum(array.size for array in floats):
        write_sparse(directory / SPARSE_NAME, tensors)
        name, coding = _keep_smaller(directory)
    return Weights(file=name, coding=coding, sha256=weights_sha256(tensors))


def _keep_smaller(directory: Path) -> tuple[str, Coding]:
    dense, sparse = directory / DENSE_NAME, directory / SPARSE_NAME
    smaller, larger = sorted((sparse, dense), key=lambda path: path.stat().st_size)
    larger.unlink()
    return smaller.name, "sparse-1" if smaller == sparse else "dense"


def _golden(network: nn.Module, data: Dataset) -> dict[str, NDArray[Any]]:
    """A few validation images, spread over the split and so over the classes, with the network's logits."""
    split = data.validation
    count = min(GOLDEN_IMAGES, len(split))
    pixels = split.images(torch.linspace(0, len(split) - 1, count).long())
    with torch.inference_mode():
        logits = network(normalised(pixels, data, torch.device("cpu")))
    return {"pixels": pixels.contiguous().numpy(), "logits": logits.contiguous().numpy()}


def _manifest(
    network: nn.Module, request: Publication, *, weights: Weights, tensors: Mapping[str, NDArray[Any]]
) -> ModelManifest:
    data = request.data
    counts = figures(network, channels=data.channels, image_size=data.image_size)
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
    )


def environment() -> dict[str, str]:
    """What a result may depend on beside the spec."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }
