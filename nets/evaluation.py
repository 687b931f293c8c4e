"""How well a network does on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nets.answers import Told, answers
from nets.datasets import Dataset, Split


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, share of right answers, and how many images of each class (row) were taken for which."""

    loss: float
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]


def evaluate(
    network: nn.Module, split: Split, data: Dataset, *, batch_size: int | None = None, told: Told | None = None
) -> Evaluation:
    """Runs the split through the network in evaluation mode, on the device it is on, without changing it."""
    given = answers(network, split, data, batch_size=batch_size, told=told)
    classes = len(data.classes)
    cells = torch.bincount(given.labels * classes + given.predicted, minlength=classes * classes)
    return Evaluation(given.loss, given.accuracy, tuple(tuple(row) for row in cells.reshape(classes, classes).tolist()))
