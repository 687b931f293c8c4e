"""What is known of each image while a data set is read: kept as bytes, for there may be a million of them.

A record takes 135 bytes and its path; Python objects for the same would take ten times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from formats.datasets import POOL, TEST, VALIDATION, hash_keys
from formats.images import FORMATS
from ingest.decoding import Examination
from ingest.members import Member, Split

UNKNOWN = -1
SPLIT_CODES: dict[Split | None, int] = {None: POOL, "train": POOL, "validation": VALIDATION, "test": TEST}

# The small columns, for writing one row and for reading all.
_PACKING = struct.Struct("=IIiBBBii")
_FACTS = np.dtype(
    [
        ("length", np.uint32),
        ("path_length", np.uint32),
        ("label", np.int32),
        ("split", np.uint8),
        ("channels", np.uint8),
        ("format", np.uint8),
        ("width", np.int32),
        ("height", np.int32),
    ]
)
_MEANS = struct.Struct("=3d")


@dataclass(frozen=True)
class Paths(Sequence[str]):
    """Paths as bytes in one piece: where each starts and how long it is."""

    _joined: bytearray
    _start: NDArray[np.int64]
    _length: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        start = int(self._start[place])
        return self._joined[start : start + int(self._length[place])].decode("utf-8", "surrogatepass")

    def take(self, order: NDArray[np.int64]) -> Paths:
        """These paths in another order."""
        return Paths(self._joined, self._start[order], self._length[order])


@dataclass(frozen=True)
class Table:
    """Images in the order of the index (see `formats.datasets`), a row each in every column; `split` as it was given.

    `label` is a place in the sorted names of classes, `format` one in `formats.images.FORMATS`. `content` numbers
    what the images show, from 0 upwards. `mean` and `mean_square` are float64 (N, 3), of pixels of 0 to 255.
    """

    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    label: NDArray[np.int32]
    split: NDArray[np.uint8]
    channels: NDArray[np.uint8]
    format: NDArray[np.uint8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    mean: NDArray[np.float64]
    mean_square: NDArray[np.float64]
    file_sha256: NDArray[np.uint8]
    pixel_sha256: NDArray[np.uint8]
    content: NDArray[np.int32]
    paths: Paths

    def __len__(self) -> int:
        return len(self.label)


class Records:
    """The images in the order in which they came, which is that of their bytes in the pack.

    Labels are numbers of names, in the order of their first use; UNKNOWN until the layout of all paths tells.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._facts = bytearray()
        self._paths = bytearray()
        # Large columns stand apart, so that each can be given up as soon as it is put in order.
        self._large = {name: bytearray() for name in ("pixel_sha256", "file_sha256", "mean", "mean_square")}

    def __len__(self) -> int:
        return len(self._facts) // _FACTS.itemsize

    def number_of(self, name: str) -> int:
        """The number of a class, by its name."""
        number = self._numbers.setdefault(name, len(self._numbers))
        if number == len(self.names):
            self.names.append(name)
        return number

    def add(self, member: Member, seen: Examination) -> None:
        """One image more."""
        path = member.path.encode("utf-8", "surrogatepass")
        self._facts += _PACKING.pack(
            len(member.data),
            len(path),
            UNKNOWN if member.label is None else self.number_of(member.label),
            SPLIT_CODES[member.split],
            seen.channels,
            FORMATS.index(seen.format),
            seen.width,
            seen.height,
        )
        self._paths += path
        self._large["pixel_sha256"] += seen.pixel_sha256
        self._large["file_sha256"] += seen.file_sha256
        self._large["mean"] += _MEANS.pack(*seen.mean)
        self._large["mean_square"] += _MEANS.pack(*seen.mean_square)

    def column(self, name: str) -> NDArray[Any]:
        """A small column, to be read and written in place; no more images are added while it lives."""
        column: NDArray[Any] = np.frombuffer(self._facts, dtype=_FACTS)[name]
        return column

    def _hashes(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self._large[name], dtype=np.uint8).reshape(-1, 32)

    def _means(self, name: str) -> NDArray[np.float64]:
        return np.frombuffer(self._large[name], dtype=np.float64).reshape(-1, 3)

    def paths(self) -> Paths:
        """The path of each image."""
        length = np.array(self.column("path_length"))
        return Paths(self._paths, _starts(length), length)

    def table(self, kept: NDArray[np.bool_]) -> Table:
        """The images of the mask `kept`, bool (N,), in the order of the index; their labels are all known by now.

        Offsets are those of a pack that holds the bytes of these images only. The records are used up by this.
        """
        label = self._sorted_labels()
        paths = self.paths()
        order = self._order(np.flatnonzero(kept), label, paths)
        length = np.where(kept, self.column("length"), 0)
        large: dict[str, NDArray[Any]] = {}
        for name, read in (
            *(("pixel_sha256", self._hashes), ("file_sha256", self._hashes)),
            *(("mean", self._means), ("mean_square", self._means)),
        ):
            large[name] = read(name)[order]
            del self._large[name]
        return Table(
            offset=_starts(length)[order],
            length=length[order].astype(np.int64),
            label=label[order],
            content=content_numbers(large["pixel_sha256"]),
            paths=paths.take(order),
            **{name: self.column(name)[order] for name in ("split", "channels", "format", "width", "height")},
            **large,
        )

    def _sorted_labels(self) -> NDArray[np.int32]:
        """The labels as places in the sorted names."""
        places = np.argsort(np.array(sorted(range(len(self.names)), key=self.names.__getitem__), dtype=np.int64))
        label: NDArray[np.int32] = places[self.column("label")].astype(np.int32)
        return label

    def _order(self, rows: NDArray[np.int64], label: NDArray[np.int32], paths: Paths) -> NDArray[np.int64]:
        """These rows in the order of the index."""
        first = self._hashes("pixel_sha256")[rows, :8].view(">u8")[:, 0]
        order = np.argsort(first, kind="stable")
        # Eight bytes tell most contents apart; only the rest is ordered by all that is known.
        same = first[order[1:]] == first[order[:-1]]
        tied = np.concatenate(([False], same)) | np.concatenate((same, [False]))
        ordered = rows[order]
        ordered[tied] = self._order_tied(ordered[tied], label, paths)
        return ordered

    def _order_tied(self, rows: NDArray[np.int64], label: NDArray[np.int32], paths: Paths) -> NDArray[np.int64]:
        columns = [self.column("split")[rows]]
        columns += hash_keys(self._hashes("file_sha256")[rows])
        columns += [label[rows]]
        columns += hash_keys(self._hashes("pixel_sha256")[rows])
        order = np.lexsort(columns)
        same = np.logical_and.reduce([column[order[1:]] == column[order[:-1]] for column in columns])
        ordered = rows[order]
        for start, end in _runs(same):
            ordered[start:end] = sorted(ordered[start:end].tolist(), key=paths.__getitem__)
        return ordered


def _starts(length: NDArray[Any]) -> NDArray[np.int64]:
    starts: NDArray[np.int64] = np.cumsum(length, dtype=np.int64) - length
    return starts


def _runs(same: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where runs of equal rows start and end; `same` says of each row but the first if it equals the one before."""
    edges = np.diff(np.concatenate(([False], same, [False])).astype(np.int8))
    return zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) + 1).tolist(), strict=True)


def content_numbers(pixel_sha256: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Numbers what ordered images show, uint8 (N, 32), from 0 upwards: int32 (N,)."""
    new = (pixel_sha256[1:] != pixel_sha256[:-1]).any(axis=1)
    return np.concatenate(([0], np.cumsum(new))).astype(np.int32)[: len(pixel_sha256)]
