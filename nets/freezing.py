"""Training the heads of a network only: all other weights, and the statistics of batch normalisation, stay."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nets.layers import layers_of


def freeze_backbone(network: nn.Module) -> None:
    """From now on only the heads are trained."""
    network.requires_grad_(False)
    for name in layers_of(network).heads:
        network.get_submodule(name).requires_grad_(True)


def train(network: nn.Module, *, frozen: bool) -> None:
    """Training mode; batch normalisation in a frozen network stays in evaluation mode."""
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
