"""RandAugment: for each image a few operations out of fourteen, all of one strength.

Cubuk, Zoph, Shlens, Le: RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, arXiv
1909.13719, section 3. Operations and their strengths are those of torchvision.transforms.v2.RandAugment. Ours
differs in the fill of what comes from outside the image: the mean colour of the training split, not black.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nets import levels
from nets.geometry import affine
from nets.seeds import Chance
from specs.augmentations import RandAugmentOptions

STRONGEST = 30


def randaugment(options: RandAugmentOptions, pixels: Tensor, chance: Chance, *, fill: Tensor) -> Tensor:
    for turn in range(options.operations):
        operations = torch.from_numpy(chance.whole(f"randaugment operation {turn}", below=len(OPERATIONS)))
        signs = torch.from_numpy(1 - 2 * chance.whole(f"randaugment sign {turn}", below=2))
        pixels = operate(pixels, operations, signs * (options.magnitude / STRONGEST), fill=fill)
    return pixels


def operate(pixels: Tensor, operations: Tensor, strengths: Tensor, *, fill: Tensor) -> Tensor:
    """Pixels after one operation each: `operations` (N,) are places in OPERATIONS, `strengths` (N,) are -1 to 1."""
    changed = pixels.clone()
    for family in FAMILIES:
        chosen, prepared = [], []
        for name, prepare in family.preparations.items():
            numbers = (operations == OPERATIONS.index(name)).nonzero().flatten()
            if len(numbers):
                chosen.append(numbers)
                prepared.append(prepare(pixels[numbers], strengths[numbers].to(torch.float32)))
        if chosen:
            numbers = torch.cat(chosen)
            changed[numbers] = family.apply(pixels[numbers], torch.cat(prepared), fill)
    return changed


def shear_x(_pixels: Tensor, strength: Tensor) -> Tensor:
    return _maps(strength, (1.0, 0.3 * strength, 0.0), (0.0, 1.0, 0.0))


def shear_y(_pixels: Tensor, strength: Tensor) -> Tensor:
    return _maps(strength, (1.0, 0.0, 0.0), (0.3 * strength, 1.0, 0.0))


def translate_x(pixels: Tensor, strength: Tensor) -> Tensor:
    return _maps(strength, (1.0, 0.0, -_offset(pixels.shape[2], strength)), (0.0, 1.0, 0.0))


def translate_y(pixels: Tensor, strength: Tensor) -> Tensor:
    return _maps(strength, (1.0, 0.0, 0.0), (0.0, 1.0, -_offset(pixels.shape[1], strength)))


def rotate(pixels: Tensor, strength: Tensor) -> Tensor:
    angle = strength * math.radians(30)
    cosine, sine = angle.cos(), angle.sin()
    y, x = (side / 2 for side in pixels.shape[1:3])
    return _maps(strength, (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y))


def _offset(side: int, strength: Tensor) -> Tensor:
    # 150 pixels of the 331 that AutoAugment was made on.
    return (strength * (side * 150 / 331)).trunc()


def _maps(strength: Tensor, *rows: tuple[Tensor | float, ...]) -> Tensor:
    """Affine maps (N, 2, 3) out of values (N,) or for all images."""
    values = [torch.as_tensor(value, dtype=torch.float32).expand(len(strength)) for row in rows for value in row]
    return torch.stack(values, dim=1).reshape(-1, 2, 3)


def color(pixels: Tensor, strength: Tensor) -> Tensor:
    if pixels.shape[3] == 1:
        return pixels
    factor = (1 + 0.9 * strength)[:, None, None, None]
    return levels.cut(pixels * factor + levels.luminance(pixels) * (1 - factor))


def sharpness(pixels: Tensor, strength: Tensor) -> Tensor:
    changed = pixels.clone()
    values = pixels.to(torch.float32)
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    inner = values[:, 1:-1, 1:-1]
    # Pillow's SMOOTH: a 3 x 3 mean in which the middle counts five times. The border has no neighbours and stays.
    smooth = ((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner) / 13).round_()
    changed[:, 1:-1, 1:-1] = levels.cut(inner - 0.9 * strength[:, None, None, None] * (smooth - inner))
    return changed


Preparation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """Operations that are worked out one by one, from pixels and strengths, and applied to all images together."""

    preparations: Mapping[str, Preparation]
    apply: Callable[[Tensor, Tensor, Tensor], Tensor]


FAMILIES = (
    Family(
        {
            "shear-x": shear_x,
            "shear-y": shear_y,
            "translate-x": translate_x,
            "translate-y": translate_y,
            "rotate": rotate,
        },
        affine,
    ),
    Family(
        {
            "brightness": levels.brightness,
            "contrast": levels.contrast,
            "posterize": levels.posterize,
            "solarize": levels.solarize,
            "autocontrast": levels.autocontrast,
            "equalize": levels.equalize,
        },
        lambda pixels, tables, _fill: levels.look_up(pixels, tables),
    ),
    Family({"color": color, "sharpness": sharpness}, lambda _pixels, changed, _fill: changed),
)
OPERATIONS = ("identity", *(name for family in FAMILIES for name in family.preparations))
