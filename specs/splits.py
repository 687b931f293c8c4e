"""Which images train, validate and test: decided by what the images show, not by their names or their order.

The rule, for sets that come without splits. Within each class images are ordered by the SHA-256 of their pixels;
identical images stand together and are not parted. The first fifth (rounded) is the test split, for every job
and for ever. The rest is ordered again by the SHA-256 of the seed, a colon and the pixels; the first
`validation_fraction` of it (rounded, at least one) is the validation split, and what is left trains.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Splits:
    """Numbers of the images of each split, class by class in the order of the rule."""

    train: list[int]
    validation: list[int]
    test: list[int]


def share(count: int, fraction: float) -> int:
    """How many of `count` images a split of this fraction takes: rounded half up, at least one."""
    return max(1, int(count * fraction + 0.5))


def split_contents(
    contents: Sequence[bytes], labels: Sequence[int], *, seed: int, validation_fraction: float
) -> Splits:
    """Splits images, given as the bytes of their pixels, by the rule."""
    splits = Splits([], [], [])
    members: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[label].append(number)
    for label in sorted(members):
        ordered = _ordered(members[label], contents, salt=b"")
        test, rest = _cut(ordered, contents, share(len(ordered), TEST_FRACTION))
        shuffled = _ordered(rest, contents, salt=b"%d:" % seed)
        validation, train = _cut(shuffled, contents, share(len(rest), validation_fraction))
        splits.test.extend(test)
        splits.validation.extend(validation)
        splits.train.extend(train)
    return splits


def _ordered(members: list[int], contents: Sequence[bytes], *, salt: bytes) -> list[int]:
    return sorted(members, key=lambda number: hashlib.sha256(salt + contents[number]).digest())


def _cut(members: list[int], contents: Sequence[bytes], count: int) -> tuple[list[int], list[int]]:
    """The first `count` members and the rest; one more where an image would be parted from its twin."""
    while 0 < count < len(members) and contents[members[count]] == contents[members[count - 1]]:
        count += 1
    return members[:count], members[count:]
