"""ONNX graphs without their weights, and with them again.

A bare graph keeps each weight's name, type and shape but not its data, so that a network's graph is
stored once and its weights once. A constant that is not among the weights stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import zstandard
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from formats.files import DamagedFiles

GRAPH_NAME = "graph.onnx.zst"
MAX_GRAPH_BYTES = 1 << 28


def bare_graph(model: onnx.ModelProto, weights: Mapping[str, Any]) -> bytes:
    """The graph under zstd, without the data of the initializers named in `weights` and without descriptive text."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("int64_data")
    _forget_descriptions(bare)
    return zstandard.ZstdCompressor(level=19).compress(bare.SerializeToString(deterministic=True))


def _forget_descriptions(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.ClearField("doc_string")
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")


def filled_graph(data: bytes, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """A whole ONNX model, serialized, from a bare graph and its weights."""
    model = _parse(data)
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") and not _has_own_data(tensor):
            _fill(tensor, weights)
    whole: bytes = model.SerializeToString()
    return whole


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plain = reader.read(MAX_GRAPH_BYTES + 1)
        if len(plain) > MAX_GRAPH_BYTES:
            raise DamagedFiles("the graph is too large")
        model: onnx.ModelProto = onnx.ModelProto.FromString(plain)
    except (zstandard.ZstdError, DecodeError, ValueError, RuntimeError) as error:
        raise DamagedFiles(f"the graph cannot be read: {error}") from error
    if not model.graph.node:
        raise DamagedFiles("the graph is empty")
    return model


def _has_own_data(tensor: onnx.TensorProto) -> bool:
    return bool(len(tensor.float_data) or len(tensor.int64_data) or len(tensor.int32_data))


def _fill(tensor: onnx.TensorProto, weights: Mapping[str, NDArray[Any]]) -> None:
    array = weights.get(tensor.name)
    if array is None:
        raise DamagedFiles(f"the weights have no {tensor.name}")
    wanted = numpy_helper.to_array(_empty(tensor)).dtype
    if list(array.shape) != list(tensor.dims) or array.dtype != wanted:
        raise DamagedFiles(f"{tensor.name} has another shape or type than the graph says")
    tensor.raw_data = np.ascontiguousarray(array).tobytes()


def _empty(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto(data_type=tensor.data_type, dims=[0], raw_data=b"")
