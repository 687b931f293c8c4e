"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Figures:
    """Counts; `macs` is multiply-accumulates of convolutions and linear layers for one image, zeros included."""

    parameters: int
    nonzero_parameters: int
    macs: int


def figures(network: nn.Module, *, channels: int, image_size: int) -> Figures:
    """Counts parameters, and multiply-accumulates by one forward pass of one image in evaluation mode."""
    nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in network.parameters())
    macs = multiply_accumulates(network, channels=channels, image_size=image_size)
    return Figures(parameter_count(network), nonzero, macs)


def parameter_count(network: nn.Module) -> int:
    """How many parameters a network has; it may be on the meta device."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_accumulates(network: nn.Module, *, channels: int, image_size: int) -> int:
    """Those of one image, counted in a forward pass in evaluation mode; on the meta device that takes no memory."""
    counts: list[int] = []

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Each output value costs one multiplication for each weight of its filter or row.
        counts.append(output.numel() * (weight.numel() // weight.shape[0]))

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    was_training = network.training
    image = torch.zeros(1, channels, image_size, image_size, device=next(network.parameters()).device)
    try:
        with torch.inference_mode():
            network.eval()(image)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return sum(counts)
