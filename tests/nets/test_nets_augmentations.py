from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nets.augmentations import augment
from nets.batches import Batch, Batches
from nets.datasets import Dataset
from nets.seeds import Chance
from specs.augmentations import AUGMENTATIONS

CHANGES = [name for name, entry in AUGMENTATIONS.items() if not entry.options.mixes]
SHAPES = [(50, 9, 9, 1), (50, 16, 16, 3), (50, 12, 10, 3)]
FILL = (70, 80, 90)


def images(*shape: int) -> Tensor:
    """Noise of levels 20 to 219: no operation leaves it as it is."""
    return torch.randint(20, 220, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def changed(name: str, pixels: Tensor, /, *, seed: int = 3, epoch: int = 2, **options: Any) -> Tensor:
    chance = Chance(np.arange(len(pixels)), seed, epoch)
    fill = torch.tensor(FILL[: pixels.shape[3]], dtype=torch.uint8)
    return augment([AUGMENTATIONS[name].options(**options)], pixels, chance, fill=fill)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_depends_on_seed_epoch_and_index_alone(name: str, shape: tuple[int, ...]) -> None:
    pixels, fill = images(*shape), torch.tensor(FILL[: shape[3]], dtype=torch.uint8)
    before, options = pixels.clone(), AUGMENTATIONS[name].options()
    whole = changed(name, pixels)
    parts = [
        augment([options], pixels[torch.from_numpy(part)], Chance(part, 3, 2), fill=fill)
        for part in np.array_split(np.arange(50)[::-1].copy(), 7)
    ]
    assert whole.shape == shape
    assert whole.dtype == torch.uint8
    assert torch.equal(torch.cat(parts).flip(0), whole)
    assert torch.equal(pixels, before)
    if name != "none":
        assert not torch.equal(whole, pixels)
        assert not torch.equal(whole, changed(name, pixels, seed=4))
        assert not torch.equal(whole, changed(name, pixels, epoch=3))


@pytest.mark.parametrize(
    "names", [*((name,) for name in AUGMENTATIONS), ("crop-flip", "randaugment", "erase", "cutmix")]
)
def test_batches_hold_the_same_images_however_they_are_cut(few: Dataset, names: tuple[str, ...]) -> None:
    def batches(batch_size: int, **start: int) -> list[Batch]:
        chosen = tuple(AUGMENTATIONS[name].options() for name in names)
        return list(Batches(few, batch_size, chosen, 3, torch.device("cpu")).of_epoch(4, **start))

    whole, parts = batches(50), batches(7)
    for field in ("images", "labels", "partners", "share"):
        wanted = getattr(whole[0], field)
        if wanted is not None:
            assert torch.equal(torch.cat([getattr(batch, field) for batch in parts]), wanted)
    mixes = AUGMENTATIONS[names[-1]].options.mixes
    assert (whole[0].partners is not None) == (whole[0].share is not None) == mixes
    # Taking up an epoch gives the rest of it.
    rest = batches(7, skip=2)
    assert len(rest) == len(parts) - 2
    assert torch.equal(rest[0].images, parts[2].images)


def test_shifts_move_the_image_and_fill_with_black() -> None:
    pixels = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    pixels[:, 4, 4] = 200
    places = changed("shift", pixels, pixels=2)[..., 0].nonzero()
    assert len(places) == 4000
    counts = torch.bincount((places[:, 1] - 2) * 5 + places[:, 2] - 2, minlength=25)
    assert len(counts) == 25
    # 160 expected in each of the 25 places, with a standard deviation of 12.
    assert counts.min() > 100
    assert counts.max() < 220


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flips_exchange_left_and_right_as_often_as_asked(p: float) -> None:
    pixels = images(2000, 4, 5, 3)
    result = changed("flip", pixels, p=p)
    flipped = (result == pixels.flip(2)).flatten(1).all(1)
    assert ((result == pixels).flatten(1).all(1) | flipped).all()
    # The standard deviation is 0.01.
    assert flipped.float().mean().item() == pytest.approx(p, abs=0.05 if 0 < p < 1 else 0)


def test_auto_flips_only_what_has_colours() -> None:
    colour = images(50, 16, 16, 3)
    assert (changed("auto", colour) == changed("crop-flip", colour)).all()
    grey = images(50, 16, 16, 1)
    cropped, flipped = changed("auto", grey), changed("crop-flip", grey)
    kept = (cropped == flipped).flatten(1).all(1)
    assert 0 < kept.sum() < len(grey)
    assert (cropped[~kept].flip(2) == flipped[~kept]).all()
    assert not (cropped == grey).all()


def test_auto_without_crops_is_flips_of_colours() -> None:
    colour, grey = images(50, 16, 16, 3), images(50, 16, 16, 1)
    result = changed("auto", colour, crop=False)
    mirrored = (result == colour.flip(2)).flatten(1).all(1)
    assert 0 < mirrored.sum() < len(colour)
    assert (result[~mirrored] == colour[~mirrored]).all()
    assert (changed("auto", grey, crop=False) == grey).all()


@pytest.mark.parametrize(("side", "options", "reach"), [(8, {}, 1), (24, {}, 3), (8, {"pixels": 9}, 9)])
def test_crops_are_windows_of_the_reflected_image(side: int, options: dict[str, int], reach: int) -> None:
    pixels = images(300, side, side, 3)
    framed = np.pad(pixels.numpy(), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(framed, (side, side), axis=(1, 2))
    found = set()
    for result, windows in zip(changed("crop-flip", pixels, **options).numpy(), views, strict=True):
        places = {
            (flipped, int(top), int(left))
            for flipped in (False, True)
            for top, left in np.argwhere(
                (windows == (result[:, ::-1] if flipped else result).transpose(2, 0, 1)).all(axis=(2, 3, 4))
            )
        }
        assert places
        found |= places
    # Flipped or not, every offset along each axis is met among 300.
    assert {flipped for flipped, _, _ in found} == {False, True}
    assert {top for _, top, _ in found} == {left for _, _, left in found} == set(range(2 * reach + 1))


@pytest.mark.parametrize("largest", [0.02, 0.33, 1.0])
def test_erased_boxes_have_the_areas_and_ratios_asked_for(largest: float) -> None:
    pixels = images(1000, 50, 50, 3)
    result = changed("erase", pixels, p=1.0, largest=largest)
    gone = (result == torch.tensor(FILL, dtype=torch.uint8)).all(3)
    assert torch.equal(result[~gone], pixels[~gone])
    heights, widths = (gone.any(axis).sum(1) for axis in (2, 1))
    areas = gone.flatten(1).sum(1)
    # Noise has no pixel of just this colour near a box, so what is erased is a box.
    assert torch.equal(areas, heights * widths)
    shares, ratios = areas / 2500, heights / widths
    assert shares.min() > 0.015
    assert shares.max() < largest + 0.03
    assert shares.mean().item() == pytest.approx((0.02 + largest) / 2, abs=0.03)
    assert ratios.min() > 0.25
    assert ratios.max() < 4.0
    assert ratios.log().mean().item() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_as_many_images_are_erased_as_asked(p: float) -> None:
    pixels = images(2000, 8, 8, 1)
    erased = (changed("erase", pixels, p=p) != pixels).flatten(1).any(1)
    assert erased.float().mean().item() == pytest.approx(p, abs=0.04 if p else 0)


def test_changes_are_applied_in_their_order() -> None:
    pixels = images(50, 8, 8, 3)
    chance, fill = Chance(np.arange(50), 0, 0), torch.tensor(FILL, dtype=torch.uint8)
    first, second = AUGMENTATIONS["shift"].options(pixels=3), AUGMENTATIONS["erase"].options(p=1.0)

    def apply(*chosen: Any) -> Tensor:
        return augment(chosen, pixels, chance, fill=fill)

    assert torch.equal(apply(first, second), augment([second], apply(first), chance, fill=fill))
    assert not torch.equal(apply(first, second), apply(second, first))
