"""Small pictures that a small network can tell apart, and archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.conftest import png

CLASSES = ("고양이", "dog", "Zebra")


def picture(label: int, number: int, *, size: int = 12, kind: str = "PNG", **options: Any) -> bytes:
    """An image file: a bright bar at a place that the class decides, in noise that the number decides."""
    random = np.random.default_rng((label, number))
    pixels = random.integers(0, 60, (size, size, 3), dtype=np.uint8)
    pixels[:, 4 * label : 4 * label + 3, label] += 180
    return png(pixels, kind=kind, **options)


def picture_files(each: int = 20, *, prefix: str = "", first: int = 0, **options: Any) -> dict[str, bytes]:
    """Files by path, so many of each class."""
    return {
        f"{prefix}{name}/{number:03}.png": picture(label, first + number, **options)
        for label, name in enumerate(CLASSES)
        for number in range(each)
    }


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of these files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return target.getvalue()


def tar_of(files: Mapping[str, bytes], *, packing: str = "") -> bytes:
    """A tar archive of these files, packed as `gz` if you like."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{packing}") as archive:  # type: ignore[call-overload]
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()
