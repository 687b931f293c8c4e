"""Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531: a network learns from another.

Beside the labels, the student is told how probable the teacher thinks each class, both softened by a temperature. The
teacher sees the very images that the student sees, changed as they are (Beyer et al., arXiv 2106.05237).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from nets.errors import OtherClasses


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode; its word counts `alpha` and that of the labels 1 - `alpha`."""

    network: nn.Module
    temperature: float
    alpha: float

    def to(self, device: torch.device) -> Teacher:
        """The same on a device, its images channels last."""
        network = self.network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        return Teacher(network, self.temperature, self.alpha)

    def tell(self, images: Tensor) -> Tensor:
        """Log-probabilities (N, classes) at the temperature, without gradients."""
        with torch.no_grad():
            return log_softmax(self.network(images).float() / self.temperature, 1)

    def disagreement(self, logits: Tensor, images: Tensor) -> Tensor:
        """The divergence of the student's logits (N, classes), summed over images, times the square of the temperature.

        With that factor its gradients are of the size of cross-entropy's, whatever the temperature (section 2).
        """
        told = self.tell(images)
        if told.shape != logits.shape:
            raise OtherClasses(told.shape[1], logits.shape[1])
        student = log_softmax(logits.float() / self.temperature, 1)
        return kl_div(student, told, reduction="sum", log_target=True) * self.temperature**2
