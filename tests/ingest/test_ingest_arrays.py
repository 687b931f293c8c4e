"""Decoded arrays: exactly what serving would make of the same files, in the order of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from formats.arrays import open_array
from formats.datasets import PACK_NAME, Pack, read_paths
from formats.files import DamagedFiles
from formats.images import ImageShape, decode_image
from ingest.arrays import build
from ingest.members import Member
from tests.conftest import png
from tests.ingest.samples import folders, image, made, pixels, quiet

SHAPES = [ImageShape(16, 3), ImageShape(7, 1)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Files of several kinds: small and large, grey, clear, and lying on their side."""
    lying = Image.Exif()
    lying[0x0112] = 6
    members = [
        *folders({"cat": 9, "dog": 9}),
        Member("cat/large.jpg", png(pixels(50, 700, 500), kind="JPEG")),
        Member("cat/huge.png", png(np.kron(pixels(51, 30, 20), np.ones((60, 60, 1), dtype=np.uint8)))),
        Member("cat/lying.png", png(pixels(52), exif=lying)),
        Member("dog/clear.png", png(Image.fromarray(pixels(53, channels=4)))),
        Member("dog/grey.bmp", image(54, channels=1, kind="BMP")),
    ]
    made(tmp_path / "set", members)
    return tmp_path / "set"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_those_of_serving_in_the_order_of_the_index(
    dataset: Path, tmp_path: Path, shape: ImageShape
) -> None:
    (tmp_path / "array").mkdir()
    steps: list[tuple[int, int | None]] = []
    manifest = build(dataset, tmp_path / "array", shape, lambda _, done, total: steps.append((done, total)))
    array = open_array(tmp_path / "array")
    assert array.manifest == manifest
    with Pack(dataset) as pack:
        assert manifest.shape == (len(pack), shape.size, shape.size, shape.channels)
        for number in range(len(pack)):
            assert (array.pixels[number] == decode_image(pack.image(number), shape)).all()
        assert steps[-1] == (len(pack), len(pack))
    wide = array.pixels.astype(np.uint64)
    assert (array.sums == wide.sum(axis=(1, 2))).all()
    assert (array.squares == (wide * wide).sum(axis=(1, 2))).all()


def test_an_array_names_the_data_set_it_was_made_from(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "array").mkdir()
    manifest = build(dataset, tmp_path / "array", SHAPES[0], quiet)
    assert manifest.dataset == "ds_1"
    assert manifest.fingerprint.startswith("sha256:")


def test_an_array_does_not_depend_on_the_number_of_threads(dataset: Path, tmp_path: Path) -> None:
    files = []
    for threads in (1, 4):
        directory = tmp_path / str(threads)
        directory.mkdir()
        files.append(build(dataset, directory, SHAPES[0], quiet, threads=threads).files)
    assert files[0] == files[1]


def test_a_pack_that_was_damaged_is_told(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "array").mkdir()
    with (dataset / PACK_NAME).open("r+b") as pack:
        pack.write(bytes(2000))
    with pytest.raises(DamagedFiles, match="cannot be decoded") as raised:
        build(dataset, tmp_path / "array", SHAPES[0], quiet)
    assert str(raised.value).split('"')[1] in set(read_paths(dataset))


def test_a_report_may_stop_it(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "array").mkdir()

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        build(dataset, tmp_path / "array", SHAPES[0], stop)
