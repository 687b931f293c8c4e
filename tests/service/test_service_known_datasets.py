from __future__ import annotations

import pytest

from service.datasets import KnownDataset
from specs.splits import split_pool


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.75, 0.9])
def test_as_many_images_train_as_the_split_leaves(fraction: float) -> None:
    """Of classes of one image and more: one of each trains, however many are to validate."""
    counts = range(1, 12)
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    contents = [b"%d" % number for number in range(len(labels))]
    train, validation = split_pool(contents, labels, range(len(labels)), seed=0, validation_fraction=fraction)
    splits = {str(count): {"train": count - 1, "validation": 1, "test": 3} for count in counts}
    known = KnownDataset("ds_1", "set", "ready", 8, splits, False)
    assert known.training_images(fraction) == len(train) == sum(counts) - len(validation)
