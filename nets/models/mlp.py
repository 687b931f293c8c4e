"""Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature 323, 1986.

How we differ: the activation can be chosen (rectified linear by default, not the logistic function), dropout may
follow each hidden layer, and the head is linear, for cross-entropy with softmax. Weights begin as suits the
activation (He et al., arXiv 1502.01852), since nothing normalises between layers.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nets.activations import activation, initialise
from specs.networks.mlp import MlpOptions


class Mlp(nn.Module):
    """Images of shape (N, C, H, W) to logits of shape (N, classes), by way of one flat row an image."""

    def __init__(self, options: MlpOptions, inputs: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *options.hidden)):
            layers += [nn.Linear(before, after), activation(options.activation), nn.Dropout(options.dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(options.hidden[-1], classes)
        self.hidden.apply(partial(initialise, name=options.activation))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(torch.flatten(images, 1)))
        return logits


def mlp(options: MlpOptions, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """A multilayer perceptron with fresh weights."""
    return Mlp(options, channels * image_size * image_size, classes)
