"""Batch normalisation: whether a network has any, and how soon its running means and variances forget."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# PyTorch's momentum of 0.1 looks back on about ten batches.
WINDOW = 10
SHORTEST = 2
SHARE = 1 / 20


def normalises(network: nn.Module) -> bool:
    """Whether there is any batch normalisation in the network."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def keep_pace(network: nn.Module, batches: int) -> None:
    """Lets running statistics look back on a twentieth of so many batches: two at least, ten at most.

    In a training of some dozen steps ten are many: weights have changed a lot since, and errors add up from layer to
    layer. MobileNetV2, 63 steps on the digits by the recipe `fast`, was right on 97 % of its training batches and on
    28 % of the test images by PyTorch's momentum, on 96 % by this one, as many as with statistics taken anew after
    the training. (Wu, Johnson: Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 3)
    """
    window = min(WINDOW, max(SHORTEST, batches * SHARE))
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1 / window
