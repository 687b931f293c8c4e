from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from formats.images import ImageShape, resize_pixels
from nets import datasets
from nets.batches import Batches, normalised
from nets.datasets import Dataset, Images, Split
from specs.augmentations import AUGMENTATIONS
from specs.datasets import BUILTIN_DATASETS, BuiltinDataset, split_sizes

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


@pytest.mark.parametrize("change", [{"image_size": 12}, {"seed": 1}, {"validation_fraction": 0.5}])
@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_the_fingerprint_is_that_of_the_images_whatever_a_job_makes_of_them(
    dataset: BuiltinDataset, change: dict[str, Any]
) -> None:
    assert load(dataset).fingerprint == load(dataset, **change).fingerprint


def test_other_pixels_or_labels_have_another_fingerprint() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60, dtype=np.int64) % 10
    other_pixels, other_labels = pixels.copy(), labels.copy()
    other_pixels[7, 3, 3] ^= 1
    other_labels[7] = 8
    found = {
        datasets.split_images(images, SETS[0], image_size=8, seed=0, validation_fraction=0.2).fingerprint
        for images in (Images(pixels, labels), Images(other_pixels, labels), Images(pixels, other_labels))
    }
    assert len(found) == 3


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
        "augmentation": (AUGMENTATIONS["shift"].options(),),
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return Batches(data, **{**values, **changes})


@pytest.mark.parametrize("batch_size", [1, 7, 16, 49, 50, 64])
def test_every_image_comes_once_an_epoch(few: Dataset, batch_size: int) -> None:
    loader = batches(few, batch_size=batch_size, augmentation=(AUGMENTATIONS["none"].options(),))
    seen = list(loader.of_epoch(0))
    images = torch.cat([batch.images for batch in seen])
    wanted = normalised(few.train.images(), few, torch.device("cpu"))
    assert len(seen) == len(loader)
    assert sorted(image.numpy().tobytes() for image in images) == sorted(image.numpy().tobytes() for image in wanted)
    assert batch_size == 1 or min(len(batch) for batch in seen) > 1


def test_epochs_and_seeds_have_orders_of_their_own(few: Dataset) -> None:
    orders = [
        torch.cat([batch.labels for batch in batches(few, seed=seed).of_epoch(epoch)]).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_pixels_are_normalised_to_the_last_digits_of_float32(few: Dataset) -> None:
    colour = replace(few, mean=(0.1, 0.5, 0.9), std=(0.2, 1.0, 0.05), channels=3)
    pixels = torch.randint(0, 256, (5, 6, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for given in (pixels, pixels.to(torch.float32)):
        images = normalised(given, colour, torch.device("cpu"))
        wanted = (pixels.double() / 255 - torch.tensor(colour.mean)) / torch.tensor(colour.std)
        assert images.shape == (5, 3, 6, 7)
        assert images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images.permute(0, 2, 3, 1).double(), wanted, rtol=2e-6, atol=2e-6)


def test_classes_of_which_no_image_trains_are_known(digits: Dataset) -> None:
    assert digits.untrained == []
    few = replace(digits, train=replace(digits.train, labels=digits.train.labels.clamp(min=1, max=8)))
    assert few.untrained == ["0", "9"]
