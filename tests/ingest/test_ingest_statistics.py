"""The figures of a data set, against the same worked out in a plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from formats.datasets import POOL, Pack
from formats.images import decode_original
from ingest.decoding import moments
from ingest.members import Member
from tests.conftest import png
from tests.ingest.samples import folders, image, made


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))))
def test_moments_are_exact(pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]) -> None:
    sums, squares = moments(pixels)
    wide = pixels.astype(object).reshape(-1, pixels.shape[2])
    assert sums.tolist() == wide.sum(axis=0).tolist()
    assert squares.tolist() == (wide**2).sum(axis=0).tolist()


def test_moments_of_a_large_image_are_exact() -> None:
    white = np.full((1500, 1000, 3), 255, dtype=np.uint8)
    sums, squares = moments(white)
    assert sums.tolist() == [255 * 1_500_000] * 3
    assert squares.tolist() == [255 * 255 * 1_500_000] * 3


def test_mean_and_std_weigh_images_of_the_pool_equally_whatever_their_size(tmp_path: Path) -> None:
    members = folders({"cat": 9, "dog": 9}) + [
        Member(f"cat/large {number}.png", image(50 + number, width=30, height=20)) for number in range(9)
    ]
    manifest = made(tmp_path / "set", members)
    with Pack(tmp_path / "set") as pack:
        pool = [decode_original(pack.image(number)) / 255 for number in pack.index.numbers(POOL)]
    mean = np.mean([one.mean(axis=(0, 1)) for one in pool], axis=0)
    variance = np.mean([((one - mean) ** 2).mean(axis=(0, 1)) for one in pool], axis=0)
    assert manifest.mean == pytest.approx(mean.tolist(), rel=1e-12)
    assert manifest.std == pytest.approx(np.sqrt(variance).tolist(), rel=1e-9)


def test_grey_sets_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    grey = folders({"cat": 5, "dog": 5}, channels=1)
    manifest = made(tmp_path / "grey", grey)
    assert (manifest.channels, len(manifest.mean), len(manifest.std)) == (1, 1, 1)
    mixed = made(tmp_path / "mixed", [*grey, Member("cat/colour.png", image(77))])
    assert (mixed.channels, len(mixed.mean), len(mixed.std)) == (3, 3, 3)


def test_a_channel_that_never_varies_does_not_divide_by_zero(tmp_path: Path) -> None:
    def flat(level: int, width: int) -> bytes:
        pixels = np.zeros((3, width, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = 200, level
        return png(pixels)

    members = [Member(f"{'ab'[n % 2]}/{n}.png", flat(n, 1 + n)) for n in range(12)]
    manifest = made(tmp_path / "set", members)
    assert manifest.mean[0] == pytest.approx(200 / 255)
    assert (manifest.std[0], manifest.std[2]) == (1.0, 1.0)
    assert 0 < manifest.std[1] < 1


def test_sizes_are_those_of_upright_images(tmp_path: Path) -> None:
    sides = [(10, 40), (20, 30), (30, 20), (30, 20), (50, 10)]
    members = [Member(f"{'ab'[n % 2]}/{n}.png", image(n, width=w, height=h)) for n, (w, h) in enumerate(sides * 2)]
    sizes = made(tmp_path / "set", members).sizes
    assert (sizes.min, sizes.median, sizes.max, sizes.distinct) == ((10, 10), (30, 20), (50, 40), 4)


@pytest.mark.parametrize(
    ("sides", "suggested"),
    [
        ([(20, 20)], 20),
        ([(8, 8)], 16),
        ([(16, 16)], 16),
        ([(224, 224)], 224),
        ([(225, 225)], 224),
        ([(20, 21)], 16),
        ([(28, 40), (40, 28)], 28),
        ([(33, 50), (90, 47), (300, 200)], 32),
        ([(1, 1000)], 16),
        ([(400, 300)], 224),
        ([(100, 130)], 96),
    ],
)
def test_the_suggested_size_enlarges_few_images(tmp_path: Path, sides: list[tuple[int, int]], suggested: int) -> None:
    shapes = (sides * 12)[:12]
    members = [Member(f"{'ab'[n % 2]}/{n}.png", image(n, width=w, height=h)) for n, (w, h) in enumerate(shapes)]
    assert made(tmp_path / "set", members).image_size == suggested


def test_examples_are_few(tmp_path: Path) -> None:
    members = folders({"cat": 30, "dog": 3})
    copies = [Member(f"cat/copy {copy} of {number}.png", image(number)) for number in range(15) for copy in range(8)]
    manifest = made(tmp_path / "set", members + copies)
    assert manifest.duplicates.same_bytes == len(copies)
    assert len(manifest.duplicates.examples) == 10
    assert {len(paths) for paths in manifest.duplicates.examples} == {5}
