"""What a network answers to each image of a split, and how the answers of two networks differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nets.batches import normalised
from nets.datasets import Dataset, Split

Ask = Callable[[Tensor], Tensor]  # normalised images (N, C, H, W) to logits (N, classes)
Told = Callable[[], None]  # hears, after each batch, that there are more answers

# Two-sided 95 % of the normal distribution.
Z = 1.96
SUFFERED = 5
# Of a difference of two shares of images: 0.97 - 0.96 is a little more than 0.01.
DIGITS = 9
CPU = torch.device("cpu")
# Images of more pixels come fewer at a time: activations grow with their area.
AT_ONCE = 256
PIXELS_AT_ONCE = AT_ONCE * 64 * 64


@dataclass(frozen=True)
class Answers:
    """By image, (N,): its class and the one it was taken for, int64, and how probable the network thought that.

    `loss` is the mean cross-entropy; `logits` float32 (N, classes) are there only where they were to be kept.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: float = math.nan
    logits: Tensor | None = field(default=None, repr=False)

    @property
    def right(self) -> Tensor:
        """Which are right, bool (N,)."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return int(self.right.sum()) / len(self.labels)


def batch_for(data: Dataset) -> int:
    """How many images of a set a network answers at a time."""
    return max(1, min(AT_ONCE, PIXELS_AT_ONCE // data.image_size**2))


def answers(
    network: nn.Module,
    split: Split,
    data: Dataset,
    *,
    batch_size: int | None = None,
    keep_logits: bool = False,
    told: Told | None = None,
) -> Answers:
    """Those of a network in evaluation mode, on the device it is on; `batch_size` None takes `batch_for`."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        given = answers_of(
            network, split, data, batch_size=batch_size, device=device, keep_logits=keep_logits, told=told
        )
    network.train(was_training)
    return given


def answers_of(
    ask: Ask,
    split: Split,
    data: Dataset,
    *,
    batch_size: int | None = None,
    device: torch.device = CPU,
    keep_logits: bool = False,
    told: Told | None = None,
) -> Answers:
    """Those of whatever takes normalised images (N, C, H, W) on this device and gives logits (N, classes)."""
    found: list[Tensor] = []
    kept: list[Tensor] = []
    loss = 0.0
    for indices in torch.split(torch.arange(len(split)), batch_size or batch_for(data)):
        logits = ask(normalised(split.images(indices), data, device)).cpu()
        loss += cross_entropy(logits, split.labels[indices], reduction="sum").item()
        found.append(torch.stack([part.double() for part in logits.softmax(1).max(1)]))
        if keep_logits:
            kept.append(logits.float())
        if told is not None:
            told()
    confidence, predicted = torch.cat(found, 1)
    logits_kept = torch.cat(kept) if keep_logits else None
    return Answers(split.labels, predicted.long(), confidence, loss / len(split), logits_kept)


@dataclass(frozen=True)
class Difference:
    """How much more often the second network is right, as a share, with its interval at 95 %."""

    mean: float
    low: float
    high: float


def difference(before: Answers, after: Answers) -> Difference:
    """Both answered the same images, so only those that one of them got wrong count: a paired comparison.

    The interval is that of Agresti and Min (Simple improved confidence intervals for comparing matched proportions,
    Statistics in Medicine 24, 2005): half an image more of each of the four kinds, without which few images, or none
    that one alone got wrong, would seem to leave nothing open.
    """
    won = int((after.right & ~before.right).sum())
    lost = int((before.right & ~after.right).sum())
    count = len(before.right)
    centre, changed = (won - lost) / (count + 2), (won + lost + 1) / (count + 2)
    reach = Z * math.sqrt((changed - centre**2) / (count + 2))
    return Difference((won - lost) / count, max(-1.0, centre - reach), min(1.0, centre + reach))


def accuracy_by_class(given: Answers, classes: int) -> Tensor:
    """The share of right answers for the images of each class, float64 (classes,); NaN for a class without images."""
    counts = torch.bincount(given.labels, minlength=classes)
    right = torch.bincount(given.labels[given.right], minlength=classes)
    return right.double() / counts.double()


def confusion(given: Answers) -> list[list[int]]:
    """How many images of each class were taken for which: [class, the other, images], without pairs of none."""
    pairs = Counter(zip(given.labels.tolist(), given.predicted.tolist(), strict=True))
    return [[label, other, count] for (label, other), count in sorted(pairs.items())]


def suffered(before: Answers, after: Answers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes that lost most, worst first, with their accuracy `before` and `after`; none that lost nothing."""
    earlier, later = (accuracy_by_class(given, len(classes)) for given in (before, after))
    change = torch.nan_to_num(later - earlier)
    worst = change.argsort(stable=True)[:SUFFERED].tolist()
    return [
        {"label": classes[at], "before": float(earlier[at]), "after": float(later[at])}
        for at in worst
        if change[at] < 0
    ]
