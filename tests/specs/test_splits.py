"""The rule of the splits, for sets of any kind: twins within a class and across classes, tiny classes, any order."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.digits import read_digits
from specs.datasets import BUILTIN_DATASETS, split_sizes
from specs.splits import Splits, choose_test, share, split_contents, split_pool

# Few contents, so that twins are many, within classes and across them.
SETS = st.lists(st.tuples(st.integers(0, 30).map(lambda n: b"%d" % n), st.integers(0, 3)), min_size=1, max_size=120)
FRACTIONS = st.floats(0.01, 0.9)


def parts_of(splits: Splits) -> tuple[list[int], list[int], list[int]]:
    return splits.train, splits.validation, splits.test


def shown(contents: list[bytes], numbers: list[int]) -> set[bytes]:
    return {contents[number] for number in numbers}


def assert_disjoint(contents: list[bytes], splits: Splits) -> None:
    train, validation, test = (shown(contents, part) for part in parts_of(splits))
    assert not train & validation
    assert not train & test
    assert not validation & test


@given(SETS, FRACTIONS, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_order_of_the_images_changes_nothing(
    images: list[tuple[bytes, int]], fraction: float, seed: int, order: random.Random
) -> None:
    def split(pairs: list[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
        contents, labels = [content for content, _ in pairs], [label for _, label in pairs]
        splits = split_contents(contents, labels, seed=seed, validation_fraction=fraction)
        return [[pairs[number] for number in part] for part in parts_of(splits)]

    shuffled = order.sample(images, len(images))
    assert split(images) == split(shuffled)


@given(SETS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_no_content_is_in_two_splits_and_nothing_else_is_left_out(
    images: list[tuple[bytes, int]], fraction: float, seed: int
) -> None:
    contents, labels = [content for content, _ in images], [label for _, label in images]
    splits = split_contents(contents, labels, seed=seed, validation_fraction=fraction)
    assert_disjoint(contents, splits)
    chosen = [number for part in parts_of(splits) for number in part]
    assert len(set(chosen)) == len(chosen)
    left = set(range(len(images))) - set(chosen)
    assert shown(contents, list(left)) <= shown(contents, splits.test + splits.validation)
    assert splits.test == choose_test(contents, labels)


@given(SETS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_a_class_of_three_different_images_is_in_each_split(
    images: list[tuple[bytes, int]], fraction: float, seed: int
) -> None:
    # An image of the next class is another image.
    contents, labels = [b"%d:%s" % (label, content) for content, label in images], [label for _, label in images]
    splits = split_contents(contents, labels, seed=seed, validation_fraction=fraction)
    different: dict[int, set[bytes]] = defaultdict(set)
    for content, label in zip(contents, labels, strict=True):
        different[label].add(content)
    for label, found in different.items():
        if len(found) >= 3:
            assert all(any(labels[number] == label for number in part) for part in parts_of(splits))


@given(st.lists(st.integers(6, 60), min_size=1, max_size=5), FRACTIONS, st.integers(0, 2**32 - 1))
def test_each_class_is_cut_in_the_same_shares(sizes: list[int], fraction: float, seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    contents = [b"%d" % number for number in range(len(labels))]
    splits = split_contents(contents, labels, seed=seed, validation_fraction=fraction)
    for label, size in enumerate(sizes):
        train, validation, test = (sum(labels[number] == label for number in part) for part in parts_of(splits))
        assert test == share(size, 0.2)
        assert abs(validation - fraction * (size - test)) <= 1
        assert train + validation + test == size
        assert train >= 1


@given(SETS, FRACTIONS, st.integers(0, 2**32 - 1), st.data())
def test_a_pool_never_shows_what_is_outside_of_it(
    images: list[tuple[bytes, int]], fraction: float, seed: int, data: st.DataObject
) -> None:
    contents, labels = [content for content, _ in images], [label for _, label in images]
    pool = data.draw(st.lists(st.sampled_from(range(len(images))), unique=True))
    train, validation = split_pool(contents, labels, pool, seed=seed, validation_fraction=fraction)
    outside = [number for number in range(len(images)) if number not in pool]
    assert_disjoint(contents, Splits(train, validation, outside))
    assert set(train + validation) <= set(pool)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
def test_split_sizes_are_known_without_the_images(fraction: float) -> None:
    pixels, labels = read_digits()
    contents = [image.tobytes() for image in pixels]
    splits = split_contents(contents, labels.tolist(), seed=3, validation_fraction=fraction)
    sizes = {name: len(getattr(splits, name)) for name in ("train", "validation", "test")}
    assert sizes == split_sizes(BUILTIN_DATASETS["digits"], fraction)


def test_the_rule_is_the_one_that_is_written_down() -> None:
    """Models already made name their splits by this rule: who changes it changes what those models were tested on."""
    contents = [b"%d" % number for number in range(500)]
    splits = split_contents(contents, [0] * 500, seed=7, validation_fraction=0.25)
    test = sorted(range(500), key=lambda number: hashlib.sha256(contents[number]).digest())[:100]
    rest = sorted(set(range(500)) - set(test), key=lambda number: hashlib.sha256(b"7:" + contents[number]).digest())
    assert splits == Splits(train=rest[100:], validation=rest[:100], test=test)


def test_twins_are_never_parted() -> None:
    contents = [bytes([n // 3]) for n in range(90)]  # three of each
    splits = split_contents(contents, [0] * 90, seed=0, validation_fraction=0.3)
    assert_disjoint(contents, splits)
    assert sum(map(len, parts_of(splits))) == 90
    other_seed = split_contents(contents, [0] * 90, seed=1, validation_fraction=0.3)
    assert other_seed.test == splits.test
    assert other_seed.validation != splits.validation
