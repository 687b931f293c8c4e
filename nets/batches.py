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
from nets.seeds import derived_seed, permutation
from specs.options import Options


@dataclass(frozen=True)
class Batches:
    """The batches of a training split, epoch by epoch."""

    data: Dataset
    batch_size: int
    augmentation: Options
    seed: int
    device: torch.device

    def __len__(self) -> int:
        return len(self._sizes())

    def of_epoch(self, epoch: int, *, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) float32, normalised, and labels (N,), from batch number `skip` on."""
        split = self.data.train
        order = permutation(len(split), seed=derived_seed("order", self.seed, epoch))
        for indices in torch.split(order, self._sizes())[skip:]:
            pixels = augment(self.augmentation, split.images(indices), indices=indices, seed=self.seed, epoch=epoch)
            yield normalised(pixels, self.data, self.device), split.labels[indices].to(self.device)

    def _sizes(self) -> list[int]:
        whole, left = divmod(len(self.data.train), self.batch_size)
        sizes = [self.batch_size] * whole
        if left == 1 and sizes:
            sizes[-1] += 1
        elif left:
            sizes.append(left)
        return sizes


def normalised(pixels: Tensor, data: Dataset, device: torch.device) -> Tensor:
    """(pixel / 255 - mean) / std of uint8 (N, H, W, C), as float32 (N, C, H, W) that lies channels last in memory."""
    mean = torch.tensor(data.mean, dtype=torch.float32, device=device)
    std = torch.tensor(data.std, dtype=torch.float32, device=device)
    levels = pixels.to(device).to(torch.float32) / 255
    return ((levels - mean) / std).permute(0, 3, 1, 2)
