"""Changes to training images, a whole batch at a time.

Each is a pure function of (seed, epoch, image number): neither the batch an image is in nor what was drawn
before matters, so a training can be taken up anywhere.
"""

from __future__ import annotations

from pkgutil import resolve_name

import torch
from torch import Tensor
from torch.nn.functional import pad

from nets.seeds import derived_seed, draws
from specs.augmentations import AUGMENTATIONS, NoneOptions, ShiftOptions
from specs.options import Options


def augment(options: Options, pixels: Tensor, *, indices: Tensor, seed: int, epoch: int) -> Tensor:
    """Changed pixels, uint8 of shape (N, H, W, C) as given; `indices` (N,) number the images in their split."""
    change = resolve_name(AUGMENTATIONS[options.name].target)
    changed: Tensor = change(options, pixels, indices=indices, seed=seed, epoch=epoch)
    return changed


def none(_options: NoneOptions, pixels: Tensor, *, indices: Tensor, seed: int, epoch: int) -> Tensor:  # noqa: ARG001
    return pixels


def shift(options: ShiftOptions, pixels: Tensor, *, indices: Tensor, seed: int, epoch: int) -> Tensor:
    reach = options.pixels
    down, right = (_offsets(axis, indices, seed=seed, epoch=epoch, reach=reach) for axis in ("rows", "columns"))
    _, height, width, _ = pixels.shape
    # A window of the image's size is cut out of the image in a black frame.
    framed = pad(pixels, (0, 0, reach, reach, reach, reach))
    rows = torch.arange(height) + down[:, None]
    columns = torch.arange(width) + right[:, None]
    images = torch.arange(len(pixels))
    return framed[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def _offsets(axis: str, indices: Tensor, *, seed: int, epoch: int, reach: int) -> Tensor:
    """Where the window begins along an axis, 0 to twice the reach, an image each."""
    stream = derived_seed(f"shift {axis}", seed, epoch)
    return torch.from_numpy(draws(indices.numpy(), seed=stream, below=2 * reach + 1))
