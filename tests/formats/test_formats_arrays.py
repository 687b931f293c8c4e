"""Decoded images on disk: what is written is mapped again, and what is damaged is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.arrays import (
    ARRAY_NAME,
    MOMENTS_NAME,
    PIXELS_NAME,
    ArrayManifest,
    open_array,
    write_array,
    write_moments,
)
from formats.files import DamagedFiles

PIXELS = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
SUMS = PIXELS.sum(axis=(1, 2), dtype=np.uint64)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / PIXELS_NAME).write_bytes(PIXELS.tobytes())
    write_moments(tmp_path, SUMS, SUMS * 2)
    write_array(tmp_path, ArrayManifest(dataset="ds_1", fingerprint="sha256:0", shape=(3, 4, 4, 3)))
    return tmp_path


def test_pixels_and_moments_come_back(directory: Path) -> None:
    array = open_array(directory)
    assert len(array) == 3
    assert (array.pixels == PIXELS).all()
    assert not array.pixels.flags.writeable
    assert (array.sums == SUMS).all()
    assert (array.squares == SUMS * 2).all()
    assert array.manifest.bytes == sum((directory / name).stat().st_size for name in (PIXELS_NAME, MOMENTS_NAME))


@pytest.mark.parametrize("name", [PIXELS_NAME, MOMENTS_NAME])
def test_a_flipped_bit_is_found(directory: Path, name: str) -> None:
    data = bytearray((directory / name).read_bytes())
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(DamagedFiles, match=name):
        open_array(directory)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [ARRAY_NAME, PIXELS_NAME, MOMENTS_NAME])
def test_missing_and_shortened_files_are_told(directory: Path, name: str, verify: bool) -> None:
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFiles, match=name):
        open_array(directory, verify=verify)
    (directory / name).unlink()
    with pytest.raises(DamagedFiles, match=name):
        open_array(directory, verify=verify)


def test_files_that_nothing_records_are_not_trusted(directory: Path) -> None:
    bare = ArrayManifest(dataset="ds_1", fingerprint="sha256:0", shape=(3, 4, 4, 3))
    (directory / ARRAY_NAME).write_text(bare.model_dump_json())
    with pytest.raises(DamagedFiles, match="does not record"):
        open_array(directory)


def test_moments_of_another_array_are_told(directory: Path) -> None:
    write_moments(directory, SUMS[:2], SUMS[:2])
    with pytest.raises(DamagedFiles, match=MOMENTS_NAME):
        open_array(directory, verify=False)
