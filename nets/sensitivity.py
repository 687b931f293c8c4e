"""What each layer bears: its weights or channels are cut, all others left, and validation images are asked again.

No training: what retraining would bring back is not in it, but which layers matter is (Li et al., arXiv 1608.08710,
section 3.2; Han et al., arXiv 1506.02626, figure 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nets.answers import DIGITS, Told, answers
from nets.datasets import Dataset, Split
from nets.filters import Cutter
from nets.narrowing import narrowed
from nets.pruning import prunable_weights, smallest

WEIGHT_SHARES = (0.5, 0.75, 0.9, 0.95)
CHANNEL_SHARES = (0.25, 0.5, 0.75)
IMAGES = 500
BEARABLE = 0.01


@dataclass(frozen=True)
class Layer:
    """A layer, or channels that go together, of `size` weights or channels; accuracy by the share that was cut."""

    name: str
    size: int
    accuracy: dict[float, float]

    def bears(self, whole: float) -> float:
        """The largest share that costs at most a point of the accuracy of the whole network; 0 if none is so small."""
        borne = (share for share, found in self.accuracy.items() if round(whole - found, DIGITS) <= BEARABLE)
        return max(borne, default=0.0)


def some(data: Dataset) -> Split:
    """Validation images, spread over the split."""
    split = data.validation
    chosen = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).long()
    return Split(split.pixels, split.numbers[chosen], split.labels[chosen])


def of_weights(network: nn.Module, data: Dataset, told: Told | None = None) -> Iterator[Layer]:
    """By the names that `layers` of a prune job takes; the network is left as it was."""
    split = some(data)
    for key, weight in prunable_weights(network).items():
        before = weight.clone()
        found = {}
        for share in WEIGHT_SHARES:
            weight.masked_fill_(smallest(weight, share), 0.0)
            found[share] = answers(network, split, data, told=told).accuracy
            weight.copy_(before)
        yield Layer(key.removesuffix(".weight"), weight.numel(), found)


def of_channels(cutter: Cutter, data: Dataset, told: Told | None = None) -> Iterator[Layer]:
    """By the name of the first layer that makes the channels, which `layers` of a prune job takes.

    Channels go in multiples of `round_to`: the shares are those that went, and a layer that loses none has no accuracy.
    """
    split = some(data)
    tries = [cutter.in_each(share) for share in CHANNEL_SHARES]
    for group in cutter.groups:
        found: dict[float, float] = {}
        for kept in tries:
            share = round(1 - len(kept[group.name]) / group.size, 6)
            if share and share not in found:
                lean = narrowed(cutter.network, [group], kept)
                found[share] = answers(lean, split, data, told=told).accuracy
        yield Layer(group.name, group.size, found)


def bearable_layers(layers: Sequence[Layer], whole: float) -> dict[str, float]:
    """What each layer bears alone, for `layers` of a prune job."""
    return {layer.name: layer.bears(whole) for layer in layers}
