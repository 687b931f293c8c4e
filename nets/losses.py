"""What a training makes small: cross-entropy, with smoothed labels and weighted classes, of whole and mixed targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nets.errors import WrongClassWeights
from specs.training import LossOptions


@dataclass(frozen=True)
class Weighed:
    """A sum of losses and the sum of their weights, both scalars; the loss of a batch is their quotient.

    Batches that make one step together add up by both, so that they count as one large batch.
    """

    total: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        return self.total / self.weight


@dataclass(frozen=True)
class Loss:
    """Cross-entropy: `weights` is float32 (classes,), `smoothing` the share of a label spread over all classes.

    An image counts as much as the weight of its class, smoothed or not. PyTorch's loss weighs each class that a label
    is spread to: beside common classes of little weight a rare one gets so much of every image that a network which
    takes all images for it has the smallest loss.
    """

    weights: Tensor | None = None
    smoothing: float = 0.0

    def of(self, logits: Tensor, labels: Tensor) -> Weighed:
        """The loss of logits (N, classes) for labels (N,)."""
        return Weighed(self._of_each(logits, labels).sum(), self._weights_of(labels).sum())

    def of_mixed(self, logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor) -> Weighed:
        """The loss for images of two labels each, of which the first counts `share` (N,)."""
        own, other = (self._of_each(logits, part) for part in (labels, partners))
        weights = torch.lerp(self._weights_of(partners), self._weights_of(labels), share)
        return Weighed(torch.lerp(other, own, share).sum(), weights.sum())

    def _of_each(self, logits: Tensor, labels: Tensor) -> Tensor:
        each = cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        return each if self.weights is None else each * self.weights[labels]

    def _weights_of(self, labels: Tensor) -> Tensor:
        if self.weights is None:
            return torch.ones_like(labels, dtype=torch.float32)
        return self.weights[labels]


PLAIN = Loss()


def build(options: LossOptions, labels: Tensor, *, classes: int) -> Loss:
    """The loss of a training on these labels (N,), on their device; raises WrongClassWeights."""
    if options.class_weights is None:
        return Loss(None, options.label_smoothing)
    if options.class_weights == "balanced":
        # King, Zeng: Logistic Regression in Rare Events Data, Political Analysis 9, 2001; as scikit-learn has it.
        counts = torch.bincount(labels, minlength=classes).clamp(min=1)
        return Loss((len(labels) / (classes * counts)).to(torch.float32), options.label_smoothing)
    if len(options.class_weights) != classes:
        raise WrongClassWeights(len(options.class_weights), classes)
    return Loss(torch.tensor(options.class_weights, device=labels.device), options.label_smoothing)
