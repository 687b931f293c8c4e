"""Images with labels in memory, split by the rule of specs/splits.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from formats.images import ImageShape, resize_pixels
from specs.datasets import BuiltinDataset
from specs.splits import Splits, split_contents


@dataclass(frozen=True)
class Split:
    """`pixels` uint8 of shape (N, H, W, C), `labels` int64 of shape (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


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
        return int(self.train.pixels.shape[1])


@dataclass(frozen=True)
class Images:
    """All images of a set before they are split: `pixels` uint8 (N, H, W) or (N, H, W, 3), `labels` int64 (N,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


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
    train = _split(images, splits.train, shape)
    mean, std = _moments(train.pixels)
    return Dataset(
        train=train,
        validation=_split(images, splits.validation, shape),
        test=_split(images, splits.test, shape),
        classes=dataset.classes,
        channels=dataset.channels,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(images, splits),
    )


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _split(images: Images, numbers: Iterable[int], shape: ImageShape) -> Split:
    order = list(numbers)
    pixels = np.stack([resize_pixels(images.pixels[number], shape) for number in order])
    return Split(torch.from_numpy(pixels), torch.from_numpy(images.labels[order]))


def _moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    levels = pixels.to(torch.float64) / 255
    mean = levels.mean(dim=(0, 1, 2)).tolist()
    std = levels.std(dim=(0, 1, 2), correction=0).tolist()
    # A channel that never varies would divide by zero.
    return tuple(mean), tuple(value if value > 0 else 1.0 for value in std)


def _fingerprint(images: Images, splits: Splits) -> str:
    """Over the split, label and original pixels of every image, whatever their order and the size asked for."""
    records = []
    for split, numbers in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        for number in numbers:
            head = f"{split}:{images.labels[number]}:{images.pixels[number].shape}:"
            records.append(_sha256(head.encode() + images.pixels[number].tobytes()))
    return "sha256:" + hashlib.sha256(b"".join(sorted(records))).hexdigest()
