"""Which images train, validate and test: decided by what the images show, not by their names or their order.

The rule, for sets that come without splits. Within each class images are ordered by the SHA-256 of their pixels;
identical images stand together and are not parted. The first fifth (rounded) is the test split, for every job
and for ever. The rest is ordered again by the SHA-256 of the seed, a colon and the pixels; the first
`validation_fraction` of it (rounded, at least one) is the validation split, and what is left trains. A cut stops
early where it would leave a class without images for the splits that follow.

An image that shows what an image of the test split shows neither trains nor validates, whatever its class; one that
shows what a validation image shows does not train. It is left out.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

TEST_FRACTION = 0.2
# Of what is not for testing, where a job does not say.
VALIDATION_FRACTION = 0.2


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
    """Splits images, given as the bytes of their pixels (or a hash of them), by the rule."""
    test = choose_test(contents, labels)
    tested = set(test)
    pool = [number for number in range(len(labels)) if number not in tested]
    train, validation = split_pool(contents, labels, pool, seed=seed, validation_fraction=validation_fraction)
    return Splits(train, validation, test)


def choose_test(contents: Sequence[bytes], labels: Sequence[int]) -> list[int]:
    """The test split: the first step of the rule."""
    test: list[int] = []
    for members in _classes(range(len(labels)), labels):
        ordered = _ordered(members, contents, salt=b"")
        test += ordered[: _cut(ordered, contents, share(len(ordered), TEST_FRACTION), leave=2)]
    return test


def split_pool(
    contents: Sequence[bytes], labels: Sequence[int], pool: Sequence[int], *, seed: int, validation_fraction: float
) -> tuple[list[int], list[int]]:
    """Training and validation split out of the images numbered in `pool`: the second step of the rule.

    What is not in the pool counts as the test split: images of the pool that show the same are left out.
    """
    train: list[int] = []
    validation: list[int] = []
    pooled = set(pool)
    fixed = {contents[number] for number in range(len(contents)) if number not in pooled}
    for members in _classes(_without(pool, contents, fixed), labels):
        ordered = _ordered(members, contents, salt=b"%d:" % seed)
        end = _cut(ordered, contents, share(len(ordered), validation_fraction), leave=1)
        validation += ordered[:end]
        train += ordered[end:]
    return _without(train, contents, {contents[number] for number in validation}), validation


def _classes(numbers: Iterable[int], labels: Sequence[int]) -> list[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        members[labels[number]].append(number)
    return [members[label] for label in sorted(members)]


def _without(numbers: Sequence[int], contents: Sequence[bytes], shown: Collection[bytes]) -> list[int]:
    return [number for number in numbers if contents[number] not in shown]


def _ordered(members: list[int], contents: Sequence[bytes], *, salt: bytes) -> list[int]:
    return sorted(members, key=lambda number: hashlib.sha256(salt + contents[number]).digest())


def _cut(ordered: list[int], contents: Sequence[bytes], count: int, *, leave: int) -> int:
    """How many members the first part takes: `count`, and the twins of the last of them.

    It is at least one, and beyond that no more than leaves `leave` different images.
    """
    ends = [place for place in range(1, len(ordered)) if contents[ordered[place]] != contents[ordered[place - 1]]]
    ends.append(len(ordered))
    wanted = next(number for number, end in enumerate(ends) if end >= count)
    return ends[max(0, min(wanted, len(ends) - 1 - leave))]
