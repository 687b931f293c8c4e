from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from formats.images import ImageShape, resize_pixels
from nets import datasets, schedules
from nets.augmentations import augment
from nets.batches import Batches, normalised
from nets.datasets import Dataset, Images, Split
from specs.augmentations import AUGMENTATIONS
from specs.datasets import BUILTIN_DATASETS, BuiltinDataset, split_sizes
from specs.schedules import SCHEDULES

SETS = list(BUILTIN_DATASETS.values())


def contents(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images()}


def load(dataset: BuiltinDataset, **changes: Any) -> Dataset:
    values: dict[str, Any] = {"image_size": dataset.native_size, "seed": 0, "validation_fraction": 0.2}
    return datasets.load(dataset, **{**values, **changes})


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5])
def test_splits_have_the_sizes_of_the_catalogue_and_share_nothing(dataset: BuiltinDataset, fraction: float) -> None:
    data = load(dataset, validation_fraction=fraction)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    assert {name: len(split) for name, split in splits.items()} == split_sizes(dataset, fraction)
    parts = [contents(split) for split in splits.values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == dataset.images


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_the_seed_moves_validation_but_never_the_test_split(dataset: BuiltinDataset) -> None:
    first, second = load(dataset, seed=0), load(dataset, seed=1)
    assert torch.equal(first.test.images(), second.test.images())
    assert contents(first.validation) != contents(second.validation)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_the_order_of_the_images_changes_nothing(dataset: BuiltinDataset) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60, dtype=np.int64) % len(dataset.classes)
    order = np.random.default_rng(1).permutation(60)
    first, second = (
        datasets.split_images(images, dataset, image_size=8, seed=3, validation_fraction=0.25)
        for images in (Images(pixels, labels), Images(pixels[order], labels[order]))
    )
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.train.images(), second.train.images())
    assert torch.equal(first.validation.labels, second.validation.labels)


def test_the_fingerprint_does_not_depend_on_the_size_asked_for() -> None:
    assert load(SETS[0], image_size=8).fingerprint == load(SETS[0], image_size=12).fingerprint


def test_training_images_are_resized_as_served_ones() -> None:
    small, large = load(SETS[0]), load(SETS[0], image_size=16)
    wanted = resize_pixels(small.train.images()[7, :, :, 0].numpy(), ImageShape(16, 1))
    assert np.array_equal(large.train.images()[7].numpy(), wanted)


def test_training_images_are_normalised_by_their_own_moments(digits: Dataset) -> None:
    images = normalised(digits.train.images(), digits, torch.device("cpu"))
    assert abs(images.mean().item()) < 1e-4
    assert images.std().item() == pytest.approx(1, abs=1e-3)
    assert images.shape == (len(digits.train), 1, 8, 8)


def test_a_channel_that_never_varies_divides_by_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    pixels[..., 1] = 51
    images = Images(pixels, np.arange(40, dtype=np.int64) % 2)
    colour = replace(SETS[0], channels=3)
    data = datasets.split_images(images, colour, image_size=8, seed=0, validation_fraction=0.2)
    assert data.std[1] == 1
    assert data.mean[1] == pytest.approx(0.2)


def batches(data: Dataset, **changes: Any) -> Batches:
    values: dict[str, Any] = {
        "batch_size": 16,
        "augmentation": AUGMENTATIONS["shift"].options(),
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return Batches(data, **{**values, **changes})


@pytest.mark.parametrize("batch_size", [1, 7, 16, 49, 50, 64])
def test_every_image_comes_once_an_epoch(few: Dataset, batch_size: int) -> None:
    loader = batches(few, batch_size=batch_size, augmentation=AUGMENTATIONS["none"].options())
    seen = list(loader.of_epoch(0))
    images = torch.cat([images for images, _ in seen])
    wanted = normalised(few.train.images(), few, torch.device("cpu"))
    assert len(seen) == len(loader)
    assert sorted(image.numpy().tobytes() for image in images) == sorted(image.numpy().tobytes() for image in wanted)
    assert batch_size == 1 or min(len(labels) for _, labels in seen) > 1


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_skipping_batches_gives_the_rest_of_the_epoch(few: Dataset, augmentation: str) -> None:
    loader = batches(few, augmentation=AUGMENTATIONS[augmentation].options())
    whole, rest = list(loader.of_epoch(4)), list(loader.of_epoch(4, skip=2))
    assert len(rest) == len(whole) - 2
    for (images, labels), (wanted, wanted_labels) in zip(rest, whole[2:], strict=True):
        assert torch.equal(images, wanted)
        assert torch.equal(labels, wanted_labels)


def test_epochs_and_seeds_have_orders_of_their_own(few: Dataset) -> None:
    orders = [
        torch.cat([labels for _, labels in batches(few, seed=seed).of_epoch(epoch)]).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_depends_on_seed_epoch_and_index_alone(few: Dataset, name: str) -> None:
    options, pixels, indices = AUGMENTATIONS[name].options(), few.train.images(), torch.arange(50)
    whole = augment(options, pixels, indices=indices, seed=3, epoch=2)
    parts = [augment(options, pixels[part], indices=part, seed=3, epoch=2) for part in indices.flip(0).split(7)]
    assert whole.shape == pixels.shape
    assert whole.dtype == torch.uint8
    assert torch.equal(torch.cat(parts).flip(0), whole)


def test_shifts_move_the_image_and_fill_with_black() -> None:
    pixels = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    pixels[:, 4, 4] = 200
    moved = augment(AUGMENTATIONS["shift"].options(pixels=2), pixels, indices=torch.arange(4000), seed=0, epoch=0)
    places = moved[..., 0].nonzero()
    assert len(places) == 4000
    counts = torch.bincount((places[:, 1] - 2) * 5 + places[:, 2] - 2, minlength=25)
    assert len(counts) == 25
    # 160 expected in each of the 25 places, with a standard deviation of 12.
    assert counts.min() > 100
    assert counts.max() < 220


@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_are_finite_and_at_most_one(name: str) -> None:
    options = SCHEDULES[name].options()
    for steps in (1, 2, 3, 100):
        values = [schedules.factor(options, step=step, steps=steps, steps_per_epoch=1) for step in range(steps)]
        assert all(math.isfinite(value) and 0 < value <= 1 for value in values)


def test_schedules_pass_through_their_marks() -> None:
    def at(name: str, step: int, **options: Any) -> float:
        return schedules.factor(SCHEDULES[name].options(**options), step=step, steps=100, steps_per_epoch=10)

    assert at("constant", 99) == 1
    assert [at("step", step, every=2, gamma=0.5) for step in (19, 20, 40)] == [1, 0.5, 0.25]
    assert at("cosine", 50) == pytest.approx(0.5)
    assert at("cosine", 20, warmup=0.2) == pytest.approx(1)
    assert at("cosine", 99, final=0.1) == pytest.approx(0.1, abs=1e-3)
    assert [at("one-cycle", step) for step in (0, 25)] == [pytest.approx(0.1), pytest.approx(1)]
    assert at("one-cycle", 99, final=0) == pytest.approx(1 / 75)
