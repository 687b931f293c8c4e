"""The head of a classifier in its ONNX graph: feature maps, their means over the image, and one linear layer of those.

In such a network a class's logit is the mean over the image of its class activation map (CAM), and a bias: the
linear layer may as well be put before the mean (Zhou et al.: Learning Deep Features for Discriminative Localization,
arXiv 1512.04150). What is looked for is in the graph, whatever the architecture is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# What may stand between the layers of a head: it changes shapes, rounds, or does nothing when no training is on.
PASSING = frozenset({"Dropout", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"})
ROWS_AND_COLUMNS = {2, 3}
RANK = 4
# Tensors of our own bear a prefix that no exporter gives.
OWN = "pruneyard/"


def with_activation_maps(graph: bytes) -> bytes | None:
    """A serialized ONNX model whose one output is the logits (N, classes) and then all classes' maps, row by row.

    So (N, classes + classes * height * width), in one tensor, which every runtime runs as it runs any network. None
    for a network without such a head.
    """
    model = onnx.ModelProto.FromString(graph)
    head = _Graph(model.graph).head()
    if head is None:
        return None
    _append_maps(model.graph, head)
    whole: bytes = model.SerializeToString()
    return whole


@dataclass(frozen=True)
class _Head:
    """Names of tensors: feature maps (N, C, height, width), and weights, (classes, C) unless they lie across."""

    features: str
    weights: str
    across: bool


class _Graph:
    """A graph, to be walked up from its output."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._output = graph.output[0].name
        self._makers = {name: node for node in graph.node for name in node.output}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}

    def head(self) -> _Head | None:
        linear = self._linear(self._makers.get(self._output))
        if linear is None:
            return None
        pooling = self._makers.get(self._behind(linear.input[0]))
        if pooling is None or not self._pools(pooling):
            return None
        return _Head(pooling.input[0], linear.input[1], across=not _attribute(linear, "transB", 0))

    def _linear(self, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
        """The matrix product that makes the logits, with or without an addition after it."""
        if node is not None and node.op_type == "Add":
            products = [self._makers.get(name) for name in node.input]
            node = next((found for found in products if found is not None and found.op_type == "MatMul"), None)
        if node is None or node.op_type not in {"Gemm", "MatMul"}:
            return None
        plain = _attribute(node, "alpha", 1.0) == 1.0 and not _attribute(node, "transA", 0)
        return node if plain and self._stands(node.input[1]) else None

    def _behind(self, name: str) -> str:
        """The tensor that this one is made of by nothing but passing nodes."""
        while (node := self._makers.get(name)) is not None and node.op_type in PASSING:
            name = node.input[0]
        return name

    def _stands(self, name: str) -> bool:
        """Whether a tensor is among the weights, perhaps as integers with a scale."""
        return self._behind(name) in self._initializers

    def _pools(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "GlobalAveragePool":
            return True
        if node.op_type != "ReduceMean":
            return False
        axes = self._numbers(node.input[1]) if len(node.input) > 1 else _attribute(node, "axes", ())
        return {axis % RANK for axis in axes or ()} == ROWS_AND_COLUMNS

    def _numbers(self, name: str) -> Sequence[int] | None:
        """Whole numbers that stand in the graph."""
        found = self._behind(name)
        node, tensor = self._makers.get(found), self._initializers.get(found)
        if node is not None and node.op_type == "Constant":
            tensor = _attribute(node, "value", None)
            if tensor is None:
                return tuple(_attribute(node, "value_ints", ()))
        return None if tensor is None else tuple(np.ravel(numpy_helper.to_array(tensor)).tolist())


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any) -> Any:
    found = next((each for each in node.attribute if each.name == name), None)
    return otherwise if found is None else helper.get_attribute_value(found)


def _append_maps(graph: onnx.GraphProto, head: _Head) -> None:
    """The weights times the features of each place, without the mean, after the logits in the one output."""
    logits = graph.output[0].name
    for node in graph.node:
        node.output[:] = [OWN + name if name == logits else name for name in node.output]
    weights = OWN + "weights" if head.across else head.weights
    if head.across:
        graph.node.append(helper.make_node("Transpose", [head.weights], [weights], perm=[1, 0]))
    # A nought keeps that side as it is.
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1], dtype=np.int64), OWN + "shape"))
    graph.node.extend(
        [
            helper.make_node("Reshape", [head.features, OWN + "shape"], [OWN + "places"]),
            helper.make_node("MatMul", [weights, OWN + "places"], [OWN + "maps"]),
            helper.make_node("Flatten", [OWN + "maps"], [OWN + "row"], axis=1),
            helper.make_node("Concat", [OWN + logits, OWN + "row"], [logits], axis=1),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", None]))
