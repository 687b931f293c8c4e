"""How well a network does on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nets.batches import normalised
from nets.datasets import Dataset, Split


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, share of right answers, and how many images of each class (row) were taken for which."""

    loss: float
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]


def evaluate(network: nn.Module, split: Split, data: Dataset, *, batch_size: int = 256) -> Evaluation:
    """Runs the split through the network in evaluation mode, on the device it is on, without changing it."""
    device = next(network.parameters()).device
    classes = len(data.classes)
    loss, cells = 0.0, torch.zeros(classes * classes, dtype=torch.int64)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for indices in torch.split(torch.arange(len(split)), batch_size):
            labels = split.labels[indices]
            logits = network(normalised(split.images(indices), data, device)).cpu()
            loss += cross_entropy(logits, labels, reduction="sum").item()
            cells += torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes * classes)
    network.train(was_training)
    confusion = cells.reshape(classes, classes)
    accuracy = int(confusion.trace()) / len(split)
    return Evaluation(loss / len(split), accuracy, tuple(tuple(row) for row in confusion.tolist()))
