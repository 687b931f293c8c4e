"""Whether a training can fit into memory, told before any is taken."""

from __future__ import annotations

import torch

from nets.architectures import build
from nets.errors import TooLarge
from specs.options import Options

# Weights, their gradients, and up to two moments of the optimizer; activations come on top.
COPIES = 4
GIGABYTE = 1e9


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
