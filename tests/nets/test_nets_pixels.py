from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nets.datasets import Moments, assemble, moments_of
from nets.pixels import Pixels
from specs.splits import Splits

MEBIBYTE = 1024 * 1024


def images(count: int, *, side: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, dtype=np.uint8).reshape(shape)


def test_images_come_in_the_order_asked_for_wherever_they_lie(tmp_path: Path) -> None:
    array = images(40)
    (tmp_path / "pixels").write_bytes(array.tobytes())
    sources = [
        array,
        mapped(tmp_path / "pixels", array.shape),
        np.memmap(tmp_path / "pixels", dtype=np.uint8, mode="r", shape=array.shape),
    ]
    numbers = torch.tensor([7, 3, 39, 3, 0])
    for source in sources:
        pixels = Pixels(source)
        taken = pixels.take(numbers)
        assert pixels.shape == array.shape
        assert np.array_equal(taken.numpy(), array[numbers.numpy()])
        taken.zero_()
        assert np.array_equal(pixels.take(numbers).numpy(), array[numbers.numpy()])
        assert pixels.take(numbers[:0]).shape == (0, 8, 8, 3)
        with pytest.raises(IndexError):
            pixels.take(torch.tensor([40]))


def test_arrays_of_other_kinds_are_refused() -> None:
    for array in (images(4).astype(np.float32), images(4)[0], images(4)[:, ::2], images(4).transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="uint8 of shape"):
            Pixels(array)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot be told that pages are not needed")
@pytest.mark.parametrize("at_once", [256, 100_000])
def test_what_was_read_does_not_pile_up_in_memory(tmp_path: Path, at_once: int) -> None:
    shape = (131_072, 32, 32, 3)
    with (tmp_path / "pixels").open("wb") as file:
        file.truncate(int(np.prod(shape)))
    array = mapped(tmp_path / "pixels", shape)
    numbers = torch.randperm(shape[0], generator=torch.Generator().manual_seed(0))
    process = psutil.Process()

    def growth(read: Callable[[Tensor], Tensor]) -> int:
        before, peak = process.memory_info().rss, 0
        for part in torch.split(numbers[:100_000], at_once):
            taken = read(part)
            peak = max(peak, process.memory_info().rss - before - taken.nbytes)
        return peak

    assert growth(Pixels(array).take) < 100 * MEBIBYTE + 2 * at_once * 3072
    # The measurement sees what piles up.
    assert growth(lambda part: torch.from_numpy(array[part.numpy()])) > 300 * MEBIBYTE


def test_mean_and_std_are_those_of_the_training_split_alone() -> None:
    array = images(30)
    array[20:] = 255
    array[..., 2] = 51
    splits = Splits(train=list(range(20)), validation=[20, 21], test=list(range(22, 30)))
    labels = np.arange(30, dtype=np.int64) % 3
    data = assemble(
        Pixels(array), moments_of(array), labels=labels, splits=splits, classes=("a", "b", "c"), fingerprint="sha256:x"
    )
    levels = array[:20].astype(np.float64) / 255
    assert data.mean == pytest.approx(levels.mean(axis=(0, 1, 2)), rel=1e-12)
    assert data.std[:2] == pytest.approx(levels.std(axis=(0, 1, 2))[:2], rel=1e-12)
    assert data.std[2] == 1
    assert data.mean[2] == 0.2
    assert data.channels == 3
    assert data.image_size == 8
    assert data.validation.labels.tolist() == [2, 0]
    assert torch.equal(data.test.images(torch.tensor([3, 0])), torch.from_numpy(array[[25, 22]]))


def test_moments_add_up_without_rounding() -> None:
    # A hundred thousand times the same image has the statistics of that image, to the last bit.
    array = images(1, side=5)
    once, count = moments_of(array), 100_000
    many = Moments(np.repeat(once.sums, count, axis=0), np.repeat(once.squares, count, axis=0))

    def statistics(moments: Moments, number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        splits = Splits(list(range(number)), [0], [0])
        labels = np.zeros(number, dtype=np.int64)
        data = assemble(
            Pixels(array),
            moments,
            labels=labels,
            splits=splits,
            classes=("a",),
            fingerprint="",
        )
        return data.mean, data.std

    (mean, std), (many_mean, many_std) = statistics(once, 1), statistics(many, count)
    assert many_mean == mean
    assert many_std == pytest.approx(std, rel=1e-15)
