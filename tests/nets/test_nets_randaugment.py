from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from nets.augmentations import augment
from nets.randaugment import OPERATIONS, operate
from nets.seeds import Chance
from specs.augmentations import AUGMENTATIONS
from tests.nets.test_nets_augmentations import FILL, images

STRENGTHS = [magnitude / 30 * sign for magnitude in (3, 9, 17, 30) for sign in (1, -1)]


def _affine(image: Tensor, fill: list[float], **changes: object) -> Tensor:
    still: dict[str, object] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return functional.affine(image, **{**still, **changes}, fill=fill)


def _degrees(tangent: float) -> float:
    return math.degrees(math.atan(tangent))


# What torchvision.transforms.v2.RandAugment does for a strength of -1 to 1, with an image (C, H, W).
REFERENCES: dict[str, Callable[[Tensor, float, list[float]], Tensor]] = {
    "identity": lambda image, _s, _fill: image,
    "shear-x": lambda image, s, fill: _affine(image, fill, shear=[_degrees(0.3 * s), 0.0], center=[0, 0]),
    "shear-y": lambda image, s, fill: _affine(image, fill, shear=[0.0, _degrees(0.3 * s)], center=[0, 0]),
    "translate-x": lambda image, s, fill: _affine(image, fill, translate=[int(s * 150 / 331 * image.shape[2]), 0]),
    "translate-y": lambda image, s, fill: _affine(image, fill, translate=[0, int(s * 150 / 331 * image.shape[1])]),
    "rotate": lambda image, s, fill: functional.rotate(image, 30 * s, fill=fill),
    "brightness": lambda image, s, _fill: functional.adjust_brightness(image, 1 + 0.9 * s),
    "color": lambda image, s, _fill: functional.adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s, _fill: functional.adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s, _fill: functional.adjust_sharpness(image, 1 + 0.9 * s),
    "posterize": lambda image, s, _fill: functional.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s, _fill: functional.solarize(image, 255 * (1 - abs(s))),
    "autocontrast": lambda image, _s, _fill: functional.autocontrast(image),
    "equalize": lambda image, _s, _fill: functional.equalize(image),
}
# Levels by which rounding may differ, and the share of pixels for which it may decide between neighbours: a turn by
# 30 degrees leads to many points that lie just between two pixels.
LEVELS = {"color": 1}
PIXELS = {"rotate": 0.01}


def samples(channels: int) -> Tensor:
    """Noise, a smooth image, one of few levels, one of a single level, and one that is black but for a pixel."""
    side = 33
    ramp = torch.arange(side).outer(torch.arange(side)).div(4.1).to(torch.uint8)
    smooth = torch.stack([ramp.roll(5 * channel, 0) for channel in range(channels)], dim=2)
    few = images(side, side, channels) // 50 * 60
    spot = torch.zeros_like(few)
    spot[7, 9] = 200
    return torch.stack([images(side, side, channels), smooth, few, torch.full_like(few, 77), spot])


def operated(pixels: Tensor, operation: str, strength: float) -> Tensor:
    places = torch.full((len(pixels),), OPERATIONS.index(operation))
    fill = torch.tensor(FILL[: pixels.shape[3]], dtype=torch.uint8)
    return operate(pixels, places, torch.full((len(pixels),), strength), fill=fill)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_those_of_torchvision(operation: str, strength: float, channels: int) -> None:
    pixels, fill = samples(channels), [float(level) for level in FILL[:channels]]
    wanted = torch.stack(
        [REFERENCES[operation](image, strength, fill).permute(1, 2, 0) for image in pixels.permute(0, 3, 1, 2)]
    )
    difference = (operated(pixels, operation, strength).int() - wanted.int()).abs()
    assert (difference > LEVELS.get(operation, 0)).float().mean() <= PIXELS.get(operation, 0.0)


def test_there_are_the_fourteen_operations_of_the_paper() -> None:
    assert set(OPERATIONS) == set(REFERENCES)
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_strength_of_zero_changes_nothing_that_has_a_strength(operation: str) -> None:
    pixels = samples(3)
    unchanged = torch.equal(operated(pixels, operation, 0.0), pixels)
    assert unchanged != (operation in {"autocontrast", "equalize"})


def test_operations_and_signs_are_drawn_alike_for_each_image() -> None:
    # With 17 x 17 pixels or more, as Pillow equalizes nothing that has fewer than 255.
    pixels = images(1400, 17, 17, 3)
    options = AUGMENTATIONS["randaugment"].options(operations=1, magnitude=30)
    fill = torch.tensor(FILL, dtype=torch.uint8)
    result = augment([options], pixels, Chance(np.arange(1400), 0, 0), fill=fill)
    met = torch.zeros(1400, dtype=torch.int64)
    for operation in OPERATIONS:
        equal = [(operated(pixels, operation, sign) == result).flatten(1).all(1) for sign in (1.0, -1.0)]
        signed = not torch.equal(operated(pixels, operation, 1.0), operated(pixels, operation, -1.0))
        counts = [int(found.sum()) for found in equal]
        # A hundred are expected, with a standard deviation of 10; half of them for each sign.
        assert all(25 < count < 80 for count in counts) if signed else 60 < counts[0] < 145, operation
        met += (equal[0] | equal[1]).long()
    assert met.min() == met.max() == 1


def test_each_turn_draws_anew() -> None:
    pixels = images(200, 12, 12, 3)
    fill, chance = torch.tensor(FILL, dtype=torch.uint8), Chance(np.arange(200), 0, 0)
    once, twice = (
        augment([AUGMENTATIONS["randaugment"].options(operations=turns)], pixels, chance, fill=fill) for turns in (1, 2)
    )
    again = augment([AUGMENTATIONS["randaugment"].options(operations=1)], once, chance, fill=fill)
    changed = (once != twice).flatten(1).any(1).float().mean()
    # One in fourteen second operations is the identity, and a few others leave noise as it is.
    assert 0.8 < changed.item() < 1
    assert not torch.equal(again, twice)
