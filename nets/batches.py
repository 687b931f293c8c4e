"""Batches of training images.

The order is a permutation that (seed, epoch) decides; to take up an epoch is to skip batches.
An epoch's last batch holds what is left over. If that is one image, it joins the batch before: batch normalisation
finds no variance in a single image of 1 x 1 features, and no image should be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nets.augmentations import augment
from nets.datasets import Dataset
from nets.losses import PLAIN, Loss, Weighed
from nets.mixing import mix, partners
from nets.seeds import Chance, derived_seed, permutation
from specs.augmentations import AugmentationOptions, MixingOptions


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W) float32, normalised, and labels (N,).

    Where images are mixed, `partners` (N,) are the labels of what was mixed in, and `share` (N,) float32 is how much
    of each image is its own.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def loss(self, logits: Tensor, loss: Loss = PLAIN) -> Weighed:
        """The loss for the labels, weighed with that for the partners' where images are mixed."""
        if self.partners is None or self.share is None:
            return loss.of(logits, self.labels)
        return loss.of_mixed(logits, self.labels, self.partners, self.share)

    def correct(self, logits: Tensor) -> int:
        """How many images are taken for the class that has the larger share in them."""
        labels = self.labels
        if self.partners is not None and self.share is not None:
            labels = torch.where(self.share >= 0.5, labels, self.partners)
        return int((logits.argmax(dim=1) == labels).sum())


@dataclass(frozen=True)
class Batches:
    """The batches of a training split, epoch by epoch."""

    data: Dataset
    batch_size: int
    augmentation: tuple[AugmentationOptions, ...]
    seed: int
    device: torch.device

    def __len__(self) -> int:
        return len(self._sizes())

    @property
    def some_full(self) -> bool:
        """Whether some batch has exactly as many images as was asked for."""
        return self._sizes()[0] == self.batch_size

    def of_epoch(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches from number `skip` on."""
        order = permutation(len(self.data.train), seed=derived_seed("order", self.seed, epoch))
        for indices in torch.split(order, self._sizes())[skip:]:
            yield self._batch(Chance(indices.numpy(), self.seed, epoch))

    def _batch(self, chance: Chance) -> Batch:
        split, pixels = self.data.train, self._changed(chance)
        labels = split.labels[torch.from_numpy(chance.indices)].to(self.device)
        mixing = next((options for options in self.augmentation if isinstance(options, MixingOptions)), None)
        if mixing is None:
            return Batch(normalised(pixels, self.data, self.device), labels)
        others = chance.of(partners(chance, count=len(split)))
        mixed, share = mix(mixing, pixels, self._changed(others), chance)
        other_labels = split.labels[torch.from_numpy(others.indices)].to(self.device)
        return Batch(normalised(mixed, self.data, self.device), labels, other_labels, share.to(self.device))

    def _changed(self, chance: Chance) -> Tensor:
        """Images after all changes but the mixing: a partner looks as it would by itself in this epoch."""
        pixels = self.data.train.images(torch.from_numpy(chance.indices))
        mean_colour = torch.tensor(self.data.mean).mul(255).round().to(torch.uint8)
        return augment(self.augmentation, pixels, chance, fill=mean_colour)

    def _sizes(self) -> list[int]:
        whole, left = divmod(len(self.data.train), self.batch_size)
        sizes = [self.batch_size] * whole
        if left == 1 and sizes:
            sizes[-1] += 1
        elif left:
            sizes.append(left)
        return sizes


def normalised(pixels: Tensor, data: Dataset, device: torch.device) -> Tensor:
    """(pixel / 255 - mean) / std of pixels 0 to 255 (N, H, W, C), as float32 (N, C, H, W) channels last in memory."""
    mean, std = (torch.tensor(value, dtype=torch.float64) for value in (data.mean, data.std))
    count, height, width, channels = pixels.shape
    # One factor and one addend for each value of a row: rows are long enough for vector instructions, colours are not.
    factor, addend = (row.to(torch.float32).repeat(width).to(device) for row in (1 / (255 * std), -mean / std))
    rows = pixels.to(device).reshape(count * height, width * channels).to(torch.float32, copy=True)
    return rows.mul_(factor).add_(addend).reshape(pixels.shape).permute(0, 3, 1, 2)
