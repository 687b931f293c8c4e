"""The images of a data set, decoded to one size: a directory that can be made again from the data set at any time.

`pixels.u8` is the raw pixels, uint8 of shape (N, H, W, C) in C order, in the order of the data set's index.
`moments.safetensors` has of each image and channel the sum of the pixels (0 to 255) and of their squares, so that
mean and standard deviation of any split can be had, to the last bit, without reading the pixels.
`array.json` says what they were made from and records the other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from formats.files import DamagedFiles, Recorded, read_recorded, verify_files, write_recorded
from formats.images import ImageShape

ARRAY_NAME = "array.json"
PIXELS_NAME = "pixels.u8"
MOMENTS_NAME = "moments.safetensors"
MAX_ARRAY_JSON_BYTES = 1024 * 1024

Positive = Annotated[int, Field(ge=1)]


class ArrayManifest(Recorded):
    """The whole of `array.json`: which data set, by id and fingerprint, and the shape (N, H, W, C) of its pixels."""

    format: Literal[1] = 1
    dataset: str
    fingerprint: str
    shape: tuple[Positive, Positive, Positive, Literal[1, 3]]


@dataclass(frozen=True)
class DecodedArray:
    """Decoded images: `pixels` uint8 (N, H, W, C), a read-only map of the file; the moments are uint64 (N, C)."""

    manifest: ArrayManifest
    pixels: np.memmap[tuple[int, ...], np.dtype[np.uint8]]
    sums: NDArray[np.uint64]
    squares: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.sums)


def array_shape(images: int, shape: ImageShape) -> tuple[int, int, int, int]:
    """The shape of the pixels of so many images."""
    return images, shape.size, shape.size, shape.channels


def write_moments(directory: Path, sums: NDArray[np.uint64], squares: NDArray[np.uint64]) -> None:
    """Writes `moments.safetensors`; both are uint64 (N, C)."""
    save_file({"sums": sums, "squares": squares}, directory / MOMENTS_NAME)


def write_array(directory: Path, manifest: ArrayManifest) -> ArrayManifest:
    """Records the files of the directory, writes `array.json` beside them and returns what it says."""
    return write_recorded(directory, ARRAY_NAME, manifest)


def read_array(directory: Path) -> ArrayManifest:
    """What `array.json` says; DamagedFiles if it says nothing."""
    return read_recorded(directory, ARRAY_NAME, ArrayManifest, max_bytes=MAX_ARRAY_JSON_BYTES)


def open_array(directory: Path, *, verify: bool = True) -> DecodedArray:
    """The decoded images of a directory; with `verify`, only if every file is still what was written.

    DamagedFiles otherwise: the directory is then to be removed and made again.
    """
    manifest = read_array(directory)
    if verify:
        if not {PIXELS_NAME, MOMENTS_NAME} <= manifest.files.keys():
            raise DamagedFiles(f"{ARRAY_NAME} does not record all files")
        verify_files(directory, manifest.files)
    moments = _read_moments(directory, manifest.shape)
    return DecodedArray(manifest, _map_pixels(directory, manifest.shape), moments["sums"], moments["squares"])


def _map_pixels(directory: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    path = directory / PIXELS_NAME
    try:
        if path.stat().st_size != np.prod(shape, dtype=object):
            raise DamagedFiles(f"{PIXELS_NAME} is not as long as its shape says")
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    except OSError as error:
        raise DamagedFiles(f"{PIXELS_NAME} cannot be read: {error}") from error


def _read_moments(directory: Path, shape: tuple[int, ...]) -> Mapping[str, NDArray[np.uint64]]:
    try:
        moments = load_file(directory / MOMENTS_NAME)
    except (OSError, SafetensorError) as error:
        raise DamagedFiles(f"{MOMENTS_NAME} cannot be read: {error}") from error
    for name in ("sums", "squares"):
        if name not in moments or moments[name].dtype != np.uint64 or moments[name].shape != (shape[0], shape[3]):
            raise DamagedFiles(f"{MOMENTS_NAME} does not fit the pixels")
    return moments
