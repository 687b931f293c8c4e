"""How a data set is written down: a directory that is written once and never changed.

`dataset.json` says what is in it. `images.pack` is the bytes of all image files, one after another, as they came.
`index.safetensors` has a row for each image: where its bytes are, its class, its split, its hashes and its size.
The rows are ordered by the hash of the pixels, then class, hash of the file, split and path, so that neither the
order of an archive nor the names in it decide. `paths.jsonl.zst` holds the path of each image in that order, one
JSON string a line. `preview.png` shows a few images of each class.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from formats.files import DamagedFiles, Frozen, Recorded, read_recorded, verify_files, write_recorded

DATASET_NAME = "dataset.json"
PACK_NAME = "images.pack"
INDEX_NAME = "index.safetensors"
PATHS_NAME = "paths.jsonl.zst"
PREVIEW_NAME = "preview.png"
MAX_DATASET_JSON_BYTES = 256 * 1024 * 1024

# The codes of the column `split`. The pool trains; where no validation split was given it validates too.
POOL, VALIDATION, TEST, LEFT_OUT = range(4)
SPLIT_WORDS = ("train", "validation", "test", "left out")

Count = Annotated[int, Field(ge=0)]
Size = tuple[int, int]
ConflictKind = Literal["labels", "splits"]
SplitsFrom = Literal["rule", "given", "given test", "given validation"]


class SplitCounts(Frozen):
    """Images of each split."""

    train: Count
    validation: Count
    test: Count


class Sizes(Frozen):
    """Widths and heights in pixels, upright: least, middle and largest, each on its own; `distinct` counts pairs."""

    min: Size
    median: Size
    max: Size
    distinct: Count


class Duplicates(Frozen):
    """Images beyond the first that have the same bytes, or show the same; `examples` are paths of such images."""

    same_bytes: Count = 0
    same_pixels: Count = 0
    examples: tuple[tuple[str, ...], ...] = ()


class ConflictExample(Frozen):
    """Images that show the same, with the class and the given split of each: one of each class or split."""

    kind: ConflictKind
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]


class Conflicts(Frozen):
    """Contents in more than one given split, contents of more than one class, and images left out because of both.

    An image is left out if it would train or validate on what the test split shows, or train on what a given
    validation split shows.
    """

    splits: Count = 0
    labels: Count = 0
    left_out: Count = 0
    examples: tuple[ConflictExample, ...] = ()


class RejectedFile(Frozen):
    """One file that could not be used: a word for programs and a sentence for people."""

    path: str
    reason: str
    message: str


class DatasetManifest(Recorded):
    """The whole of `dataset.json`; `files` records every other file of the directory.

    `classes` are sorted by code point. `images` and `class_images` count all images, also those left out;
    `splits` those of each split, with 0.2 of the pool validating and seed 0 where no validation split was given.
    `splits_from` says which splits were given; what was not is made by the rule of `specs.splits`.
    `mean` and `std` are of the pool: a channel each, pixels of 0 to 1, each image of equal weight whatever its
    size; `std` is 1 for a channel that never varies. `imbalance` is images of the largest class over those of the
    smallest. `rejected` has the first of `rejected_count`, by path.
    """

    format: Literal[1] = 1
    id: str
    name: str
    classes: tuple[str, ...]
    channels: Literal[1, 3]
    image_size: Annotated[int, Field(ge=1)]
    images: Count
    class_images: dict[str, int]
    splits: SplitCounts
    class_splits: dict[str, SplitCounts]
    splits_from: SplitsFrom
    layout: str
    file_formats: dict[str, int]
    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    duplicates: Duplicates
    conflicts: Conflicts
    imbalance: float
    rejected_count: Count
    rejected: tuple[RejectedFile, ...]
    ignored: Count
    warnings: tuple[str, ...]
    fingerprint: str
    source: dict[str, Any]
    created: datetime


@dataclass(frozen=True)
class Index:
    """One row for each image, in the order told above; every array has N rows.

    `offset` and `length` say where the bytes are in the pack. `label` is a place in the manifest's `classes`,
    `split` one of the codes POOL, VALIDATION, TEST, LEFT_OUT. Width and height are those of the upright image;
    `channels` is 1 if it shows grey only, else 3. The hashes are SHA-256: of the file, and of the pixels
    (`formats.images.pixel_hash`).
    """

    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    label: NDArray[np.int32]
    split: NDArray[np.uint8]
    file_sha256: NDArray[np.uint8]
    pixel_sha256: NDArray[np.uint8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    channels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.label)

    def numbers(self, split: int) -> list[int]:
        """Numbers of the images of a split, given by its code."""
        return [int(number) for number in np.flatnonzero(self.split == split)]

    def contents(self) -> list[bytes]:
        """What each image shows, as the rule of splits wants it: the 32 bytes of its pixel hash."""
        return contents_of(self.pixel_sha256)


def contents_of(pixel_sha256: NDArray[np.uint8]) -> list[bytes]:
    """Pixel hashes, uint8 (N, 32), as N objects of 32 bytes."""
    joined = pixel_sha256.tobytes()
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]


_COLUMNS: Mapping[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "offset": (np.int64, ()),
    "length": (np.int64, ()),
    "label": (np.int32, ()),
    "split": (np.uint8, ()),
    "file_sha256": (np.uint8, (32,)),
    "pixel_sha256": (np.uint8, (32,)),
    "width": (np.int32, ()),
    "height": (np.int32, ()),
    "channels": (np.uint8, ()),
}


def write_index(directory: Path, index: Index) -> None:
    """Writes `index.safetensors`."""
    save_file({name: np.ascontiguousarray(getattr(index, name)) for name in _COLUMNS}, directory / INDEX_NAME)


def read_index(directory: Path) -> Index:
    """The index of a data set; DamagedFiles if its columns are not what they should be."""
    try:
        columns = load_file(directory / INDEX_NAME)
    except (OSError, SafetensorError) as error:
        raise DamagedFiles(f"{INDEX_NAME} cannot be read: {error}") from error
    rows = len(columns.get("label", ()))
    for name, (kind, rest) in _COLUMNS.items():
        if name not in columns or columns[name].dtype != kind or columns[name].shape != (rows, *rest):
            raise DamagedFiles(f"{INDEX_NAME} lacks the column {name}, or it is of another kind")
    return Index(**{name: columns[name] for name in _COLUMNS})


def write_paths(directory: Path, paths: Iterable[str]) -> None:
    """Writes `paths.jsonl.zst`; the paths come in the order of the index."""
    with (
        (directory / PATHS_NAME).open("wb") as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file) as packed,
    ):
        for path in paths:
            packed.write(json.dumps(path).encode("ascii") + b"\n")


def read_paths(directory: Path) -> Iterator[str]:
    """The path of each image, in the order of the index; DamagedFiles if the file is not what was written."""
    try:
        with (
            (directory / PATHS_NAME).open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as packed,
        ):
            for line in io.TextIOWrapper(packed, encoding="ascii"):
                yield json.loads(line)
    except (OSError, zstandard.ZstdError, ValueError) as error:
        raise DamagedFiles(f"{PATHS_NAME} cannot be read: {error}") from error


def write_dataset(directory: Path, manifest: DatasetManifest) -> DatasetManifest:
    """Records the files of the directory, writes `dataset.json` beside them and returns what it says."""
    return write_recorded(directory, DATASET_NAME, manifest)


def read_dataset(directory: Path, *, verify: bool = False) -> DatasetManifest:
    """What `dataset.json` says; with `verify`, only if every file is still what was written (else DamagedFiles)."""
    manifest = read_recorded(directory, DATASET_NAME, DatasetManifest, max_bytes=MAX_DATASET_JSON_BYTES)
    if verify:
        verify_files(directory, manifest.files)
    return manifest


class Pack:
    """The images of a data set, each reached by its number in the index; may be used from several threads."""

    def __init__(self, directory: Path, index: Index | None = None) -> None:
        """Reads the index unless it is at hand; DamagedFiles if that fails, or if the pack is shorter than it says."""
        self.index = read_index(directory) if index is None else index
        self._directory = directory
        self._lock = threading.Lock()
        try:
            self._file = (directory / PACK_NAME).open("rb", buffering=0)
        except OSError as error:
            raise DamagedFiles(f"{PACK_NAME} cannot be read: {error}") from error
        try:
            self._check_ranges()
        except DamagedFiles:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def image(self, number: int) -> bytes:
        """The bytes of an image file, as they came; DamagedFiles if they are not all there."""
        length = int(self.index.length[number])
        data = self._read(length, int(self.index.offset[number]))
        if len(data) != length:
            raise DamagedFiles(f"{PACK_NAME} breaks off")
        return data

    def paths(self) -> Iterator[str]:
        """The path of each image, in the order of the index."""
        return read_paths(self._directory)

    def _read(self, length: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), length, offset)
        with self._lock:  # Windows has no pread
            self._file.seek(offset)
            return self._file.read(length)

    def _check_ranges(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        offset, length = self.index.offset, self.index.length
        if len(offset) and (min(offset.min(), length.min()) < 0 or (length > size - offset).any()):
            raise DamagedFiles(f"{PACK_NAME} is shorter than {INDEX_NAME} says")


def fingerprint(pixel_hashes: NDArray[np.uint8], labels: Sequence[str], splits: Sequence[str]) -> str:
    """What identifies a data set: what its images show, with class and split; "sha256:" and 64 hexadecimal digits.

    `pixel_hashes` is uint8 (N, 32); `labels` are names of classes, `splits` words of SPLIT_WORDS. Names of files,
    their order and their encoding do not matter, as long as it loses nothing.
    """
    pairs = sorted(set(zip(splits, labels, strict=True)))
    place = {pair: number for number, pair in enumerate(pairs)}
    group = np.fromiter((place[pair] for pair in zip(splits, labels, strict=True)), dtype=np.int64, count=len(labels))
    order = np.lexsort((*hash_keys(pixel_hashes), group))
    ends = np.cumsum(np.bincount(group, minlength=len(pairs)))
    digest = hashlib.sha256()
    for pair, start, end in zip(pairs, (0, *ends), ends, strict=False):
        part = order[start:end]
        digest.update(json.dumps([*pair, len(part)]).encode("ascii") + b"\n")
        digest.update(pixel_hashes[part].tobytes())
    return "sha256:" + digest.hexdigest()


def hash_keys(hashes: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], ...]:
    """Keys for np.lexsort that order rows of 32 bytes, uint8 (N, 32): the last decides first."""
    words: NDArray[np.uint64] = np.ascontiguousarray(hashes).view(">u8")
    return tuple(words[:, place] for place in (3, 2, 1, 0))
