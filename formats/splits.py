"""Which images train, validate and test: decided by what the images show, not by their names or their order.

The rule is written down in `specs.datasets`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specs.datasets import TEST_FRACTION, share


@dataclass(frozen=True)
class Splits:
    """Indices of the images of each split, int64, in the order of the rule."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_images(pixels: NDArray[np.uint8], labels: NDArray[Any], *, seed: int, validation_fraction: float) -> Splits:
    """Splits images (first axis) with their labels by the rule for sets that come without splits."""
    contents = [image.tobytes() for image in pixels]
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in np.unique(labels):
        members = _ordered(np.flatnonzero(labels == label).tolist(), contents, salt=b"")
        test, rest = _cut(members, contents, share(len(members), TEST_FRACTION))
        validation, train = _cut(
            _ordered(rest, contents, salt=b"%d:" % seed), contents, share(len(rest), validation_fraction)
        )
        parts["test"] += test
        parts["validation"] += validation
        parts["train"] += train
    return Splits(**{name: np.array(indices, dtype=np.int64) for name, indices in parts.items()})


def _ordered(members: list[int], contents: list[bytes], *, salt: bytes) -> list[int]:
    return sorted(members, key=lambda index: hashlib.sha256(salt + contents[index]).digest())


def _cut(members: list[int], contents: list[bytes], count: int) -> tuple[list[int], list[int]]:
    """The first `count` members and the rest; identical images, which stand together, are not parted."""
    while 0 < count < len(members) and contents[members[count]] == contents[members[count - 1]]:
        count += 1
    return members[:count], members[count:]
