"""The layers of a network before and after it was made smaller."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nets.layers import Layer

Layers = list[dict[str, Any]]  # of each its name, its shapes and its share of zeros
Shapes = dict[str, tuple[int, ...]]  # of the weights, by the name of the layer


def shapes_of(network: nn.Module) -> Shapes:
    """The shapes that a network has now."""
    layers = ((name, module) for name, module in network.named_modules() if isinstance(module, Layer))
    return {name: tuple(module.weight.shape) for name, module in layers}


def layers_since(network: nn.Module, before: Shapes) -> Layers:
    """Of each layer its name, the shape that its weights had and have, and the share of zeros among them."""
    return [_layer(name, network.get_submodule(name), shape) for name, shape in before.items()]


def _layer(name: str, module: nn.Module, before: tuple[int, ...]) -> dict[str, Any]:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    zeros = 1 - int(torch.count_nonzero(weight)) / weight.numel()
    return {"name": name, "shape": {"before": before, "after": tuple(weight.shape)}, "zeros": round(zeros, 5)}
