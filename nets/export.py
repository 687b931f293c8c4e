"""From a network to an ONNX graph without weights.

Tracing takes 5 to 19 seconds and depends on shapes only, so graphs are kept by what they depend on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Protocol

import onnx
import torch
from torch import nn

from formats.graphs import bare_graph
from specs.options import Options

INPUT_NAME = "images"
OUTPUT_NAME = "logits"
OPSET = 18
# What torch loads no sooner than it exports for the first time.
LOADED_LATE = (
    "networkx",
    "onnxscript.function_libs.torch_lib",
    "torch._functorch.aot_autograd",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
)
# Raise it when the way graphs are made changes, so that kept ones are made anew.
FORMAT = 1


class GraphCache(Protocol):
    """Keeps graphs from one publication to the next."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, data: bytes) -> None: ...


def graph(network: nn.Module, architecture: Options, *, channels: int, image_size: int, cache: GraphCache) -> bytes:
    """The network's bare graph (formats.graphs), from the cache if one of the same shapes is there.

    Its input is `images`, float32 of shape (batch, channels, image_size, image_size), already normalised;
    its output is `logits` of shape (batch, classes). Initializers bear the names of the state dict.
    """
    key = graph_key(network, architecture, channels=channels, image_size=image_size)
    kept = cache.get(key)
    if kept is not None:
        return kept
    made = bare_graph(onnx_model(network, channels=channels, image_size=image_size), network.state_dict())
    cache.put(key, made)
    return made


def graph_key(network: nn.Module, architecture: Options, *, channels: int, image_size: int) -> str:
    """A SHA-256 over all that a graph depends on, in hexadecimal; the classes are in the shapes."""
    parts = {
        "architecture": architecture.model_dump(mode="json"),
        "shapes": {name: list(value.shape) for name, value in network.state_dict().items()},
        "input": [channels, image_size],
        "versions": [FORMAT, OPSET, torch.__version__, onnx.__version__],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def onnx_model(network: nn.Module, *, channels: int, image_size: int) -> onnx.ModelProto:
    """The whole ONNX model of a network in evaluation mode; batch normalisation is left for runtimes to fold."""
    still = copy.deepcopy(network).to("cpu").to(memory_format=torch.contiguous_format).eval()
    # Weights that want gradients are traced once more, a fifth of the time for nothing.
    still.requires_grad_(False)
    _leave_inputs_alone(still)
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, channels, image_size, image_size)
    _keep_operations()
    with silence(), uncollected():
        program = torch.onnx.export(
            still,
            (example,),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: "batch"},),
        )
    assert program is not None
    return program.model_proto


def _leave_inputs_alone(network: nn.Module) -> None:
    """ONNX has nothing in place, and PyTorch takes such operations apart first: with ReLU6 two fifths of the time."""
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.Hardtanh):
            module.inplace = False


def load() -> None:
    """Loads what exports need, which takes two or three seconds, and computes nothing."""
    for name in LOADED_LATE:
        with contextlib.suppress(ImportError):  # names of torch's inner parts change
            import_module(name)
    kept = _keep_operations()
    if kept is not None:
        with silence(), contextlib.suppress(Exception):  # inner parts as well: an export does it again, or tells
            kept(opset_version=OPSET)


def _keep_operations() -> Callable[..., object] | None:
    """Has torch read its operations once in a process; gives what it reads them with, if it still has that name.

    It parses the source of 500 functions for each export, half a second and more than the rest takes for a small
    network. What comes of it depends on the opset alone; only operations of one's own, of which we have none, are
    added to it.
    """
    with contextlib.suppress(ImportError, AttributeError):
        registry = import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        read: Callable[..., object] = registry.from_torchlib
        if not hasattr(read, "cache_info"):
            read = functools.cache(read)
            registry.from_torchlib = staticmethod(read)
        return read
    return None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Python looks for no cycles, within: among so many new objects that live on it takes an eighth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Libraries that print, warn and log their progress do not, within; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
