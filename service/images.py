"""Images of data sets as PNG files, whatever they were stored as."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from formats.datasets import POOL, TEST, VALIDATION, Pack, read_dataset
from formats.fingerprints import fingerprint_of
from formats.images import decode_original
from ingest.preview import Row, draw_preview
from service.schemas import DatasetImage, Page
from specs.datasets import BuiltinDataset
from specs.splits import split_contents

# One image of this size is answered; of more of them a page holds fewer.
PAGE_PIXELS = 16_000_000
PREVIEW_IMAGES = 8

Pixels = NDArray[np.uint8]


def brought_images(directory: Path, split: str, *, start: int, limit: int) -> Page[DatasetImage]:
    """A page of the images of a stored data set, from number `start` of the split on."""
    classes = read_dataset(directory).classes
    with Pack(directory) as pack:
        wanted = (TEST,) if split == "test" else (POOL, VALIDATION)
        numbers = [int(number) for number in np.flatnonzero(np.isin(pack.index.split, wanted))]
        chosen = _within_budget(pack, numbers[start : start + limit])
        paths = dict(zip(chosen, _paths(pack, chosen), strict=True))
        items = [
            DatasetImage(
                index=number,
                label=classes[pack.index.label[number]],
                path=paths[number],
                png=_png(_original(pack, number)),
            )
            for number in chosen
        ]
    return _page(items, start=start, total=len(numbers))


def _original(pack: Pack, number: int) -> Pixels:
    """An image of any size: the limit that counts was that of whoever took it in."""
    pixels = int(pack.index.width[number]) * int(pack.index.height[number])
    return decode_original(pack.image(number), max_pixels=pixels)


def _within_budget(pack: Pack, numbers: Sequence[int]) -> list[int]:
    """The first of these numbers whose images together have not too many pixels; at least one."""
    pixels = np.cumsum([int(pack.index.width[number]) * int(pack.index.height[number]) for number in numbers])
    return list(numbers[: max(1, int(np.searchsorted(pixels, PAGE_PIXELS)))])


def _paths(pack: Pack, numbers: Sequence[int]) -> Iterator[str]:
    if numbers:
        wanted = set(numbers)
        yield from (path for number, path in enumerate(islice(pack.paths(), max(numbers) + 1)) if number in wanted)


def builtin_images(dataset: BuiltinDataset, split: str, *, start: int, limit: int) -> Page[DatasetImage]:
    """A page of the images of a built-in data set, from number `start` of the split on."""
    pixels, labels = _read(dataset)
    chosen = _builtin_numbers(dataset, split)
    items = [
        DatasetImage(index=number, label=dataset.classes[labels[number]], png=_png(pixels[number]))
        for number in chosen[start : start + limit]
    ]
    return _page(items, start=start, total=len(chosen))


def _builtin_numbers(dataset: BuiltinDataset, split: str) -> list[int]:
    pixels, labels = _read(dataset)
    contents = [image.tobytes() for image in pixels]
    splits = split_contents(contents, labels.tolist(), seed=0, validation_fraction=0.5)
    return splits.test if split == "test" else sorted(splits.train + splits.validation)


def _page(items: list[DatasetImage], *, start: int, total: int) -> Page[DatasetImage]:
    end = start + len(items)
    return Page(items=items, next_cursor=str(end) if items and end < total else None)


@lru_cache(maxsize=4)
def builtin_preview(dataset: BuiltinDataset) -> bytes:
    """A PNG file with a few training images of each class."""
    pixels, labels = _read(dataset)
    training = np.asarray(_builtin_numbers(dataset, "train"))
    chosen = {label: training[labels[training] == label][:PREVIEW_IMAGES] for label in range(len(dataset.classes))}
    rows = [
        Row(name, dataset.class_images[label], [np.atleast_3d(pixels[number]) for number in chosen[label]])
        for label, name in enumerate(dataset.classes)
    ]
    return draw_preview(rows)


@lru_cache(maxsize=4)
def builtin_facts(dataset: BuiltinDataset) -> dict[str, Any]:
    """What a built-in data set says of itself beside what is known without reading it."""
    pixels, labels = _read(dataset)
    names = [dataset.classes[label] for label in labels]
    test = _builtin_numbers(dataset, "test")
    return {
        "fingerprint": fingerprint_of(pixels, names, test=test),
        "sizes": {"min": pixels.shape[1:3], "median": pixels.shape[1:3], "max": pixels.shape[1:3], "distinct": 1},
    }


def _read(dataset: BuiltinDataset) -> tuple[Pixels, NDArray[np.int64]]:
    read: Any = resolve_name(dataset.target)()
    pixels, labels = read
    return pixels, labels


def _png(pixels: Pixels) -> str:
    file = io.BytesIO()
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
