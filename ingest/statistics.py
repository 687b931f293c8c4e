"""The figures of a data set: sizes, brightness, duplicates and contradictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from formats.datasets import (
    LEFT_OUT,
    SPLIT_WORDS,
    ConflictExample,
    ConflictKind,
    Conflicts,
    Duplicates,
    Sizes,
    SplitCounts,
    hash_keys,
)
from formats.images import FORMATS
from ingest.records import Table, content_numbers
from specs.splits import Splits

MAX_EXAMPLES = 10
MAX_PATHS = 5
LARGEST_SUGGESTED = 224
SUGGESTED_SIZES = (16, 28, 32, 48, 64, 96, 128, 160, 192, 224)
# Below this a channel varies by less than one level in one pixel of some million.
LEAST_STD = 1e-6


def sizes_of(table: Table) -> Sizes:
    """Least, middle and largest width and height, each on its own."""
    pairs = table.width.astype(np.int64) << 32 | table.height
    sides = (np.sort(table.width), np.sort(table.height))
    least, middle, largest = (
        (int(sides[0][place]), int(sides[1][place])) for place in (0, (len(table) - 1) // 2, len(table) - 1)
    )
    return Sizes(min=least, median=middle, max=largest, distinct=len(np.unique(pairs)))


def suggested_size(table: Table) -> int:
    """What to resize the images to: their own size if they are all the same square, else one that enlarges few."""
    sizes = sizes_of(table)
    width, height = sizes.max
    if sizes.distinct == 1 and width == height and SUGGESTED_SIZES[0] <= width <= LARGEST_SUGGESTED:
        return width
    shorter = np.sort(np.minimum(table.width, table.height))[(len(table) - 1) // 2]
    return max((size for size in SUGGESTED_SIZES if size <= shorter), default=SUGGESTED_SIZES[0])


def channels_of(table: Table) -> Literal[1, 3]:
    """1 if all images show grey only, else 3."""
    return 1 if table.channels.max() == 1 else 3


def file_formats(table: Table) -> dict[str, int]:
    """Images of each file format that there is."""
    counts = np.bincount(table.format, minlength=len(FORMATS)).tolist()
    return {name: count for name, count in zip(FORMATS, counts, strict=True) if count}


def brightness(table: Table, chosen: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the chosen images, pixels of 0 to 1, images of equal weight."""
    channels = channels_of(table)
    mean = table.mean[chosen, :channels].mean(axis=0)
    variance = table.mean_square[chosen, :channels].mean(axis=0) - mean * mean
    std = np.sqrt(np.maximum(variance, 0)) / 255
    # A channel that never varies would divide by zero.
    return tuple((mean / 255).tolist()), tuple(np.where(std < LEAST_STD, 1.0, std).tolist())


def class_images(table: Table, classes: Sequence[str]) -> dict[str, int]:
    """Images of each class."""
    counts = np.bincount(table.label, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def class_splits(table: Table, splits: Splits, classes: Sequence[str]) -> dict[str, SplitCounts]:
    """Images of each class in each split."""
    counts = [
        np.bincount(table.label[numbers], minlength=len(classes)).tolist()
        for numbers in (splits.train, splits.validation, splits.test)
    ]
    return {
        name: SplitCounts(train=train, validation=validation, test=test)
        for name, train, validation, test in zip(classes, *counts, strict=True)
    }


def duplicates_of(table: Table) -> Duplicates:
    """Images whose bytes, or whose pixels, are those of another."""
    starts, ends = _contents(table)
    repeated = ends - starts > 1
    hashes = table.file_sha256[repeated[table.content]]
    return Duplicates(
        same_bytes=len(hashes) - _distinct(hashes),
        same_pixels=len(table) - len(starts),
        examples=tuple(
            tuple(table.paths[starts[one] : min(ends[one], starts[one] + MAX_PATHS)])
            for one in np.flatnonzero(repeated)[:MAX_EXAMPLES]
        ),
    )


def conflicts_of(table: Table, codes: NDArray[np.uint8], classes: Sequence[str]) -> Conflicts:
    """What stands in more than one class or more than one given split, and how many images are left out for it."""
    starts, ends = _contents(table)
    examples: list[ConflictExample] = []
    counts: dict[ConflictKind, int] = {}
    for kind, column in _CONFLICTING.items():
        values = column(table)
        varied = np.flatnonzero(np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts))
        counts[kind] = len(varied)
        for one in varied[:MAX_EXAMPLES]:
            _, firsts = np.unique(values[starts[one] : ends[one]], return_index=True)
            examples.append(_example(table, kind, (starts[one] + firsts[:MAX_PATHS]).tolist(), classes))
    left_out = int((codes == LEFT_OUT).sum())
    return Conflicts(splits=counts["splits"], labels=counts["labels"], left_out=left_out, examples=tuple(examples))


_CONFLICTING: Mapping[ConflictKind, Callable[[Table], NDArray[Any]]] = {
    "labels": lambda table: table.label,
    "splits": lambda table: table.split,
}


def _example(table: Table, kind: ConflictKind, rows: Sequence[int], classes: Sequence[str]) -> ConflictExample:
    return ConflictExample(
        kind=kind,
        paths=tuple(table.paths[row] for row in rows),
        labels=tuple(classes[table.label[row]] for row in rows),
        splits=tuple(SPLIT_WORDS[table.split[row]] for row in rows),
    )


def _contents(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of each content start and end."""
    new = np.flatnonzero(np.diff(table.content)) + 1
    return np.concatenate(([0], new)), np.concatenate((new, [len(table)]))


def _distinct(hashes: NDArray[np.uint8]) -> int:
    ordered = hashes[np.lexsort(hash_keys(hashes))]
    return int(content_numbers(ordered).max(initial=-1)) + 1
