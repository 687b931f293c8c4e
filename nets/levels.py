"""Changes of brightness that look at one pixel at a time, as tables: what each of the 256 levels becomes.

A table is uint8 (N, 256, C), for each image and channel. It costs less than the pixels do, and one look-up applies
tables of all kinds. Levels are cut off, not rounded, as in torchvision.transforms.v2.functional.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
# ITU-R BT.601 with the digits that torchvision has.
LUMINANCE = (0.2989, 0.587, 0.114)


def look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """Pixels uint8 (N, H, W, C) replaced by what the tables say, uint8 (N, 256, C)."""
    flat = pixels.flatten(1, 2).long()
    return tables.gather(1, flat).reshape(pixels.shape)


def luminance(pixels: Tensor) -> Tensor:
    """Grey levels, whole numbers as float32 (N, H, W, 1)."""
    if pixels.shape[3] == 1:
        return pixels.to(torch.float32)
    red, green, blue = pixels.unbind(3)
    grey = red.mul(LUMINANCE[0]).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])
    return grey.floor_().unsqueeze(3)


def cut(values: Tensor) -> Tensor:
    """Floats cut off to uint8."""
    return values.clamp_(0, LEVELS - 1).to(torch.uint8)


def brightness(pixels: Tensor, strength: Tensor) -> Tensor:
    return _for_all_channels(pixels, cut(_levels() * (1 + 0.9 * strength)[:, None, None]))


def contrast(pixels: Tensor, strength: Tensor) -> Tensor:
    factor = (1 + 0.9 * strength)[:, None, None]
    mean = luminance(pixels).mean(dim=(1, 2))[:, None]
    return _for_all_channels(pixels, cut(_levels() * factor + mean * (1 - factor)))


def posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    # Four to eight bits are kept.
    dropped = (4 * strength.abs()).round().to(torch.int32)[:, None, None]
    levels = _levels().to(torch.int32)
    return _for_all_channels(pixels, (levels >> dropped << dropped).to(torch.uint8))


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    levels, threshold = _levels(), (LEVELS - 1) * (1 - strength.abs())[:, None, None]
    table = torch.where(levels >= threshold, LEVELS - 1 - levels, levels).to(torch.uint8)
    return _for_all_channels(pixels, table)


def autocontrast(pixels: Tensor, _strength: Tensor) -> Tensor:
    lowest, highest = (bound.to(torch.float32) for bound in torch.aminmax(pixels.flatten(1, 2), dim=1, keepdim=True))
    spread = (highest - lowest) * (1.0 / (LEVELS - 1))
    flat = spread == 0
    # A channel of one level stays as it is.
    return cut((_levels() - lowest.masked_fill(flat, 0)) / spread.masked_fill(flat, 1))


def equalize(pixels: Tensor, _strength: Tensor) -> Tensor:
    """As in Pillow: each level becomes the share of pixels below it; the count of the highest level is left out."""
    counts = _histograms(pixels)
    below = counts.cumsum(1) - counts
    highest = counts.gather(1, counts.cumsum(1).argmax(1, keepdim=True))
    step = (pixels[0, :, :, 0].numel() - highest) // (LEVELS - 1)
    spread = ((below + step // 2) // step.clamp(min=1)).clamp_(max=LEVELS - 1)
    return torch.where(step == 0, _levels().long(), spread).to(torch.uint8)


def _for_all_channels(pixels: Tensor, table: Tensor) -> Tensor:
    return table.expand(-1, -1, pixels.shape[3])


def _levels() -> Tensor:
    return torch.arange(LEVELS, dtype=torch.float32)[:, None]


def _histograms(pixels: Tensor) -> Tensor:
    """How many pixels have each level, int64 (N, 256, C)."""
    count, _, _, channels = pixels.shape
    bins = torch.arange(count * channels).reshape(count, 1, 1, channels) * LEVELS
    counts = torch.bincount((pixels + bins).flatten(), minlength=count * channels * LEVELS)
    return counts.reshape(count, channels, LEVELS).transpose(1, 2)
