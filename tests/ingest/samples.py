"""Small images, and data sets made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.datasets import DatasetManifest
from ingest.datasets import Request, make_dataset
from ingest.members import Member, Rejected
from tests.conftest import png


def pixels(number: int, width: int = 5, height: int = 4, channels: int = 3) -> NDArray[np.uint8]:
    """Pixels that are the same for the same number and different for another."""
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image(number: int, *, kind: str = "PNG", **options: Any) -> bytes:
    """An image file of these pixels, written without loss."""
    drawn = pixels(number, **options)
    return png(drawn[..., 0] if drawn.shape[2] == 1 else drawn, kind=kind)


def folders(counts: dict[str, int], **options: Any) -> list[Member]:
    """So many images for each class, all different, each in the folder of its class."""
    names = [f"{label}/{number}.png" for label, count in counts.items() for number in range(count)]
    return [Member(name, image(number, **options)) for number, name in enumerate(names)]


def quiet(_phase: str, _done: int, _total: int | None) -> None:
    """A report that nobody reads."""


def made(directory: Path, members: Iterable[Member | Rejected], **options: Any) -> DatasetManifest:
    """The data set of these members in a new directory."""
    directory.mkdir(parents=True)
    return make_dataset(members, directory, Request(**{"id": "ds_1", "name": "pets", **options}), quiet)
