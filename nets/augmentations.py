"""Changes to training images, a whole batch at a time.

Each is a pure function of (seed, epoch, image number): neither the batch an image is in nor what was drawn
before matters, so a training can be taken up anywhere. A change takes its options, pixels uint8 (N, H, W, C), the
chance of these images and a colour to fill with, uint8 (C,), and returns pixels of the same shape in new memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import resolve_name

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from nets.geometry import Boxes, windows
from nets.seeds import Chance
from specs.augmentations import (
    AUGMENTATIONS,
    AugmentationOptions,
    AutoOptions,
    CropFlipOptions,
    EraseOptions,
    FlipOptions,
    NoneOptions,
    ShiftOptions,
)

# Zhong et al. 2017, section 4.2; torchvision.transforms.RandomErasing.
SMALLEST_ERASED = 0.02
ERASED_RATIOS = (0.3, 3.3)


def augment(chosen: Sequence[AugmentationOptions], pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:
    """Pixels after all changes but the one that mixes images, in their order."""
    for options in chosen:
        if not options.mixes:
            change = resolve_name(AUGMENTATIONS[options.name].target)
            pixels = change(options, pixels, chance, fill=fill)
    return pixels


def none(_options: NoneOptions, pixels: Tensor, _chance: Chance, *, fill: Tensor) -> Tensor:  # noqa: ARG001
    return pixels


def shift(options: ShiftOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:  # noqa: ARG001
    reach = options.pixels
    # A window of the image's size is cut out of the image in a black frame.
    framed = pad(pixels, (0, 0, reach, reach, reach, reach))
    top, left = (chance.whole(f"shift {axis}", below=2 * reach + 1) for axis in ("rows", "columns"))
    return windows(framed, top, left, pixels.shape)


def flip(options: FlipOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:  # noqa: ARG001
    return _mirrored(pixels, chance.uniform("flip") < options.p)


def crop_flip(options: CropFlipOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:  # noqa: ARG001
    return _cropped(pixels, chance, options.pixels, flips=True)


def auto(options: AutoOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:  # noqa: ARG001
    flips = pixels.shape[3] == 3
    if options.crop:
        return _cropped(pixels, chance, None, flips=flips)
    return _mirrored(pixels, chance.uniform("crop-flip side") < 0.5) if flips else pixels


def _cropped(pixels: Tensor, chance: Chance, reach: int | None, *, flips: bool) -> Tensor:
    # Reflection keeps to what images look like; a black frame is a sign of nothing but the crop.
    reach = max(1, pixels.shape[1] // 8) if reach is None else reach
    around = (reach, reach)
    framed = torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), around, around, (0, 0)), mode="reflect"))
    top, left = (chance.whole(f"crop-flip {axis}", below=2 * reach + 1) for axis in ("rows", "columns"))
    cropped = windows(framed, top, left, pixels.shape)
    return _mirrored(cropped, chance.uniform("crop-flip side") < 0.5) if flips else cropped


def _mirrored(pixels: Tensor, chosen: NDArray[np.bool_]) -> Tensor:
    changed, numbers = pixels.clone(), torch.from_numpy(np.flatnonzero(chosen))
    changed[numbers] = pixels[numbers].flip(2)
    return changed


def erase(options: EraseOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:
    # The mean colour is zero after normalisation. Zhong et al. find it as good as noise, which costs more.
    changed, colour = pixels.clone(), fill.numpy()
    chosen = (chance.uniform("erase") < options.p).tolist()
    boxes = _erased(options, chance, height=pixels.shape[1], width=pixels.shape[2])
    for image, (rows, columns), erased in zip(changed.numpy(), boxes, chosen, strict=True):
        if erased:
            image[rows, columns] = colour
    return changed


def _erased(options: EraseOptions, chance: Chance, *, height: int, width: int) -> Boxes:
    """Boxes of uniform area and log-uniform ratio of sides, within what fits into the image."""
    span = options.largest - SMALLEST_ERASED
    area = height * width * (SMALLEST_ERASED + span * chance.uniform("erase area"))
    low = np.log(np.maximum(ERASED_RATIOS[0], area / width**2))
    high = np.log(np.minimum(ERASED_RATIOS[1], height**2 / area))
    ratio = np.exp(low + (high - low) * chance.uniform("erase ratio"))
    rows = np.clip(np.rint(np.sqrt(area * ratio)), 1, height).astype(np.int64)
    columns = np.clip(np.rint(np.sqrt(area / ratio)), 1, width).astype(np.int64)
    top = (chance.uniform("erase rows") * (height - rows + 1)).astype(np.int64)
    left = (chance.uniform("erase columns") * (width - columns + 1)).astype(np.int64)
    return Boxes(top, top + rows, left, left + columns)
