"""From a data set to decoded arrays of one size: what trainings read, made once for each size."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from formats.arrays import PIXELS_NAME, ArrayManifest, array_shape, write_array, write_moments
from formats.datasets import Pack, read_dataset
from formats.files import DamagedFiles
from formats.images import BadImage, ImageShape, decode_image
from ingest.decoding import Batches, PixelBudget, default_threads, moments
from ingest.names import shown
from ingest.reading import Report


@dataclass(frozen=True)
class _Decoded:
    """Some images: their numbers, pixels uint8 (n, H, W, C) and moments uint64 (n, C)."""

    numbers: list[int]
    pixels: NDArray[np.uint8]
    sums: NDArray[np.uint64]
    squares: NDArray[np.uint64]


def build(
    dataset: Path, directory: Path, shape: ImageShape, report: Report, *, threads: int | None = None
) -> ArrayManifest:
    """Fills an empty directory with the images of a data set, decoded by the rule that serving follows too.

    DamagedFiles if an image cannot be decoded: it could, when the data set was made. `report` gets "decoding".
    """
    manifest = read_dataset(dataset)
    with Pack(dataset) as pack, (directory / PIXELS_NAME).open("wb", buffering=0) as file:
        whole = array_shape(len(pack), shape)
        _reserve(file, int(np.prod(whole, dtype=np.int64)))
        sums, squares = (np.zeros((len(pack), shape.channels), dtype=np.uint64) for _ in range(2))
        done = 0
        with closing(_decoded(pack, shape, threads or default_threads())) as parts:
            for part in parts:
                _write(file, part)
                sums[part.numbers], squares[part.numbers] = part.sums, part.squares
                done += len(part.numbers)
                report("decoding", done, len(pack))
    write_moments(directory, sums, squares)
    return write_array(directory, ArrayManifest(dataset=manifest.id, fingerprint=manifest.fingerprint, shape=whole))


def _decoded(pack: Pack, shape: ImageShape, threads: int) -> Generator[_Decoded, None, None]:
    """All images, in the order in which they lie in the pack, so that it is read from front to back."""
    index = pack.index
    budget = PixelBudget()
    max_pixels = int((index.width.astype(np.int64) * index.height).max(initial=0))
    row_bytes = shape.size * shape.size * shape.channels

    def decode(numbers: list[int]) -> _Decoded:
        pixels = np.empty(array_shape(len(numbers), shape), dtype=np.uint8)
        for place, number in enumerate(numbers):
            pixels[place] = _decode(pack, number, shape, budget, max_pixels)
        found = [moments(image) for image in pixels]
        return _Decoded(numbers, pixels, np.stack([one for one, _ in found]), np.stack([two for _, two in found]))

    batches = Batches(decode, size=lambda number: max(int(index.length[number]), row_bytes), threads=threads)
    return batches.run(np.argsort(index.offset, kind="stable").tolist())


def _decode(pack: Pack, number: int, shape: ImageShape, budget: PixelBudget, max_pixels: int) -> NDArray[np.uint8]:
    data = pack.image(number)
    try:
        return budget.decode(data, lambda limit: decode_image(data, shape, max_pixels=limit), max_pixels=max_pixels)
    except BadImage as error:
        path = next(islice(pack.paths(), number, None), f"image {number}")
        raise DamagedFiles(f'"{shown(path)}" cannot be decoded any more ({error})') from error


def _write(file: BinaryIO, part: _Decoded) -> None:
    for number, image in zip(part.numbers, part.pixels, strict=True):
        file.seek(number * image.nbytes)
        file.write(image.data)


def _reserve(file: BinaryIO, size: int) -> None:
    """Makes the file as long as it will be; where the system can, its room on the disk is taken now, not run out of."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
    file.truncate(size)
