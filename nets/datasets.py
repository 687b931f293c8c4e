"""Images with labels, split by the rule of specs/splits.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from formats.fingerprints import fingerprint_of
from formats.images import ImageShape, resize_pixels
from nets.pixels import Pixels
from specs.datasets import BuiltinDataset
from specs.splits import Splits, split_contents


@dataclass(frozen=True)
class Split:
    """Some of the images: `numbers` int64 (N,) are their places in `pixels`, `labels` int64 (N,)."""

    pixels: Pixels
    numbers: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Images of the split, by default all: uint8 (n, H, W, C), in memory of their own."""
        return self.pixels.take(self.numbers if indices is None else self.numbers[indices])


@dataclass(frozen=True)
class Dataset:
    """Three splits; `mean` and `std` are those of the training split, a channel each, with pixels of 0 to 1."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def image_size(self) -> int:
        return self.train.pixels.shape[1]

    @property
    def untrained(self) -> list[str]:
        """The classes of which no image trains."""
        counts = torch.bincount(self.train.labels, minlength=len(self.classes))
        return [name for name, count in zip(self.classes, counts.tolist(), strict=True) if not count]

    @property
    def look(self) -> dict[str, int]:
        """What a network is built for: classes, channels, side of the images in pixels."""
        return {"classes": len(self.classes), "channels": self.channels, "image_size": self.image_size}


@dataclass(frozen=True)
class Images:
    """All images of a set before they are split: `pixels` uint8 (N, H, W) or (N, H, W, 3), `labels` int64 (N,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """Of each image and channel, the sum of the pixels (0 to 255) and of their squares: uint64 (N, C)."""

    sums: NDArray[np.uint64]
    squares: NDArray[np.uint64]


def moments_of(pixels: NDArray[np.uint8]) -> Moments:
    """The moments of images in memory, uint8 (N, H, W, C)."""
    wide = pixels.astype(np.uint64)
    return Moments(wide.sum(axis=(1, 2)), np.square(wide).sum(axis=(1, 2)))


def load(dataset: BuiltinDataset, *, image_size: int, seed: int, validation_fraction: float) -> Dataset:
    """A built-in data set, split and resized to image_size x image_size."""
    images = Images(*resolve_name(dataset.target)())
    return split_images(images, dataset, image_size=image_size, seed=seed, validation_fraction=validation_fraction)


def split_images(
    images: Images, dataset: BuiltinDataset, *, image_size: int, seed: int, validation_fraction: float
) -> Dataset:
    """Splits and resizes; the order in which the images come changes nothing."""
    contents = [image.tobytes() for image in images.pixels]
    splits = split_contents(contents, images.labels.tolist(), seed=seed, validation_fraction=validation_fraction)
    shape = ImageShape(image_size, dataset.channels)
    pixels = np.stack([resize_pixels(image, shape) for image in images.pixels])
    return assemble(
        Pixels(pixels),
        moments_of(pixels),
        labels=images.labels,
        splits=splits,
        classes=dataset.classes,
        fingerprint=fingerprint_of(
            images.pixels, [dataset.classes[label] for label in images.labels], test=splits.test
        ),
    )


def assemble(
    pixels: Pixels,
    moments: Moments,
    *,
    labels: NDArray[np.int64],
    splits: Splits,
    classes: tuple[str, ...],
    fingerprint: str,
) -> Dataset:
    """The data set of these images, `labels` (N,) being theirs; reads no pixels: mean and std are in the moments."""

    def split(numbers: list[int]) -> Split:
        places = np.array(numbers, dtype=np.int64)
        return Split(pixels, torch.from_numpy(places), torch.from_numpy(labels[places]))

    _, height, width, channels = pixels.shape
    mean, std = _statistics(moments, splits.train, area=height * width)
    return Dataset(
        train=split(splits.train),
        validation=split(splits.validation),
        test=split(splits.test),
        classes=classes,
        channels=channels,
        mean=mean,
        std=std,
        fingerprint=fingerprint,
    )


def _statistics(moments: Moments, numbers: list[int], *, area: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels being 0 to 1."""
    # Python's integers hold the sums and their squares exactly, so the order of the images changes no bit.
    count = area * len(numbers)
    sums, squares = (column[numbers].sum(axis=0).tolist() for column in (moments.sums, moments.squares))
    mean = tuple(total / (255 * count) for total in sums)
    spread = [
        math.sqrt(count * square - total * total) / (255 * count) for total, square in zip(sums, squares, strict=True)
    ]
    # A channel that never varies would divide by zero.
    return mean, tuple(value if value > 0 else 1.0 for value in spread)
