"""What memory a training will take, told before any is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nets.answers import batch_for
from nets.architectures import build
from nets.datasets import Dataset
from nets.errors import TooLarge
from specs.options import Options

# Weights, their gradients, and up to two moments of the optimizer; activations come on top.
COPIES = 4
GIGABYTE = 1e9
# What is kept for the backward pass is not all: gradients of activations, and what a convolution works on. Measured,
# memory grows 1.15 (DenseNet-121) to 1.26 times as much with the batch (VGG-11).
GROWTH = 1.3
# While a network answers, an activation, the one it is made of, and a shortcut past both.
ANSWERING = 3


@dataclass(frozen=True)
class Footprint:
    """Bytes on top of what a process holds before a training: whatever the batch, for each image, for validations."""

    fixed: int
    per_image: int
    validation: int


def check_fits(
    options: Options, *, classes: int, channels: int, image_size: int, available: int, averaged: bool = False
) -> None:
    """Raises TooLarge if the parameters alone need more than `available` bytes; builds nothing to find out.

    `averaged` says that the training keeps an average of the weights beside them.
    """
    with torch.device("meta"):
        network = build(options, classes=classes, channels=channels, image_size=image_size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    needed = (COPIES + averaged) * sum(
        parameter.numel() * parameter.element_size() for parameter in network.parameters()
    )
    if needed > available:
        raise TooLarge(parameters, needed / GIGABYTE, available / GIGABYTE)


def footprint(network: nn.Module, data: Dataset, *, averaged: bool = False) -> Footprint:
    """What a training of a network that is there would hold at its peak, counted on tensors without content.

    All of its weights count as trained, and all numbers as float32.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    kept, largest = _activations(network, data)
    # A checkpoint copies weights and moments before it writes them.
    copies = 2 * (COPIES - 1 + averaged)
    return Footprint(copies * weights, int(GROWTH * kept), ANSWERING * largest * batch_for(data))


def _activations(network: nn.Module, data: Dataset) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass for each image, and those of the largest of them."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shadows = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    for name, parameter in network.named_parameters():
        shadows[name].requires_grad_(parameter.requires_grad)
    weights = {shadow.untyped_storage()._cdata for shadow in shadows.values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    images = torch.empty((2, data.channels, data.image_size, data.image_size), device="meta")
    was_training = network.training
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(network.train(), shadows, (images,))
    network.train(was_training)
    sizes = [storage.nbytes() for storage in kept.values()]
    return sum(sizes) // 2, max(sizes, default=0) // 2
