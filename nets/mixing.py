"""Mixing each training image and its target with a partner from the training split.

Partners and shares are pure functions of (seed, epoch, image number), as all changes are; so a partner may come from
another batch. Each image has a share of its own, which is that of its target in the loss too.
"""

from __future__ import annotations

from pkgutil import resolve_name

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nets.geometry import Boxes
from nets.seeds import Chance
from specs.augmentations import AUGMENTATIONS, CutmixOptions, MixingOptions, MixupOptions


def partners(chance: Chance, *, count: int) -> NDArray[np.int64]:
    """The number of a partner for each image, out of a split of `count`."""
    return chance.whole("partner", below=count)


def mix(options: MixingOptions, pixels: Tensor, others: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Mixed pixels (N, H, W, C), uint8 or float32 of 0 to 255, and the image's own share, float32 (N,)."""
    mixed: tuple[Tensor, Tensor] = resolve_name(AUGMENTATIONS[options.name].target)(options, pixels, others, chance)
    return mixed


def mixup(options: MixupOptions, pixels: Tensor, others: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    share = torch.from_numpy(_shares(options.alpha, chance).astype(np.float32))
    mixed = torch.lerp(others.to(torch.float32), pixels.to(torch.float32), share[:, None, None, None])
    return mixed, share


def cutmix(options: CutmixOptions, pixels: Tensor, others: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    mixed = pixels.clone()
    _, height, width, _ = pixels.shape
    boxes = _pasted(_shares(options.alpha, chance), chance, height=height, width=width)
    for image, other, (rows, columns) in zip(mixed.numpy(), others.numpy(), boxes, strict=True):
        image[rows, columns] = other[rows, columns]
    share = 1 - boxes.areas / (height * width)
    return mixed, torch.from_numpy(share.astype(np.float32))


def _shares(alpha: float, chance: Chance) -> NDArray[np.float64]:
    """Draws of Beta(alpha, alpha), by its quantiles: one uniform number each, where rejection takes many."""
    # 14 MB and a tenth of a second, which only trainings that mix should pay for.
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # noqa: PLC0415

    quantiles: NDArray[np.float64] = betaincinv(alpha, alpha, chance.uniform("share"))
    return quantiles


def _pasted(shares: NDArray[np.float64], chance: Chance, *, height: int, width: int) -> Boxes:
    """Boxes of the image's shape around a place in it, cut off at its border (Yun et al. 2019, algorithm 1)."""
    half = np.sqrt(1 - shares) / 2
    down, right = chance.uniform("cutmix rows"), chance.uniform("cutmix columns")
    edges = (
        np.clip(np.rint((middle + sign * half) * side), 0, side).astype(np.int64)
        for middle, side in ((down, height), (right, width))
        for sign in (-1, 1)
    )
    return Boxes(*edges)
