"""Exponential moving averages of a network's weights (Polyak, Juditsky, SIAM J. Control Optim. 30, 1992, in spirit).

The average begins as the first weights, and forgets them soon: after t steps it keeps (1 + t) / (10 + t) of itself at
most, TensorFlow's rule. Running means and variances of batch normalisation are averaged with the weights, since those
of the trained network are of other weights; counters are copied.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class Average:
    """The average of a network that is trained, as a network of its own, in evaluation mode."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).requires_grad_(False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, *, steps: int) -> None:
        """Takes in the weights after `steps` steps."""
        share = 1 - min(self._decay, (1 + steps) / (10 + steps))
        for own, new in zip(_tensors(self.network), _tensors(network), strict=True):
            if own.is_floating_point():
                own.lerp_(new, share)
            else:
                own.copy_(new)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
